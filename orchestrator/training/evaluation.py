"""Measures a policy on held-out prompts: validation during training, and the final evaluation in free and forced modes.

In: sampler, grader, prompts. Out: figures. Must not know: the learner's insides, how prompts were made.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from conf.choices import Figure
from conf.masking import masked
from conf.schema import Config, EvaluateConf
from orchestrator.base.errors import RunError
from orchestrator.base.files import whole_folder, write_json
from orchestrator.base.interrupt import defer_signals
from orchestrator.base.observer import Observer, Record
from orchestrator.base.record import readable, write_record
from orchestrator.base.waiting import waiting
from orchestrator.tracking.console import progress
from orchestrator.tracking.metrics import describe
from orchestrator.tracking.tracker import Scored, Tracker
from orchestrator.training.run_dir import set_aside
from orchestrator.training.unjudged import VALIDATION, UnjudgedLog
from reward.grader import Grader
from reward.reward_function import reward_of
from reward.verdict import Verdict
from rollout.data.dataset_rows import HUB_SETS
from rollout.data.generated import mix
from rollout.mode import MODES, Mode, modes_of
from rollout.prompt import Prompt
from rollout.request import SamplingParams
from rollout.sampler import Sampler

SO_FAR = "evaluation_so_far.json"  # the ways that the final evaluation has measured, until it has all of them
Ways = Mapping[str, dict[str, dict[str, Any]]]
CHUNK = 512  # prompts sampled at a time, so that a long evaluation shows progress


def forced_modes(modes: Iterable[Mode]) -> dict[str, Mode | None]:
    """The ways to ask: the model chooses the mode, or it is given; the longest first."""
    return {"free": None, **{mode.name: mode for mode in reversed([*modes])}}


def measure(
    sampler: Sampler,
    grader: Grader,
    prompts: list[Prompt],
    samples: int,
    seed: int,
    sampling: SamplingParams,
    advance: Callable[[int], None] = lambda n: None,
) -> tuple[list[Scored], list[Verdict]]:
    """`samples` responses to each prompt: those with a verdict, and the outcomes of the others."""
    parts = [prompts[i : i + CHUNK] for i in range(0, len(prompts), CHUNK)]
    pending = [grader.ask(sampler.sample(part, samples, seed, sampling, urgent=True)) for part in parts]
    scored: list[Scored] = []
    failed: list[Verdict] = []
    for asked in pending:
        trajectories, verdicts = asked.batch.wait(), asked.wait()
        scored += [
            (t, v, reward_of(grader.conf, v, t.mode, len(t.token_ids)))
            for t, v in zip(trajectories, verdicts, strict=True)
            if v.outcome.judged
        ]
        failed += [verdict for verdict in verdicts if not verdict.outcome.judged]
        advance(len(trajectories))
    return scored, failed


def validated_of(state: Mapping[str, Any]) -> int:
    """The last step that was validated before a checkpoint with this state; -1: none."""
    return int(state.get("validated", state.get("step", -1)))  # older checkpoints were saved after it


class Validator(Observer):
    """Validates every k steps and before the first one, and keeps the best model's export."""

    def __init__(
        self,
        conf: Config,
        prompts: list[Prompt],
        sampler: Sampler,
        grader: Grader,
        tracker: Tracker,
        unjudged: UnjudgedLog,
        export: Callable[[Path], None],
        folder: Path,
        state: Mapping[str, Any],
    ):
        """state: of a resumed run, its checkpoint's; empty: a new run."""
        self.conf, self.prompts, self.samples = conf.evaluate, prompts, conf.validation.samples
        longest = conf.evaluate.max_response_tokens or conf.rollout.max_response_tokens
        self.sampling = SamplingParams(conf.evaluate.temperature, conf.evaluate.top_p, longest)
        self.sampler, self.grader, self.tracker, self.export, self.folder = sampler, grader, tracker, export, folder
        self.unjudged = unjudged
        self.best: dict[str, Any] = state.get("best") or {"step": -1, "reward": float("-inf")}
        self.done = validated_of(state)
        self.figures: dict[str, float | None] = state.get("validation") or {}  # of that step

    def begin(self, step: int) -> None:
        self.validate(step)

    def after_step(self, step: int) -> None:
        self.validate(step)

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"best": self.best, "validated": self.done, "validation": self.figures}

    def validate(self, step: int) -> Record | None:
        """Validate at `step` when it is due; steps already validated are not repeated."""
        if not self.conf.every or step % self.conf.every or not self.prompts or step <= self.done:
            return None
        with waiting(f"validation at step {step}"):
            scored, failed = measure(
                self.sampler, self.grader, self.prompts, self.samples, self.conf.seed, self.sampling
            )
        with defer_signals():
            return self._take(step, scored, failed)

    def _take(self, step: int, scored: list[Scored], failed: list[Verdict]) -> Record:
        """Write the record, and export the model when it is the best so far."""
        self.done = step
        if step == 0:
            self.tracker.before(scored)
        found = describe(scored)
        keep = ("reward/mean", "accuracy/all", "think_rate/all", "tokens/mean")
        self.figures = {one.value: found[key] for key, one in zip(keep, Figure, strict=True)}
        record: Record = {f"validation/{name}": figure for name, figure in self.figures.items()}
        record |= {f"validation/{key}": value for key, value in found.items() if "/level/" in key}
        record["validation/unjudged"] = len(failed)
        self.tracker.log(step, record)
        self.unjudged.tell(f"{VALIDATION} {step}", step, failed, len(scored) + len(failed))
        if found["no_mode"] == 1.0:
            raise RunError(
                f"none of {len(scored)} validation answers at step {step} begins with a control token, so there is "
                "nothing to learn from: warm the model up first (warmup.path=<pairs>, see conf/warmup/)"
            )
        reward = found["reward/mean"]
        if reward is not None and reward > self.best["reward"]:
            self.best = {"step": step, "reward": reward}
            with whole_folder(self.folder / "best") as partial:
                self.export(partial)
                write_json(partial / "validation.json", {**self.best, **record})
        return record


def evaluate_modes(
    label: str,
    sampler: Sampler,
    grader: Grader,
    prompts: list[Prompt],
    conf: EvaluateConf,
    max_response_tokens: int,
    unjudged: UnjudgedLog,
    step: int,
    console: bool = True,
    keep: Callable[[str, list[Scored]], None] = lambda way, scored: None,
    modes: Sequence[Mode] = MODES,
    measured: Ways = MappingProxyType({}),
    took: Callable[[Ways], None] = lambda ways: None,
) -> dict[str, dict[str, dict[str, Any]]]:
    """{free|the mode that is forced: {level: {n, problems, unjudged, accuracy, reward, think_rate, no_mode, truncated,
    tokens}}}; with more than two modes also the share of each, mode_rate/{mode}.

    n: answers with a verdict, which the figures are over (None where there are none); unjudged: the others. Prompts
    without a level count as "all". step: finished steps of the model. `keep` is given the judged answers of each way.
    measured: ways that an earlier process measured, as they were given to `took`, after each way; they are not asked
    again.
    """
    ways = {way: mode for way, mode in forced_modes(modes).items() if way not in measured}
    total = len(prompts) * conf.samples * len(ways)
    result: dict[str, dict[str, dict[str, Any]]] = {**measured}
    failed: dict[str, list[Verdict]] = {}
    with progress(total, label, enabled=console) as bar:
        for way, mode in ways.items():
            sampling = SamplingParams(conf.temperature, conf.top_p, max_response_tokens, mode)
            scored, failed[way] = measure(sampler, grader, prompts, conf.samples, conf.seed, sampling, bar.advance)
            keep(way, scored)
            result[way] = {
                level: _figures([s for s in scored if level_of(s[0].prompt) == level], count * conf.samples, modes)
                for level, count in questions(prompts).items()
            }
            took(result)
    for way, verdicts in failed.items():
        unjudged.tell(f"{label}, {way}", step, verdicts, len(prompts) * conf.samples)
    return result


def _figures(scored: list[Scored], asked: int, modes: Sequence[Mode]) -> dict[str, Any]:
    found = describe(scored, modes)
    return {
        "n": len(scored),
        "problems": len({t.prompt.uid for t, _, _ in scored}),
        "unjudged": asked - len(scored),
        "accuracy": found["accuracy/all"],
        "reward": found["reward/mean"],
        "think_rate": found["think_rate/all"],
        **{key: value for key, value in found.items() if key.startswith("mode_rate/")},
        "no_mode": found["no_mode"],
        "truncated": found["truncated"],
        "tokens": found["tokens/mean"],
    }


def level_of(prompt: Prompt) -> str:
    return prompt.level or "all"


def questions(prompts: list[Prompt]) -> dict[str, int]:
    """Level -> prompts of it, in order of difficulty."""
    counts = Counter(map(level_of, prompts))
    return {level: counts[level] for level in sorted(counts, key=lambda name: (len(name), name))}


def protocol(conf: Config, prompts: list[Prompt]) -> dict[str, Any]:
    """What `evaluate_modes` measures on, and how: written beside its figures, so that they can be compared.

    weights: each level's share of the mix: of training for generated questions, of these prompts otherwise.
    """
    data, generated, counts = conf.data, conf.data.path is None, questions(prompts)
    levels, weights = mix(data)
    shares = dict(zip(map(str, levels), weights, strict=True)) if generated else counts
    total = sum(shares.get(level, 0) for level in counts) or 1
    source = conf.validation if conf.validation.path is not None else data
    pinned = HUB_SETS.get(source.path) if isinstance(source.path, str) else None
    first, *others = dict.fromkeys(p.source for p in prompts) or [None]
    named = {key: getattr(source, key) or getattr(pinned, key, None) for key in ("revision", "subset", "split")}
    content = hashlib.sha256(json.dumps([[p.uid, p.problem, p.answer] for p in prompts]).encode()).hexdigest()
    return {
        "data": {"name": f"{first} and {len(others)} more" if others else first, "path": source.path}
        | {key: value for key, value in named.items() if value is not None}
        | {"held_out": not generated and source is data, "sha256": content},
        "levels": [*counts],
        "weights": {level: shares.get(level, 0) / total for level in counts},
        "questions": counts,
        "questions_per_level": conf.evaluate.questions if generated else None,
        "limit": conf.evaluate.questions,
        "samples": conf.evaluate.samples,
        "temperature": conf.evaluate.temperature,
        "top_p": conf.evaluate.top_p,
        "max_response_tokens": conf.evaluate.max_response_tokens or conf.rollout.max_response_tokens,
        "seed": conf.evaluate.seed,
        "rewards": {"function": conf.reward.function}
        if conf.reward.function is not None
        else {name: getattr(conf.reward, name) for name in ("correct_short", "correct_think", "wrong")}
        | ({"correct_between": [*conf.reward.correct_between]} if conf.reward.correct_between else {}),
    }


@dataclass(slots=True)
class Evaluator:
    """The before/after table: each model measured in free and in both forced modes, into evaluation.json.

    Of the final model each way is kept once it is measured, so that a resumed run goes on with the next.
    """

    conf: Config
    folder: Path
    sampler: Sampler
    grader: Grader
    prompts: list[Prompt]
    tracker: Tracker
    unjudged: UnjudgedLog

    def run(self, model: str) -> dict[str, Any]:
        """Measure `model` ("warmup" or "final"); empty when the configuration asks for none."""
        conf = self.conf
        if not conf.evaluate.final or not self.prompts:
            return {}
        path = self.folder / "evaluation.json"
        set_aside(path, "what it had measured before is not compared with")
        found = {"models": {}, **readable(path)}
        how = protocol(conf, self.prompts)
        found |= how
        so_far = self.folder / SO_FAR
        same = json.loads(json.dumps(masked(how)))  # as it is read back
        kept = readable(so_far) if model == "final" else {}

        def took(ways: Ways) -> None:
            if model == "final":
                self.tracker.files.check()
                write_record(so_far, {"how": same, "ways": ways})

        found["models"][model] = evaluate_modes(
            f"evaluation of the {model} model",
            self.sampler,
            self.grader,
            self.prompts,
            conf.evaluate,
            found["max_response_tokens"],
            self.unjudged,
            0 if model == "warmup" else conf.run.steps,
            conf.tracker.console,
            lambda way, scored: self.tracker.before(scored) if (model, way) == ("warmup", "free") else None,
            modes_of(conf.model.modes),
            kept["ways"] if kept.get("how") == same else {},
            took,
        )
        self.tracker.files.check()
        write_record(path, masked(found))
        so_far.unlink(missing_ok=True)
        return dict(found["models"][model])
