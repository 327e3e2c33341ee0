"""Evaluates a warm-up while it runs: which mode the model chooses, what is right in each, how much of its short answers
is reasoning.

In: started parts, questions that are never trained on. Out: a line of warmup_evaluation.jsonl for each evaluation, the
same in one line for a person, and warnings. Must not know: how batches are made, checkpoints.

An evaluation changes nothing that is learnt: the weights go to the samplers, which answer with seeds of their own, and
the learner waits. So the weights at a step do not depend on what was evaluated before, and a resumed warm-up keeps the
lines of steps that it does again. The model is asked three times: it chooses the mode, it has to think, it has to be
short; leakage is that of the last.
"""

from __future__ import annotations

import functools
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from conf.schema import Config
from orchestrator.base.files import append
from orchestrator.base.interrupt import Interrupted, defer_signals, raise_signals
from orchestrator.base.line import read, written
from orchestrator.base.observer import Record
from orchestrator.cluster.parts import Parts
from orchestrator.tracking.line_files import drop_after
from orchestrator.tracking.summary import doubts, has_goals, pooled
from orchestrator.tracking.tracker import Scored
from orchestrator.training.evaluation import evaluate_modes, level_of
from orchestrator.training.unjudged import UnjudgedLog
from orchestrator.training.warmup_questions import Questions
from reward.leakage import CAUSES, Leakage, leakage, usual_length
from rollout.data.pairs import Pairs, short_answers
from rollout.data.tokens import decode_response
from rollout.mode import ControlTokens, Mode, modes_of, think_names
from rollout.prompt import Prompt

FILE = "warmup_evaluation.jsonl"
FREE = ("accuracy", "think_rate", "no_mode", "tokens", "truncated")  # figures of the free choice
FORCED = ("accuracy", "tokens", "truncated")  # and of a forced mode
WORDS = {"think": "thinking"}  # of a mode, where its name is none of its answers
BY_LEVEL = ("accuracy", "think_rate", "tokens")
SHORT_ANSWERS = 1000  # of the pairs, whose lengths bound those of short answers

Ways = Mapping[str, Mapping[str, Mapping[str, Any]]]  # as `evaluate_modes` returns them


class WarmupEvaluator:
    def __init__(
        self,
        conf: Config,
        parts: Parts,
        prompts: list[Prompt],
        decode: Callable[[Sequence[int]], str],
        longest: int | None,
        path: Path,
        steps: int,
        done: int,
        note: Callable[[str], None],
    ):
        """decode: ids of an answer behind its control token -> text; longest: see `leakage`; path: of the file of
        lines; steps: of the whole warm-up; done: of an earlier process, whose lines are kept; note: prints a line."""
        assert conf.warmup is not None
        self.conf, self.parts, self.prompts, self.decode = conf, parts, prompts, decode
        self.longest, self.path, self.steps, self.note = longest, path, steps, note
        self.every = conf.warmup.evaluate_every
        self.names, self.modes = think_names(conf.model), modes_of(conf.model.modes)
        self.unjudged = UnjudgedLog(conf.reward, note)
        if not done:
            path.unlink(missing_ok=True)
        drop_after(path, steps, note)  # a torn line, damaged ones
        lines = path.read_bytes().splitlines() if path.is_file() else []
        self.lines: dict[int, Record] = {line["step"]: line for line in map(read, lines)}

    def due(self, step: int) -> bool:
        """Every `warmup.evaluate_every` steps and after the last, once each."""
        return (step % self.every == 0 or step == self.steps) and step not in self.lines

    def evaluate(self, step: int) -> None:
        """The learner stands at `step`, with nothing under way. Raises Interrupted; nothing is written then."""
        begin = time.monotonic()
        with defer_signals():
            self.parts.weight_sync.start(step)
            self.parts.weight_sync.wait()
        leaks: dict[str, list[Leakage]] = {}

        def keep(way: str, scored: list[Scored]) -> None:
            if way == Mode.SHORT.name:
                for trajectory, _, _ in scored:
                    found = leakage(self.decode(trajectory.token_ids[1:].tolist()), self.longest, self.names)
                    leaks.setdefault(level_of(trajectory.prompt), []).append(found)

        conf = replace(self.conf.evaluate, samples=1)
        longest = conf.max_response_tokens or self.conf.rollout.max_response_tokens
        parts, label = self.parts, f"the warm-up's evaluation at step {step}"
        try:
            with raise_signals():
                ways = evaluate_modes(
                    label,
                    parts.sampler,
                    parts.grader,
                    self.prompts,
                    conf,
                    longest,
                    self.unjudged,
                    step,
                    False,
                    keep,
                    self.modes,
                )
        except Interrupted:
            parts.sampler.abort_all()
            raise
        self._take(step, record(ways, leaks) | {"validation/seconds": round(time.monotonic() - begin, 2)})

    def _take(self, step: int, figures: Record) -> None:
        line = {"step": step, "time": round(time.time(), 3), **figures}
        append(self.path, written(line))
        self.lines[step] = line
        for text in (in_words(line), *self.warnings(step)):
            self.note(f"warm-up: {text}")

    def warnings(self, step: int) -> list[str]:
        """One line each, see `doubts`."""
        line, begin = self.lines[step], "validation/accuracy/forced/think/level/"
        rates = [name for mode in self.modes if f"validation/{(name := f'mode_rate/{mode.name}')}" in line]
        chosen = ("think_rate", "no_mode", *rates)
        measured = {
            "think": {key.removeprefix(begin): {"accuracy": line[key]} for key in line if key.startswith(begin)},
            "free": {"all": {"n": 1, **{name: line[f"validation/{name}"] for name in chosen}}},
        }
        when = "after the warm-up" if step == self.steps else f"at step {step} of {self.steps} of the warm-up"
        return doubts(measured, has_goals(asdict(self.conf)), when)

    def summary(self) -> dict[str, Any]:
        """The last evaluation, for warmup.json."""
        last = max(self.lines)
        return {**self.lines[last], "longest_short_answer": self.longest, "warnings": self.warnings(last)}


def make_evaluator(
    conf: Config,
    parts: Parts,
    questions: Questions,
    prompts: list[Prompt],
    tokenizer: Any,
    control: ControlTokens,
    path: Path,
    steps: int,
    done: int,
    note: Callable[[str], None],
) -> WarmupEvaluator:
    """See `WarmupEvaluator` for the last four."""
    decode = functools.partial(decode_response, tokenizer, ends=control.ends)
    longest = longest_short_answer(questions.pairs)
    return WarmupEvaluator(conf, parts, prompts, decode, longest, path, steps, done, note)


def longest_short_answer(pairs: Pairs) -> int | None:
    """Characters that short answers keep to, see `leakage`; None: there are none among the pairs."""
    return usual_length(short_answers(pairs, SHORT_ANSWERS))


def record(ways: Ways, leaks: Mapping[str, Sequence[Leakage]]) -> Record:
    """Flat figures; leaks: of short answers, by level. Names: `orchestrator.tracking.metric_list.WARM_UP`."""
    free = ways["free"]
    rates = [name for name in next(iter(free.values())) if name.startswith("mode_rate/")]
    found: Record = {f"validation/{name}": value for name, value in pooled(free, (*FREE, *rates)).items()}
    for level, cell in free.items():
        found |= {f"validation/{name}/level/{level}": cell[name] for name in BY_LEVEL}
    for mode, cells in ways.items():
        if mode == "free":
            continue
        end = f"forced/{mode}"
        found |= {f"validation/{name}/{end}": value for name, value in pooled(cells, FORCED).items()}
        for level, cell in cells.items():
            found |= {f"validation/{name}/{end}/level/{level}": cell[name] for name in BY_LEVEL if name in FORCED}
    short = [leak for found_there in leaks.values() for leak in found_there]
    found["validation/leaked"] = _share(leak.leaked for leak in short)
    found |= {f"validation/leaked/level/{level}": _share(leak.leaked for leak in leaks[level]) for level in leaks}
    found |= {f"validation/leaked/{cause}": _share(cause in leak.causes for leak in short) for cause in CAUSES}
    found["validation/answers"] = sum(cell["n"] for cells in ways.values() for cell in cells.values())
    found["validation/unjudged"] = sum(cell["unjudged"] for cells in ways.values() for cell in cells.values())
    return found


def _share(values: Any) -> float | None:
    counts = Counter(values)
    return counts[True] / counts.total() if counts else None


def in_words(line: Mapping[str, Any]) -> str:
    """Example: "evaluation at step 200: thinks 48 %, no control token 0 %, right 81 % (thinking 97 %, ...), ..."."""

    def of(name: str, form: str = "{:.0f} %", factor: float = 100) -> str:
        value = line.get(f"validation/{name}")
        return "–" if value is None else form.format(factor * value)

    def each(name: str, *how: Any) -> str:
        begin = f"validation/{name}/forced/"
        forced = (key.removeprefix(begin) for key in line if key.startswith(begin) and "/level/" not in key)
        modes = ", ".join(f"{WORDS.get(mode, mode)} {of(f'{name}/forced/{mode}', *how)}" for mode in forced)
        return f"{of(name, *how)} ({modes})"

    return (
        f"evaluation at step {line['step']}: thinks {of('think_rate')}, no control token {of('no_mode')}, right "
        f"{each('accuracy')}, tokens {each('tokens', '{:,.1f}', 1)}, cut off {each('truncated')}, reasoning in short "
        f"answers {of('leaked', '{:.1f} %')}"
    )
