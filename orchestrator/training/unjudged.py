"""Answers without a verdict: told with their cause, written down, and too many of them end the run.

In: verdicts that are none. Out: lines for the console, unjudged.jsonl in the run folder, RunError. Must not know: how
answers are graded, files of metrics.

unjudged.jsonl has the first few failures of each cause, one object a line: step, during ("step 3", "validation at step
0"), outcome ("raised", "timed_out", "crashed"), error (one line), where (file:line in the reward function's file, or
null), about (the problem's uid, or answer and gold), traceback (with the first of a cause, or null). The counts of
every step are `unjudged`, `unjudged/raised`, `unjudged/timed_out` and `unjudged/crashed` in metrics.jsonl.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from conf.schema import RewardConf
from orchestrator.base.errors import RunError
from orchestrator.base.observer import FinishedStep, Observer
from orchestrator.tracking.line_files import LineFiles, drop_after
from reward.group import Group
from reward.verdict import Failure, Outcome, Verdict

FILE = "unjudged.jsonl"
VALIDATION = "validation at step"
STEPS = 3  # in a row with a share above reward.max_unjudged, after which the run ends
WRITTEN = 5  # failures of each cause
WORDS = {Outcome.RAISED: "raised", Outcome.TIMED_OUT: "timed out", Outcome.CRASHED: "crashed"}

Cause = tuple[Outcome, str]


class UnjudgedLog(Observer):
    """Prints and writes failures, the first of each cause with all that is known of it."""

    def __init__(
        self,
        conf: RewardConf,
        note: Callable[[str], None],
        files: LineFiles | None = None,
        step: int = 0,
        validated: int | None = None,
    ):
        """note: prints a line; files: where unjudged.jsonl is written, None: nowhere; step, validated: the last ones
        done before, of which a resumed run keeps the lines; None: the same step."""
        self.conf, self.note, self.files = conf, note, files
        self.first: str | None = None  # the first failure ever, in words
        self._seen: Counter[Cause] = Counter()
        if files is not None:
            last = step if validated is None else validated
            drop_after(
                files.folder / FILE, step, again=lambda row: row["step"] > last and VALIDATION in str(row.get("during"))
            )

    def step(self, done: FinishedStep) -> None:
        failed, asked = _failed(done.batch.judged)
        self.tell(f"step {done.number}", done.number, failed, asked)

    def tell(self, when: str, step: int, failed: Sequence[Verdict], asked: int) -> None:
        """Print how many failed, and each cause that is new; write the first few of each. when: e.g. "step 3"."""
        if not failed:
            return
        self.note(f"{when}: no verdict on {_share(failed, asked)} answers ({_counts(failed)})")
        lines = []
        for verdict in failed:
            cause = _cause(verdict)
            self._seen[cause] += 1
            if self._seen[cause] == 1:
                self.first = self.first or f"{_source(self.conf)}: {_words(verdict)}"
                self.note(f"  {_source(self.conf)}: {_words(verdict)}")
            if self._seen[cause] <= WRITTEN:
                about = asdict(verdict.failure) if verdict.failure else {}
                lines.append({"step": step, "during": when, "outcome": verdict.outcome.value, **about})
        if self.files is not None and lines:
            self.files.add(FILE, lines)


class UnjudgedLimit(Observer):
    """Ends a run of which too many answers get no verdict."""

    def __init__(self, conf: RewardConf, steps: int = STEPS, path: Path | None = None):
        """steps: that are still to come; path: of unjudged.jsonl, for the message."""
        self.conf, self.path = conf, path
        self._enough = min(STEPS, steps)
        self._in_a_row = 0

    def step(self, done: FinishedStep) -> None:
        self.check(done.number, done.batch.judged)

    def check(self, step: int, groups: Sequence[Group]) -> None:
        """RunError after STEPS steps in a row (or all, of a shorter run) with more than `reward.max_unjudged` of
        them."""
        failed, asked = _failed(groups)
        self._in_a_row = self._in_a_row + 1 if len(failed) > self.conf.max_unjudged * asked else 0
        if failed and self._in_a_row >= self._enough:
            (commonest, _), *_ = Counter(map(_cause, failed)).most_common(1)
            worst = next(verdict for verdict in failed if _cause(verdict) == commonest)
            row = f" for {self._in_a_row} steps in a row" if self._in_a_row > 1 else ""
            more = f" (more in {self.path})" if self.path is not None else ""
            raise RunError(
                f"step {step}: no verdict on {_share(failed, asked)} answers ({_counts(failed)}), more than "
                f"reward.max_unjudged={self.conf.max_unjudged:g}{row}: {_source(self.conf)}: {_words(worst)}; "
                f"{self._advice(worst)}{more}"
            )

    def _advice(self, verdict: Verdict) -> str:
        function, error = self.conf.function, verdict.failure.error if verdict.failure else ""
        if verdict.outcome is Outcome.RAISED and not error.startswith("MemoryError"):
            return "fix the function" if function else "please report this answer and its gold"
        limit = f"reward.timeout_s={self.conf.timeout_s:g}"
        if verdict.outcome is not Outcome.TIMED_OUT:
            limit = f"reward.memory_mib={self.conf.memory_mib}"
        return f"fix the function, or raise {limit}" if function else f"raise {limit}, or reward.max_unjudged"


def _failed(groups: Sequence[Group]) -> tuple[list[Verdict], int]:
    """Failures, and of how many answers."""
    failed = [verdict for group in groups for verdict in group.failed]
    return failed, len(failed) + sum(len(group.verdicts) for group in groups)


def _source(conf: RewardConf) -> str:
    return f"reward.function={conf.function}" if conf.function else "the grader"


def _cause(verdict: Verdict) -> Cause:
    """Failures of the same cause are told once: the same place in the code, or the same kind of error."""
    failure = verdict.failure or Failure("")
    kind = failure.error.partition(":")[0] if verdict.outcome is Outcome.RAISED else ""
    return verdict.outcome, failure.where or kind


def _words(verdict: Verdict) -> str:
    failure = verdict.failure or Failure("cause unknown")
    where = f" ({failure.where})" if failure.where else ""
    return f"{failure.error}{where}{f', on {failure.about}' if failure.about else ''}"


def _share(failed: Sequence[Verdict], asked: int) -> str:
    return f"{len(failed)} of {asked}" if len(failed) < asked else f"any of {asked}"


def _counts(failed: Sequence[Verdict]) -> str:
    counts = Counter(verdict.outcome for verdict in failed)
    return ", ".join(f"{counts[outcome]} {word}" for outcome, word in WORDS.items() if counts[outcome])
