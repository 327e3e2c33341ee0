"""The learner's input: packed micro-batches.

Alignment: entry i of every [N] array belongs to token i of the row; a sequence is a prompt and its response.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from learner.loss import Totals


@dataclass(frozen=True, slots=True, eq=False)
class Sequence:
    """One prompt with its response, weighted for one optimizer step. P prompt tokens, T response tokens."""

    token_ids: np.ndarray  # i32[P + T]
    prompt_tokens: int  # P, at least 1
    weights: np.ndarray  # f32[T], of the surrogate (or of -log-prob in supervised fine-tuning)
    kl_weights: np.ndarray  # f32[T]
    advantage: float
    behavior_logprobs: np.ndarray  # f32[T]
    mode: float  # its effort (`rollout.mode`): 0 short, 1 think; -1 none

    def __len__(self) -> int:
        return len(self.token_ids)


@dataclass(frozen=True, slots=True, eq=False)
class MicroBatch:
    """Concatenated sequences in one row of N tokens; N <= max_tokens unless a single sequence is longer."""

    token_ids: np.ndarray  # i64[N]
    position_ids: np.ndarray  # i64[N], restart with each sequence
    lengths: tuple[int, ...]  # of the sequences, sum N
    response: np.ndarray  # bool[N]: the token belongs to a response
    control: np.ndarray  # bool[N]: the token is a response's t = 0
    modes: np.ndarray  # f32[N]: mode of the response the token belongs to
    weights: np.ndarray  # f32[N], zero on prompts
    kl_weights: np.ndarray  # f32[N]
    advantages: np.ndarray  # f32[N]
    behavior_logprobs: np.ndarray  # f32[N]

    def sequences(self) -> list[tuple[int, int]]:
        """(tokens, response tokens) of each."""
        starts = np.cumsum([0, *self.lengths[:-1]], dtype=np.intp)
        responses = np.add.reduceat(self.response, starts, dtype=np.int64)
        return list(zip(self.lengths, responses.tolist(), strict=True))

    def arrays(self) -> tuple[np.ndarray, ...]:
        """All [N] arrays."""
        return tuple(value for name in self.__slots__ if isinstance(value := getattr(self, name), np.ndarray))


@dataclass(frozen=True, slots=True, eq=False)
class TrainBatch:
    """One optimizer step: the same number M of micro-batches on every rank (M = 0: nothing to learn)."""

    ranks: tuple[tuple[MicroBatch, ...], ...]  # [R][M]
    totals: Totals
    sequences: int  # kept, informative
    tokens: int  # of these, prompts included

    @property
    def empty(self) -> bool:
        return self.sequences == 0
