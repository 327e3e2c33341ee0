"""A rollout worker's request and result.

In: prompts, sibling numbers, sampling parameters. Out: `RolloutRequest` and `RolloutResult`; the latter in columns, so
that thousands of responses travel as a few arrays. Must not know: engines, workers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from conf.schema import RolloutConf
from rollout.mode import Mode
from rollout.prompt import Prompt
from rollout.trajectory import Finish, Trajectory

FINISHES = (Finish.STOP, Finish.LENGTH, Finish.ABORT)


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How to sample a batch. mode: force this control token; None: the policy chooses."""

    temperature: float
    top_p: float
    max_response_tokens: int  # control token included
    mode: Mode | None = None
    max_tokens_short: int | None = None  # further limits by the mode that was chosen; None: none
    max_tokens_think: int | None = None
    max_tokens_between: tuple[int, ...] = ()  # of each mode between, in order; (): none

    @classmethod
    def training(cls, conf: RolloutConf) -> SamplingParams:
        """As training samples."""
        caps = conf.max_tokens_short, conf.max_tokens_think, tuple(conf.max_tokens_between)
        return cls(conf.temperature, conf.top_p, conf.max_response_tokens, None, *caps)


@dataclass(frozen=True, slots=True, eq=False)
class RolloutRequest:
    """What one worker samples: response i is `siblings[i]` = (index into prompts, sibling number)."""

    batch: int  # number of the batch, unique; an older batch's sequences begin before those of a newer one
    step: int  # seeds follow from (run seed, prompt, sibling, step)
    min_version: int  # of the weights that may sample it
    prompts: tuple[Prompt, ...]
    siblings: tuple[tuple[int, int], ...]
    sampling: SamplingParams


@dataclass(frozen=True, slots=True, eq=False)
class RolloutResult:
    """The responses to a `RolloutRequest` in columns: n of them in its order, of `lengths[i]` tokens each."""

    lengths: np.ndarray  # i32[n]; 0: given up (see `RolloutWorker.abort`)
    token_ids: np.ndarray  # i32[sum of lengths], forced control tokens included
    behavior_logprobs: np.ndarray  # f32[sum of lengths], nats; 0 for a forced control token
    versions: np.ndarray  # i32[sum of lengths]
    modes: tuple[Mode | None, ...]  # n
    finishes: np.ndarray  # u8[n], index into FINISHES
    forced: bool
    tokens: int  # sampled ones
    begin: float  # seconds since the epoch, when its first sequence began
    end: float  # when its last one ended

    @property
    def seconds(self) -> float:
        return self.end - self.begin

    def trajectories(
        self, prompts: Sequence[Prompt], siblings: Sequence[int], first: int = 0
    ) -> list[Trajectory | None]:
        """One for each (prompt, sibling) of the request from its response `first` on; None where it was given up."""
        ends = np.cumsum(self.lengths).tolist()
        found: list[Trajectory | None] = []
        begin = ends[first - 1] if first else 0
        for i, end in enumerate(ends[first : first + len(prompts)], first):
            if end == begin:
                found.append(None)
                continue
            found.append(
                Trajectory(
                    prompts[i - first],
                    siblings[i - first],
                    self.token_ids[begin:end],
                    self.behavior_logprobs[begin:end],
                    self.modes[i],
                    FINISHES[self.finishes[i]],
                    self.versions[begin:end],
                    self.forced,
                )
            )
            begin = end
        return found


def derive_seed(run_seed: int, uid: str, sibling: int, step: int) -> int:
    """63 bits from (run seed, prompt, sibling, step), the same in every process."""
    digest = hashlib.blake2b(f"{run_seed}/{uid}/{sibling}/{step}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
