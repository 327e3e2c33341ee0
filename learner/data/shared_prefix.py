"""Computes a prompt once for all its siblings in one row.

In: sequences, or a packed row of them. Out: an order that brings siblings together, and for each token of a row the one
whose hidden states it shares. A token's hidden states depend only on the tokens before it, so equal prompts have equal
ones: the layers process them once, every sibling attends to them, and the gradients of all siblings add up there. Must
not know: models, attention.
"""

from __future__ import annotations

import numpy as np

from learner.data.batch import MicroBatch, Sequence

WORTH = 0.05  # fraction of repeated prompt tokens above which prompts are shared and siblings packed together


def order(sequences: list[Sequence]) -> list[int]:
    """Indices of a rank's sequences in packing order: longest first (best filled rows, least padding in attention); if
    prompts repeat enough, siblings together, ordered by their longest sequence."""
    longest_first = sorted(range(len(sequences)), key=lambda i: -len(sequences[i]))
    groups = [[longest_first[i] for i in group] for group in by_prompt([sequences[i] for i in longest_first])]
    repeated = sum((len(group) - 1) * sequences[group[0]].prompt_tokens for group in groups)
    if repeated <= WORTH * sum(map(len, sequences)):
        return longest_first
    return [i for group in groups for i in group]


def by_prompt(sequences: list[Sequence]) -> list[list[int]]:
    """Indices of the sequences of each prompt, prompts in order of first appearance."""
    groups: dict[bytes, list[int]] = {}
    for i, one in enumerate(sequences):
        groups.setdefault(_prompt(one.token_ids, one.prompt_tokens), []).append(i)
    return list(groups.values())


def origins(mb: MicroBatch) -> np.ndarray | None:
    """i64[N]: the token whose hidden states each token uses: itself, or the first sibling's equal token. None if
    prompts repeat too little to be worth gathering."""
    found, seen, start = np.arange(len(mb.token_ids)), dict[bytes, int](), 0
    for length, responses in mb.sequences():
        size = length - responses
        first = seen.setdefault(_prompt(mb.token_ids[start:], size), start)
        found[start : start + size] = np.arange(first, first + size)
        start += length
    shared = np.count_nonzero(found != np.arange(len(found)))
    return found if shared > WORTH * len(found) else None


def repeated(mb: MicroBatch) -> int:
    """Number of tokens of a row that are not computed."""
    found = origins(mb)
    return 0 if found is None else int(np.count_nonzero(found != np.arange(len(found))))


def _prompt(token_ids: np.ndarray, size: int) -> bytes:
    return token_ids[:size].tobytes()
