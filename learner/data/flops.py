"""Floating-point operations of a decoder on packed sequences, and peak FLOP/s of devices.

In: a model's `Shape` (from its config.json), lengths of sequences and responses. Out: FLOPs. Must not know: batches,
engines, time.

One multiply-add is 2 FLOPs. A forward pass over a sequence of n tokens, r of them response tokens:

    layers     n * layers * 2 * (hidden * heads * D * 2 + hidden * kv_heads * D * 2 + hidden * ffn * 3)
               queries and output, keys and values, MLP (3 matrices when gated, else 2)
    attention  layers * 2 * heads * D * n^2
               scores and weighted values: 2 n^2 D each per head, of which the causal half
    head       r * 2 * hidden * vocab            only response tokens have logits here

A backward pass costs twice the forward one: gradients of inputs and of weights. Model FLOPs, for MFU, are what the
mathematics needs: 3 times the forward pass (PaLM, arXiv 2204.02311, appendix B, which does not halve attention).
Hardware FLOPs, for HFU, are what is executed (Megatron, "Reducing activation recomputation", arXiv 2205.05198,
appendix): full gradient checkpointing runs the forward pass of layers and attention once more, 4 times in total (except
a layer's last product, which no gradient needs: torch stops before it), and the head's backward pass
(`learner.model.logprob`) always recomputes its logits. Neither counts norms, rotations, softmax, the embedding look-up,
the optimizer, padding in attention, or what flash attention's backward pass recomputes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Cost = Callable[[int, int], int]  # (tokens of a sequence, response tokens among them) -> FLOPs of its forward pass

UNGATED = {"bloom", "falcon", "gpt_neox", "gptj", "mpt", "nemotron", "opt", "phi", "starcoder2"}  # two MLP matrices


def tokens_only(tokens: int, responses: int) -> int:
    """The cost to balance by if a model's shape is unknown."""
    return tokens


@dataclass(frozen=True, slots=True)
class Shape:
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocab: int
    gated: bool = True

    def linear(self, tokens: int) -> int:
        projections = 2 * self.hidden * self.head_dim * (self.heads + self.kv_heads)
        mlp = self.hidden * self.ffn * (3 if self.gated else 2)
        return tokens * self.layers * 2 * (projections + mlp)

    def last(self, tokens: int) -> int:
        """Of `linear`, the last product of each layer."""
        return tokens * self.layers * 2 * self.ffn * self.hidden

    def attention(self, tokens: int) -> int:
        """Of one sequence; the causal half."""
        return self.layers * 2 * self.heads * self.head_dim * tokens * tokens

    def head(self, responses: int) -> int:
        return responses * 2 * self.hidden * self.vocab

    def cost(self, tokens: int, responses: int) -> int:
        """FLOPs of one sequence's forward pass."""
        return self.linear(tokens) + self.attention(tokens) + self.head(responses)


def shape_of(config: Mapping[str, Any]) -> Shape | None:
    """From a Hugging Face configuration; None if it is not a plain decoder (experts, recurrent layers, other names)."""
    needed = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size")
    experts = any(config.get(name) for name in ("num_experts", "num_local_experts", "n_routed_experts"))
    recurrent = {*(config.get("layer_types") or [])} - {"full_attention", "sliding_attention"}
    if experts or recurrent or not all(isinstance(config.get(name), int) for name in needed):
        return None
    hidden, layers, heads, ffn, vocab = (config[name] for name in needed)
    return Shape(
        hidden=hidden,
        layers=layers,
        heads=heads,
        kv_heads=config.get("num_key_value_heads") or heads,
        head_dim=config.get("head_dim") or hidden // heads,
        ffn=ffn,
        vocab=vocab,
        gated=config.get("model_type") not in UNGATED,
    )


def read_shape(path: str, revision: str | None = None) -> Shape | None:
    """`shape_of` a model folder's config.json, or of a hub id's. Raises OSError if there is none."""
    if not Path(path).is_dir():
        from huggingface_hub import hf_hub_download

        path = str(Path(hf_hub_download(path, "config.json", revision=revision)).parent)
    return shape_of(json.loads((Path(path) / "config.json").read_text()))


@dataclass(frozen=True, slots=True)
class Work:
    """FLOPs of one or more updates."""

    model: int  # what the mathematics needs
    hardware: int  # including recomputation


def work(
    shape: Shape, sequences: Iterable[tuple[int, int]], scored: int = 0, checkpointing: bool = False, repeated: int = 0
) -> Work:
    """Forward and backward over `sequences` (tokens, response tokens), after `scored` passes without gradient.

    checkpointing: of every layer (`learner.gradient_checkpointing`); repeated: how many of the tokens are in a prompt
    that was computed for an earlier sibling (`learner.data.shared_prefix`).
    """
    layers, again, head = -shape.linear(repeated), 0, 0
    if checkpointing:
        again = shape.last(repeated) - shape.linear(repeated)
    for tokens, responses in sequences:
        layers += shape.linear(tokens) + shape.attention(tokens)
        again += shape.linear(tokens) + shape.attention(tokens) - shape.last(tokens) if checkpointing else 0
        head += shape.head(responses)
    model = (3 + scored) * (layers + head)
    return Work(model, hardware=model + again + head)


# Dense bfloat16 TFLOP/s with float32 accumulation, from the vendors' data sheets; the first entry whose words are all
# in the device's name applies, so narrower names come first.
PEAKS = (
    ("B200", 2250),
    ("GH200", 989),
    ("H200 NVL", 835),
    ("H200", 989),
    ("H100 PCIe", 756),
    ("H100 NVL", 835),
    ("H100", 989),  # SXM
    ("H800", 989),
    ("A100", 312),
    ("A800", 312),
    ("A10", 125),
    ("L40S", 362),
    ("L40", 181),
    ("L4", 121),
    ("RTX 4090", 165),
    ("RTX 3090", 71),
    ("MI300X", 1307),
    ("MI325X", 1307),
)
SLICED = {"MIG", "LAPTOP", "D"}  # a part of a device, or a slower one of the same name


def peak_flops(name: str) -> float | None:
    """FLOP/s of the device called `name` (`torch.cuda.get_device_name()`); None if it is not in the table."""
    words = set(re.split(r"[\s\-]+", name.upper()))
    if words & SLICED:
        return None
    return next((1e12 * peak for known, peak in PEAKS if set(known.upper().split()) <= words), None)


def device_peak(device: Any) -> float | None:
    """`peak_flops` of a torch.device; None for a CPU: utilization is not reported there."""
    if device.type != "cuda":
        return None
    import torch

    return peak_flops(torch.cuda.get_device_name(device))
