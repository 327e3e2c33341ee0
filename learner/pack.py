"""Sequences packed to a token budget and balanced over ranks.

In: `Sequence`s of one optimizer step. Out: `TrainBatch`. Must not know: rewards, models, DeepSpeed.
"""

from __future__ import annotations

import heapq

import numpy as np

from learner.batch import MicroBatch, Sequence, TrainBatch
from learner.loss import Totals


def pack(sequences: list[Sequence], totals: Totals, max_tokens: int, num_ranks: int) -> TrainBatch:
    """Balance `sequences` over ranks by tokens, then fill micro-batches of at most `max_tokens`.

    Every rank gets the same number of micro-batches (collective calls must match); a rank without tokens gets one of
    weight zero. A sequence longer than the budget raises ValueError: its log-probs would not fit where the others do.
    """
    for sequence in sequences:
        if len(sequence) > max_tokens:
            raise ValueError(
                f"a sequence of {len(sequence)} tokens exceeds learner.max_tokens={max_tokens}: raise it, or lower "
                "rollout.max_response_tokens or data.max_prompt_tokens"
            )
    if not sequences:
        return TrainBatch(tuple(() for _ in range(num_ranks)), totals, 0, 0)
    filled = [_fill(share, max_tokens) for share in _balance(sequences, num_ranks)]
    count = max(map(len, filled))
    idle = _idle(sequences[0])
    ranks = [tuple(map(_micro_batch, rows)) + (idle,) * (count - len(rows)) for rows in filled]
    return TrainBatch(tuple(ranks), totals, len(sequences), sum(map(len, sequences)))


def _balance(sequences: list[Sequence], num_ranks: int) -> list[list[Sequence]]:
    """Longest first, each to the rank with the fewest tokens so far (ties: the lower rank)."""
    shares: list[list[Sequence]] = [[] for _ in range(num_ranks)]
    loads = [(0, rank) for rank in range(num_ranks)]
    for sequence in sorted(sequences, key=len, reverse=True):
        load, rank = heapq.heappop(loads)
        shares[rank].append(sequence)
        heapq.heappush(loads, (load + len(sequence), rank))
    return shares


def _fill(share: list[Sequence], max_tokens: int) -> list[list[Sequence]]:
    """First-fit decreasing (share is sorted, longest first)."""
    rows: list[list[Sequence]] = []
    room: list[int] = []
    for sequence in share:
        row = next((i for i, left in enumerate(room) if len(sequence) <= left), len(rows))
        if row == len(rows):
            rows.append([])
            room.append(max_tokens)
        rows[row].append(sequence)
        room[row] -= len(sequence)
    return rows


def _micro_batch(row: list[Sequence]) -> MicroBatch:
    def aligned(values: list[np.ndarray], dtype: type) -> np.ndarray:
        """Response values at their tokens, zero on prompts."""
        parts: list[np.ndarray] = []
        for sequence, value in zip(row, values, strict=True):
            parts += [np.zeros(sequence.prompt_tokens, dtype), value.astype(dtype)]
        return np.concatenate(parts)

    responses = [len(s) - s.prompt_tokens for s in row]
    return MicroBatch(
        token_ids=np.concatenate([s.token_ids for s in row]).astype(np.int64),
        position_ids=np.concatenate([np.arange(len(s), dtype=np.int64) for s in row]),
        lengths=tuple(len(s) for s in row),
        response=aligned([np.ones(n) for n in responses], bool),
        control=aligned([np.arange(n) == 0 for n in responses], bool),
        modes=aligned([np.full(n, s.mode) for s, n in zip(row, responses, strict=True)], np.int8),
        weights=aligned([s.weights for s in row], np.float32),
        kl_weights=aligned([s.kl_weights for s in row], np.float32),
        advantages=aligned([np.full(n, s.advantage) for s, n in zip(row, responses, strict=True)], np.float32),
        behavior_logprobs=aligned([s.behavior_logprobs for s in row], np.float32),
    )


def _idle(like: Sequence) -> MicroBatch:
    """A row that costs one token's forward pass and weighs nothing."""
    zeros = np.zeros(1, np.float32)
    return _micro_batch([Sequence(like.token_ids[:2], 1, zeros, zeros, 0.0, zeros, -1)])
