"""Sequences packed to a token budget and balanced over ranks by their cost.

In: `Sequence`s of one optimizer step. Out: `TrainBatch`, and statistics of the packing. Must not know: rewards, models,
DeepSpeed.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from learner.data.batch import MicroBatch, Sequence, TrainBatch
from learner.data.flops import Cost, tokens_only
from learner.data.shared_prefix import by_prompt, order
from learner.loss import Totals

PADDING = 1.3  # of sequences that attention pads together, the longest is at most this many times the shortest


def pack(
    sequences: list[Sequence],
    totals: Totals,
    max_tokens: int,
    num_ranks: int,
    cost: Cost = tokens_only,
    siblings_together: bool = False,
) -> TrainBatch:
    """Balance `sequences` over ranks by `cost`, then fill micro-batches of at most `max_tokens` tokens.

    siblings_together: sequences with the same prompt go to one rank, which computes the prompt once. Prompts are then
    balanced instead of sequences, so this suits few siblings and many prompts.

    Every rank gets the same number of micro-batches (collective calls must match); a rank without tokens gets one of
    weight zero. A sequence longer than the budget raises ValueError, since its log-probs might not fit in memory. The
    result depends only on the arguments.
    """
    if not sequences:
        return TrainBatch(tuple(() for _ in range(num_ranks)), totals, 0, 0)
    lengths = [len(sequence) for sequence in sequences]
    if max(lengths) > max_tokens:
        raise ValueError(
            f"a sequence of {max(lengths)} tokens exceeds learner.max_tokens={max_tokens}: raise it, or lower "
            "rollout.max_response_tokens or data.max_prompt_tokens"
        )
    costs = [cost(length, length - s.prompt_tokens) for length, s in zip(lengths, sequences, strict=True)]
    units = by_prompt(sequences) if siblings_together else [[i] for i in range(len(sequences))]
    divided = balanced([sum(costs[i] for i in unit) for unit in units], num_ranks)
    shares = [[sequences[i] for u in share for i in units[u]] for share in divided]
    filled = [_fill([share[i] for i in order(share)], max_tokens) for share in shares]
    count = max(map(len, filled))
    idle = _idle(sequences[0])
    ranks = [tuple(map(_micro_batch, rows)) + (idle,) * (count - len(rows)) for rows in filled]
    return TrainBatch(tuple(ranks), totals, len(sequences), sum(lengths))


def balanced(costs: list[int], parts: int) -> list[list[int]]:
    """Indices of `costs`, ascending, in `parts` lists of nearly equal sums: largest differencing (Karmarkar and Karp).

    Each item starts as a partition with `parts` sums, all but one zero. The two partitions with the largest gaps are
    merged, the largest sum of one with the smallest of the other, until one partition is left. Its gap never exceeds
    the largest cost. Time and memory grow with items x parts.
    """
    count = len(costs)
    if parts == 1:
        return [list(range(count))]
    items = sorted(range(count), key=lambda i: -costs[i])
    heap = [(-float(costs[i]), age) for age, i in enumerate(items)]  # (-gap, partition), larger costs first
    made: dict[int, np.ndarray] = {}  # partition -> its sums f64[parts], negative, so that ascending is largest first
    joins: list[tuple[int, int, np.ndarray]] = []  # partition count + k: the two merged, and how the parts were sorted

    def sums(division: int) -> np.ndarray:
        if division >= count:
            return made.pop(division)
        alone = np.zeros(parts)
        alone[0] = -costs[items[division]]
        return alone

    while len(heap) > 1:
        (_, one), (_, other) = heapq.heappop(heap), heapq.heappop(heap)
        both = sums(one) + sums(other)[::-1]
        order = both.argsort(kind="stable")
        division, both = count + len(joins), both[order]
        made[division] = both
        joins.append((one, other, order.astype(np.uint16 if parts < 2**16 else np.intp)))
        heapq.heappush(heap, (float(both[0] - both[-1]), division))
    lists = {heap[0][1]: np.arange(parts)}  # partition -> the list of each of its parts, traced back from the last one
    found: list[list[int]] = [[] for _ in range(parts)]
    while lists:
        division, mine = lists.popitem()
        if division < count:
            found[mine[0]].append(items[division])
            continue
        one, other, order = joins[division - count]
        back = np.empty_like(order)
        back[order] = mine
        lists[one], lists[other] = back, back[::-1]
    return [sorted(part) for part in found]


def buckets(lengths: list[int] | tuple[int, ...]) -> list[list[int]]:
    """Indices of a row's sequences that attention pads to one length, shortest first."""
    order, found = sorted(range(len(lengths)), key=lengths.__getitem__), []
    while order:
        longest = max(int(lengths[order[0]] * PADDING), 8)
        found.append([i for i in order if lengths[i] <= longest])
        order = order[len(found[-1]) :]
    return found


@dataclass(frozen=True, slots=True)
class Packing:
    """Quality of an update's packing; idle rows count."""

    padding: float  # fraction of the cells in attention's buckets without a token
    fill: float  # tokens over the rows' capacity
    imbalance: float  # cost of the costliest rank over the mean; 1 is even


def packing(batches: Iterable[TrainBatch], max_tokens: int, cost: Cost = tokens_only) -> Packing:
    """Of one update's batches. Ranks wait for each other at every optimizer step, so each step's costliest counts."""
    cells = tokens = rows = worst = total = 0.0
    for batch in batches:
        spent = []
        for rank in batch.ranks:
            spent.append(sum(cost(*one) for mb in rank for one in mb.sequences()))
            for mb in rank:
                cells += sum(len(bucket) * mb.lengths[bucket[-1]] for bucket in buckets(mb.lengths))
                tokens += sum(mb.lengths)
                rows += 1
        worst += max(spent)
        total += sum(spent) / len(spent)
    if not tokens:
        return Packing(0.0, 1.0, 1.0)
    return Packing(1 - tokens / cells, tokens / (rows * max_tokens), worst / total)


def _fill(share: list[Sequence], max_tokens: int) -> list[list[Sequence]]:
    """First fit: each sequence, in order, into the first row with room, in O(log rows)."""
    most = min(len(share), 2 * sum(map(len, share)) // max_tokens + 1)  # rows: all but one are more than half full
    leaves = 1 << max(most - 1, 0).bit_length()
    room = [max_tokens] * (2 * leaves)  # a tournament tree: room[i] is the larger of room[2i], room[2i + 1]
    rows: list[list[Sequence]] = []
    for sequence in share:
        length, node = len(sequence), 1
        while node < leaves:
            node *= 2
            node += room[node] < length
        if node - leaves == len(rows):
            rows.append([])
        rows[node - leaves].append(sequence)
        room[node] -= length
        while node > 1:
            node //= 2
            room[node] = max(room[2 * node], room[2 * node + 1])
    return rows


def _micro_batch(row: list[Sequence]) -> MicroBatch:
    lengths = np.array([len(s) for s in row])
    starts = np.cumsum(lengths) - lengths
    offsets = np.arange(lengths.sum()) - np.repeat(starts, lengths)  # within the sequence
    after_prompt = offsets - np.repeat([s.prompt_tokens for s in row], lengths)
    response = after_prompt >= 0

    def aligned(values: list[np.ndarray]) -> np.ndarray:
        """f32[N]: response values at their tokens, zero on prompts."""
        found = np.zeros(len(response), np.float32)
        found[response] = np.concatenate(values)
        return found

    def repeated(values: list[float], dtype: type) -> np.ndarray:
        """The sequence's value at its response tokens, zero on prompts."""
        return np.where(response, np.repeat(np.array(values, dtype), lengths), np.zeros((), dtype))

    return MicroBatch(
        token_ids=np.concatenate([s.token_ids for s in row]).astype(np.int64),
        position_ids=offsets,
        lengths=tuple(lengths.tolist()),
        response=response,
        control=after_prompt == 0,
        modes=repeated([s.mode for s in row], np.float32),
        weights=aligned([s.weights for s in row]),
        kl_weights=aligned([s.kl_weights for s in row]),
        advantages=repeated([s.advantage for s in row], np.float32),
        behavior_logprobs=aligned([s.behavior_logprobs for s in row]),
    )


def _idle(like: Sequence) -> MicroBatch:
    """A row with one token and weight zero."""
    zeros = np.zeros(1, np.float32)
    return _micro_batch([Sequence(like.token_ids[:2], 1, zeros, zeros, 0.0, zeros, -1)])
