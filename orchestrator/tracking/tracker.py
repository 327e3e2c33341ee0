"""Where a run's figures go: metrics.jsonl, samples as text, the console, Ray's Prometheus end point.

In: flat records and groups. Out: lines in the run folder, each whole at once. Must not know: how figures come about.
"""

from __future__ import annotations

import math
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from conf.schema import TrackerConf
from learner.metrics.report import StepReport
from orchestrator.base.interrupt import EndedAtOnce
from orchestrator.base.observer import FinishedStep, Observer, Record
from orchestrator.cluster.hardware import memory_available_gib, memory_used_gib
from orchestrator.tracking.console import Console
from orchestrator.tracking.failures import Failures
from orchestrator.tracking.line_files import LineFiles, drop_after, drop_texts_after
from orchestrator.tracking.metrics import judged, mode_of
from orchestrator.tracking.sinks import trackers
from orchestrator.tracking.sinks.background import End
from reward.group import Group
from reward.verdict import Verdict
from rollout.mode import MODES, Mode
from rollout.trajectory import Trajectory

Scored = tuple[Trajectory, Verdict, float]  # with its reward
MEMORY_EVERY_S = 5.0  # looking through all processes takes a tenth of a second; at most
MEMORY_SHARE = 0.002  # of the time
BEFORE = 16  # answers written before training, at most
AT_ONCE_S = 5.0  # that trackers may take when a run has to end at once


def of_validation(record: Mapping[str, Any]) -> bool:
    """A line of metrics.jsonl is of a step or of a validation behind it."""
    return "seconds/step" not in record


class Tracker(Observer):
    def __init__(
        self,
        folder: Path,
        conf: TrackerConf,
        steps: int,
        start_step: int,
        decode: Any,
        samples: int,
        config: Mapping[str, Any] | None = None,
        others: Sequence[Failures] = (),
        modes: Sequence[Mode] = MODES,
        check: Callable[[], None] = lambda: None,
        validated: int | None = None,
    ):
        """decode: token ids -> text; samples: trajectories written per step; config: of the run, for trackers; others:
        failures of further parts of tracking, said and counted here; check: see `LineFiles`; validated: the last step
        that is, None: start_step. Lines that a run will write again are dropped."""
        self.folder, self.decode, self.samples = folder, decode, samples
        self.modes = modes
        self._began = start_step > 0
        self._memory_at = 0.0  # when the run's memory is looked at next
        self.console = Console(steps, start_step, conf.console, conf.progress)
        self._trackers = trackers(conf, folder, start_step, config or {})
        validated = start_step if validated is None else validated
        drop_after(
            folder / "metrics.jsonl", start_step, again=lambda row: of_validation(row) and row["step"] > validated
        )
        answered = start_step if validated >= 0 else start_step or -1  # the first validation writes answers as step 0
        drop_after(folder / "samples.jsonl", answered)
        drop_texts_after(folder / "samples.txt", answered)
        drop_after(folder / "bad_steps.jsonl", start_step)
        for name in ("metrics.jsonl", "samples.jsonl", "samples.txt"):
            (folder / name).touch()
        self.files = LineFiles(folder, check)
        self._unwritten = Counter[str]()  # of tracking/failures
        self._failures = [
            self.files.failures,
            self.console.failures,
            *others,
            *(tracker.failures for tracker in self._trackers),
        ]

    def step(self, done: FinishedStep) -> None:
        self.log(done.number, done.figures, done.values)
        self.show(done.number, done.batch.judged)
        self.bad_steps(done.number, done.report)

    def log(self, step: int, record: Record, values: Mapping[str, Sequence[float]] | None = None) -> None:
        """Write a line, and show and export its figures. values: of histograms, which only trackers get."""
        line: dict[str, Any] = {"step": step, "time": round(time.time(), 3), **record}
        if not of_validation(record) and time.monotonic() >= self._memory_at:
            begin = time.monotonic()
            line["memory/host_gib"] = memory_used_gib()
            end = time.monotonic()
            self._memory_at = end + max(MEMORY_EVERY_S, (end - begin) / MEMORY_SHARE)
        if not of_validation(record):
            line["memory/available_gib"] = memory_available_gib()
            line["disk/free_gib"] = round(shutil.disk_usage(self.folder).free / 2**30, 3)
            line |= self._news()
        self._write(line)
        self.console.step(line)
        for tracker in self._trackers:
            tracker.write(step, line, values or {})

    def _write(self, line: Mapping[str, Any]) -> None:
        """To metrics.jsonl; what was counted in lines that the disk did not take is in the next one that it takes."""
        failures = [key for key in line if key.startswith("tracking/failures/")]
        self._unwritten.update({key: line[key] for key in failures})
        whole = {**line, **{key: self._unwritten[key] for key in failures}}
        if self.files.add("metrics.jsonl", [whole]) and failures:
            self._unwritten.clear()

    def show(self, step: int, groups: list[Group]) -> None:
        """Write a few trajectories as text, first those of informative groups: one question in either mode, where one
        was sampled in both, then others, from different groups."""
        ordered = sorted(groups, key=lambda group: not group.informative)
        answers = [pairs for group in ordered if (pairs := judged([group]))]
        both = next((one for pairs in answers if len(one := either_mode(pairs, step)) == 2), [])
        if self.samples < 2:
            both = []
        others = [pairs for pairs in answers if not both or pairs[0][0].prompt.uid != both[0][0].prompt.uid]
        self._write_answers(step, [*both, *(pairs[step % len(pairs)] for pairs in others[: self.samples - len(both)])])

    def before(self, scored: Sequence[Scored]) -> None:
        """Write answers of the model that training begins with, as step 0; the first call of a run that begins counts.

        For each level one in either mode, where there is one.
        """
        if self._began:
            return
        self._began = True
        firsts = {(str(t.prompt.level), mode_of(t)): (t, v, r) for t, v, r in reversed(scored)}
        self._write_answers(0, [firsts[place] for place in sorted(firsts)][:BEFORE])

    def _write_answers(self, step: int, scored: Iterable[Scored]) -> None:
        lines, texts = [], []
        for trajectory, verdict, reward in scored:
            prompt, text = trajectory.prompt, self.decode(trajectory.token_ids)
            mode = trajectory.mode.name if trajectory.mode else None
            line = {
                "step": step,
                "uid": prompt.uid,
                "level": prompt.level,
                "problem": prompt.problem,
                "response": text,
                "mode": mode,
                "outcome": verdict.outcome.value,
                "reward": reward,
                "answer": prompt.answer,
            }
            lines.append(line)
            texts.append(
                f"--- step {step}, {prompt.uid}, level {prompt.level}, {mode or 'no mode'}, "
                f"{verdict.outcome.value}, reward {reward:g}, gold {prompt.answer}\n{prompt.problem}\n{text}\n\n"
            )
        if lines:
            self.files.add("samples.jsonl", lines)
            self.files.append("samples.txt", "".join(texts))

    def bad_steps(self, step: int, report: StepReport | None) -> None:
        """Write the sequences of skipped optimizer steps to bad_steps.jsonl."""
        if report is None or not report.skipped:
            return
        lines = [
            {
                "step": step,
                "update": one.update,
                "rank": one.rank,
                "reason": one.reason,
                "mode": next(
                    (mode.name for mode in self.modes if math.isclose(mode.effort, one.mode, abs_tol=1e-6)), None
                ),
                "advantage": one.advantage,
                "smallest_logprob": one.smallest_logprob if math.isfinite(one.smallest_logprob) else None,
                "text": self.decode(one.token_ids),
                "token_ids": one.token_ids.tolist(),
            }
            for one in report.nonfinite
        ]
        self.files.add("bad_steps.jsonl", lines)
        self.note(f"step {step}: {report.skipped} optimizer step(s) skipped for a non-finite loss or gradient")

    def _news(self) -> Record:
        """What failed since the last line; the first time of each part is said."""
        record: Record = {}
        for failures in self._failures:
            record[f"tracking/failures/{failures.name}"], said = failures.news()
            if said:
                self.note(said)
        return record

    def note(self, text: str) -> None:
        self.console.note(text)

    def close(self, error: BaseException | None = None) -> None:
        """error: what ended the run."""
        end = End.finished if error is None else End.interrupted if isinstance(error, KeyboardInterrupt) else End.failed
        for tracker in self._trackers:
            tracker.close(end, AT_ONCE_S if isinstance(error, EndedAtOnce) else None)
        self._news()
        self.console.close()


def either_mode(pairs: Sequence[Scored], step: int) -> list[Scored]:
    """One answer that thinks and one short one, as far as there are; which of several, the step decides."""
    modes = [[one for one in pairs if one[0].mode == mode] for mode in (Mode.THINK, Mode.SHORT)]
    return [answers[step % len(answers)] for answers in modes if answers]
