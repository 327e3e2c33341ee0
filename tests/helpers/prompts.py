"""Random prompts for a tokenizer of single characters."""

from __future__ import annotations

import numpy as np

from rollout.prompt import Prompt


def make_prompts(count: int, length: int = 12, seed: int = 0, spread: int = 4) -> list[Prompt]:
    """`count` prompts of random printable characters, `length` to `length + spread - 1` of them."""
    rng = np.random.default_rng(seed)
    ids = [rng.integers(8 + 32, 8 + 127, length + i % spread) for i in range(count)]
    return [
        Prompt(f"random/{seed}/{i}", "?", np.array([2, *characters, 3], np.int32), "1", "random")
        for i, characters in enumerate(ids)
    ]
