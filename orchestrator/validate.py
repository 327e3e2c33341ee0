"""Measures a policy on held-out prompts: validation during training, and the final evaluation in free and forced modes.

In: sampler, reward panel, prompts. Out: figures. Must not know: the learner's insides, how prompts were made.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from conf.schema import EvaluateConf
from orchestrator.console import progress
from orchestrator.errors import RunError
from orchestrator.metrics import Record, describe
from orchestrator.tracker import Tracker
from reward.panel import Panel
from reward.scheme import reward_of
from reward.verdict import Verdict
from rollout.mode import Mode
from rollout.prompt import Prompt
from rollout.sampler import Sampler
from rollout.share import Sampling
from rollout.trajectory import Trajectory

CHUNK = 512  # prompts asked for at one time, so that a long evaluation shows progress
WAYS: dict[str, Mode | None] = {"free": None, "think": Mode.THINK, "short": Mode.SHORT}

Scored = tuple[Trajectory, Verdict, float]


def measure(
    sampler: Sampler,
    panel: Panel,
    prompts: list[Prompt],
    samples: int,
    seed: int,
    sampling: Sampling,
    advance: Callable[[int], None] = lambda n: None,
) -> list[Scored]:
    """`samples` judged responses to each prompt; those whose check timed out or crashed are left out."""
    parts = [prompts[i : i + CHUNK] for i in range(0, len(prompts), CHUNK)]
    pending = [panel.ask(sampler.sample(part, samples, seed, sampling, urgent=True)) for part in parts]
    scored: list[Scored] = []
    for asked in pending:
        trajectories, verdicts = asked.batch.wait(), asked.wait()
        scored += [
            (t, v, reward_of(panel.conf, v, t.mode, len(t.token_ids)))
            for t, v in zip(trajectories, verdicts, strict=True)
            if v.outcome.judged
        ]
        advance(len(trajectories))
    return scored


class Validator:
    """Validates every k steps, before the first step too, and keeps the best model's export."""

    def __init__(
        self,
        conf: EvaluateConf,
        prompts: list[Prompt],
        samples: int,
        sampling: Sampling,
        sampler: Sampler,
        panel: Panel,
        tracker: Tracker,
        export: Callable[[Path], None],
        folder: Path,
        best: dict[str, Any] | None = None,
        done: int = -1,
    ):
        """best, done: of a resumed run, the best validation so far and the last step that was validated."""
        self.conf, self.prompts, self.samples, self.sampling = conf, prompts, samples, sampling
        self.sampler, self.panel, self.tracker, self.export, self.folder = sampler, panel, tracker, export, folder
        self.best: dict[str, Any] = best or {"step": -1, "reward": float("-inf")}
        self.done = done

    def validate(self, step: int) -> Record | None:
        """The validation record of `step`, when one is due; already done steps are not repeated."""
        if not self.conf.every or step % self.conf.every or not self.prompts or step <= self.done:
            return None
        self.done = step
        scored = measure(self.sampler, self.panel, self.prompts, self.samples, self.conf.seed, self.sampling)
        found = describe(scored)
        keep = ("reward/mean", "accuracy/all", "think_rate/all", "tokens/mean")
        names = ("reward", "accuracy", "think_rate", "tokens")
        record: Record = {f"validation/{name}": found[key] for key, name in zip(keep, names, strict=True)}
        record |= {f"validation/{key}": value for key, value in found.items() if "/level/" in key}
        self.tracker.log(step, record)
        if found["no_mode"] == 1.0:
            raise RunError(
                f"none of {len(scored)} validation answers at step {step} begins with a control token, so there is "
                "nothing to learn from: warm the model up first (warmup.path=<pairs>, see conf/warmup/)"
            )
        reward = found["reward/mean"]
        if reward is not None and reward > self.best["reward"]:
            self.best = {"step": step, "reward": reward}
            target = self.folder / "best"
            partial = self.folder / ".best.partial"
            shutil.rmtree(partial, ignore_errors=True)
            self.export(partial)
            (partial / "validation.json").write_text(json.dumps({**self.best, **record}, indent=1))
            shutil.rmtree(target, ignore_errors=True)
            partial.rename(target)
        return record


def evaluate_modes(
    label: str,
    sampler: Sampler,
    panel: Panel,
    prompts: list[Prompt],
    conf: EvaluateConf,
    max_response_tokens: int,
    console: bool = True,
) -> dict[str, dict[str, dict[str, float]]]:
    """{free|think|short: {level: {n, accuracy, reward, think_rate, tokens}}}; prompts without a level count as
    "all"."""
    total = len(prompts) * conf.samples * len(WAYS)
    result = {}
    with progress(total, label, enabled=console) as bar:
        for way, mode in WAYS.items():
            sampling = Sampling(conf.temperature, conf.top_p, max_response_tokens, mode)
            scored = measure(sampler, panel, prompts, conf.samples, conf.seed, sampling, bar.advance)
            levels = {t.prompt.level or "all" for t, _, _ in scored}
            result[way] = {
                level: _figures([s for s in scored if (s[0].prompt.level or "all") == level])
                for level in sorted(levels)
            }
    return result


def _figures(scored: list[Scored]) -> dict[str, Any]:
    found = describe(scored)
    return {
        "n": len(scored),
        "accuracy": found["accuracy/all"],
        "reward": found["reward/mean"],
        "think_rate": found["think_rate/all"],
        "tokens": found["tokens/mean"],
    }
