"""Parts of the section `model` of the configuration (see `conf.schema`): a random model's shape, adapters.

In: nothing. Out: dataclasses whose comments are the help. Must not know: Hydra, files, other packages.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from conf.ranges import number


@dataclass
class RandomModelConf:
    """A Qwen2-shaped model with random weights and a character-level tokenizer (the quickstart's)."""

    hidden_size: int = number(64, "[2, 1e5]")  # width of the residual stream
    layers: int = number(3, "[1, 1000]")  # transformer blocks
    heads: int = number(2, "[1, 1000]")  # attention heads
    kv_heads: int = number(2, "[1, 1000]")  # heads of keys and values
    ffn_size: int = number(192, "[1, 1e6]")  # hidden size of the feed-forward blocks
    init_std: float = number(0.125, "[1e-6, 10]")  # hidden^-0.5: the usual 0.02 stalls at this size
    max_position_embeddings: int = number(2048, "[2, 1e8]")  # tokens of the longest sequence


@dataclass
class LoraConf:
    """Low-rank adapters (peft) in `train`: only they are trained. A warm-up trains all weights all the same."""

    rank: int | None = number(None, "[0, 65536]")  # of each adapter B A; null or 0: off, all weights are trained
    alpha: float = number(32.0, "[1e-6, 1e6]")  # an adapted weight is W + alpha / rank * B A
    dropout: float = number(0.0, "[0, 1)")  # must be 0: otherwise log-probs would differ from the sampler's
    targets: Any = "all-linear"  # every linear layer except the output head; or names, e.g. [q_proj, v_proj]
    seed: int = number(0, "[0, 4294967295]")  # of A's random start; B starts at zero
