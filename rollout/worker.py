"""One rollout worker: the body of a Ray actor around one engine, and as good without Ray.

In: prompts with sibling numbers; weights. Out: trajectories with the version that sampled them. Must not know: other
workers, rewards, Ray.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass

import numpy as np

from conf.schema import ModelConf, RolloutConf
from rollout.engine import Engine, Request, Sample
from rollout.mode import ControlTokens, Mode
from rollout.prompt import Prompt
from rollout.trajectory import Finish, Trajectory
from rollout.weights import Weights


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to sample a batch. mode: force this control token; None: the policy chooses."""

    temperature: float
    top_p: float
    max_response_tokens: int  # control token included
    mode: Mode | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Sampled:
    """A worker's share of a batch, in the order it was asked for."""

    trajectories: list[Trajectory]
    tokens: int  # response tokens
    seconds: float


class RolloutWorker:
    def __init__(self, conf: RolloutConf, model: ModelConf, path: str, control: ControlTokens, seed: int):
        self.control, self.seed = control, seed
        self.engine = Engine(conf, model, path, control.eos)

    def ready(self) -> int:
        return self.engine.version

    def close(self) -> None:
        self.engine.close()

    def load(self, weights: Weights) -> float:
        """Take new weights; returns the seconds it took."""
        begin = time.monotonic()
        self.engine.load(weights)
        return time.monotonic() - begin

    def sample(self, prompts: list[Prompt], siblings: list[int], step: int, sampling: Sampling) -> Sampled:
        """One response for each (prompt, sibling); the seed follows from (run seed, prompt, sibling, step)."""
        begin = time.monotonic()
        forced = [self.control.id_of(sampling.mode)] if sampling.mode else []
        requests = [
            Request(
                [*prompt.token_ids, *forced],
                sampling.max_response_tokens - len(forced),
                sampling.temperature,
                sampling.top_p,
                derive_seed(self.seed, prompt.uid, sibling, step),
            )
            for prompt, sibling in zip(prompts, siblings, strict=True)
        ]
        version = self.engine.version
        samples = self.engine.generate(requests)
        trajectories = [
            self._trajectory(prompt, sibling, sample, forced, version)
            for prompt, sibling, sample in zip(prompts, siblings, samples, strict=True)
        ]
        return Sampled(trajectories, sum(len(s.token_ids) for s in samples), time.monotonic() - begin)

    def _trajectory(self, prompt: Prompt, sibling: int, sample: Sample, forced: list[int], version: int) -> Trajectory:
        finish = Finish.STOP if sample.stopped else Finish.ABORT if sample.aborted else Finish.LENGTH
        token_ids = np.concatenate([np.asarray(forced, np.int32), sample.token_ids])
        return Trajectory(
            prompt=prompt,
            sibling=sibling,
            token_ids=token_ids,
            behavior_logprobs=np.concatenate([np.zeros(len(forced), np.float32), sample.logprobs]),
            mode=self.control.mode_of(int(token_ids[0])),
            finish=finish,
            versions=(version, version),
            forced=bool(forced),
        )


def derive_seed(run_seed: int, uid: str, sibling: int, step: int) -> int:
    """63 bits from (run seed, prompt, sibling, step), the same in every process."""
    digest = hashlib.blake2b(f"{run_seed}/{uid}/{sibling}/{step}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
