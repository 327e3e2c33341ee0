"""Sequences whose loss or gradient is not finite, and the part of the gradient that comes from control tokens.

In: each micro-batch's per-token losses and the gradient of its last hidden states. Out: `NonfiniteSequence`s, and the
gradient's squared norm split by what its rows predict. Numbers stay on the device until they are read. Must not know:
models, optimizers, files.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from learner.data.batch import MicroBatch
from learner.metrics.report import NonfiniteSequence

MOST = 16  # sequences kept per update and rank


class NonfiniteWatch:
    """`take` each micro-batch before its backward pass; `step` after each optimizer step."""

    def __init__(self, rank: int, scale: float):
        """scale: the factor already applied to the gradients passed here (DeepSpeed averages over ranks)."""
        self.rank, self.scale = rank, scale
        self.kept: list[NonfiniteSequence] = []  # of skipped optimizer steps
        self._squares: list[Tensor] = []  # [control, response] of each micro-batch
        self._seen: list[tuple[MicroBatch, Tensor, str]] = []  # of this optimizer step: bool[N], where not finite
        self._mb: MicroBatch | None = None
        self._start = 0

    def take(self, mb: MicroBatch, start: int, losses: Tensor) -> None:
        """losses: f32[N] per token; start: the row's first token whose hidden states this rank has."""
        self._mb, self._start = mb, start
        self._seen.append((mb, ~torch.isfinite(losses.detach()), "loss"))

    def gradient(self, gradient: Tensor) -> None:
        """The gradient of the last hidden states, [n, H]: row j predicts token start + j + 1."""
        assert self._mb is not None
        squares = gradient.detach().float().pow(2).sum(-1) / self.scale**2  # [n]
        first, count = self._start + 1, len(self._mb.control)
        control = torch.zeros(len(squares), dtype=torch.bool)
        ahead = torch.as_tensor(self._mb.control[first : first + len(squares)])
        control[: len(ahead)] = ahead
        control = control.to(squares.device)
        self._squares.append(torch.stack([squares[control].sum(), squares[~control].sum()]).double())
        bad = torch.zeros(count + 1, dtype=torch.bool, device=squares.device)
        bad[first : first + len(squares)] = ~torch.isfinite(squares)
        self._seen.append((self._mb, bad[:count], "gradient"))

    def step(self, applied: bool, batch: tuple[MicroBatch, ...], update: int) -> None:
        """Keep what was found if optimizer step `update` was skipped.

        If nothing was found, rank 0 reports all its sequences: the gradient overflowed inside the layers.
        """
        seen, self._seen = self._seen, []
        if applied:
            return
        found: list[NonfiniteSequence] = []
        for mb, bad, reason in seen:
            known = {one.token_ids.tobytes() for one in found}
            here = _sequences(mb, bad.cpu().numpy(), reason, update, self.rank)
            found += [one for one in here if one.token_ids.tobytes() not in known]
        if not found and self.rank == 0:
            for mb in batch:
                found += _sequences(mb, np.ones(len(mb.token_ids), bool), "step", update, self.rank)
        self.kept += found[:MOST]

    def squares(self) -> tuple[float, float]:
        """The squared norm of the gradient's rows that predict control tokens, and of all other rows."""
        if not self._squares:
            return 0.0, 0.0
        control, response = torch.stack(self._squares).sum(0).tolist()
        return control, response


def _sequences(mb: MicroBatch, bad: np.ndarray, reason: str, update: int, rank: int) -> list[NonfiniteSequence]:
    """The sequences of a micro-batch with a token for which `bad`, bool[N], is set."""
    found, start = [], 0
    for length in mb.lengths:
        here = slice(start, start + length)
        start += length
        if bad[here].any():
            at = np.flatnonzero(mb.response[here])
            first = int(at[0]) if len(at) else 0
            behavior = mb.behavior_logprobs[here][at]
            found.append(
                NonfiniteSequence(
                    update=update,
                    rank=rank,
                    reason=reason,
                    token_ids=mb.token_ids[here].astype(np.int32),
                    mode=float(mb.modes[here][first]),
                    advantage=float(mb.advantages[here][first]),
                    smallest_logprob=float(behavior.min()) if len(behavior) else float("nan"),
                )
            )
    return found
