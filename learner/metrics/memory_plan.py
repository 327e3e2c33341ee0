"""GPU memory of a learner rank and of a sampler's cache, computed before anything runs.

In: a model's Hugging Face configuration, the learner's settings. Out: bytes by item. Must not know: torch, devices,
what was measured.

    memory = learner_memory(config, conf, Dtype.bfloat16)
    memory.items["optimizer"], memory.peak

Bytes of N parameters on R ranks under a bfloat16 model, as DeepSpeed 0.19 holds them with float32 accumulation
(`learner.engine`):

    stage                 class                          weights  gradients             master weights and Adam
    0                     FP16_UnfusedOptimizer          2 N      2 N (bfloat16)        12 N
    1                     BF16_Optimizer                 2 N      4 N + 2 N (bfloat16)  12 N / R
    1, offload_optimizer  DeepSpeedZeroOptimizer         2 N      4 N                   on the host
    2                     DeepSpeedZeroOptimizer         2 N      4 N / R               12 N / R, or on the host
    3                     DeepSpeedZeroOptimizer_Stage3  2 N / R  4 N / R               12 N / R, or on the host

At stage 1 every rank keeps all gradients in float32, and those of the last micro-batch in bfloat16 besides; stage 2
keeps its own part. Stages 1 and 2 pad N to a multiple of 2 R, stage 3 each tensor to one of R. Gradients pass through
a buffer of 5e8 elements (DeepSpeed's default), and those that are reduced are copied and widened.

A layer's backward pass, with its forward pass recomputed, holds (bytes a token, bfloat16; F: the MLP's hidden size)

    16 H                           two norms: input in float32, normed, output
    4 (heads + kv_heads) D         queries, keys, values and output of flash attention
    4 heads                        its log-sum-exp
    12 F                           gate, its activation, up; the gradients of their product and of its factors
    4 H                            the gradient of the layer's output, the residual stream

Not included: CUDA's context and libraries (0.5 to 1 GB), the allocator's fragmentation, NCCL's buffers, temporaries of
an optimizer that is not fused, adapters (LoRA).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from conf.chosen import overlap_comm
from conf.schema import Dtype, LearnerConf
from learner.data.flops import Shape, shape_of

BUCKET = 500_000_000  # elements: DeepSpeed's reduce_bucket_size
LIVE = 1_000_000_000  # elements: its max_live_parameters, gathered at a time under ZeRO-3
BYTES = {Dtype.float32: 4, Dtype.bfloat16: 2}


@dataclass(frozen=True, slots=True)
class RankMemory:
    """Of one learner rank, bytes.

    items: what is on the device while a layer's or the head's backward pass runs. weights, reference, gradients,
    optimizer (master weights and Adam's moments), gathered (weights under ZeRO-3), buckets (that gradients are copied
    into), reduction (copies of a full bucket), activations (what the forward pass left), layer (one layer's backward
    pass), head (logits and their gradients). host: in host memory. copies: of all ranks together, in host memory too,
    what a checkpoint beside training is written from.
    """

    items: dict[str, int]
    host: int
    copies: int

    @property
    def states(self) -> int:
        """What stays between two micro-batches, without buffers."""
        return sum(self.items[name] for name in ("weights", "reference", "gradients", "optimizer"))

    @property
    def peak(self) -> int:
        """The layers' and the head's passes follow each other: only the larger counts."""
        items = self.items
        rest = sum(size for name, size in items.items() if name not in ("layer", "head"))
        return rest + max(items["layer"], items["head"])


def learner_memory(
    config: Mapping[str, Any],
    conf: LearnerConf,
    dtype: Dtype,
    head_dtype: Dtype = Dtype.float32,
    reference: bool = True,
    responses: int | None = None,
) -> RankMemory:
    """The peak of an update with a row of conf.max_tokens tokens.

    config: a Hugging Face configuration, as in config.json; reference: the loss has a KL term; responses: response
    tokens of the row, at most (None: all). Raises ValueError for a model that is not a plain decoder.
    """
    sizes = parameter_sizes(config)
    shape = shape_of(config)
    assert shape is not None
    each, ranks, stage = BYTES[dtype], conf.ranks, conf.zero_stage
    count = sum(sizes)
    padded = _multiple(count, 2 * ranks) if stage in (1, 2) else count
    part = sum(-(-size // ranks) for size in sizes) if stage == 3 else padded // ranks if stage else count
    narrow = dtype is Dtype.bfloat16

    weights = each * (part if stage == 3 else padded)
    master = 0 if stage == 0 and not narrow else 4 * part
    optimizer = master + 8 * part
    gradients = each * count
    if stage == 1:
        both = narrow and not conf.offload_optimizer  # BF16_Optimizer
        gradients = 4 * padded + 2 * count if both else 4 * count
    elif stage == 2:
        gradients = 4 * part if narrow else 4 * _touched(sizes, part)
    elif stage == 3:
        gradients = 4 * part
    frozen = each * count if reference else 0
    host, on_host = 0, conf.offload_optimizer and stage > 0
    if on_host:
        host += optimizer + 4 * part + (each * (part + max(sizes)) if stage < 3 else 0)
        optimizer = 0
    if conf.offload_parameters:
        host, weights = host + weights, 0
    if conf.offload_reference:
        host, frozen = host + frozen, 0

    tokens = -(-conf.max_tokens // conf.sequence_parallel)
    scored = min(tokens, responses if responses is not None else tokens)
    saved, layer = _layer(shape, each)
    states = each * shape.hidden * tokens
    staged = 0  # bytes of an element of DeepSpeed's bucket; BF16_Optimizer reduces its gradients where they are
    if stage >= 2 or (stage == 1 and (on_host or not narrow)):
        staged = 2 if stage == 2 and narrow else 4
    buffers = 2 if stage == 2 and overlap_comm(conf) else 1
    kept = shape.layers * (states if conf.gradient_checkpointing else saved * tokens)
    items = {
        "weights": weights,
        "reference": frozen,
        "gradients": gradients,
        "optimizer": optimizer,
        "gathered": each * min(count, LIVE) if stage == 3 and ranks > 1 else 0,
        "buckets": buffers * staged * BUCKET + (each * max(sizes) if on_host and stage < 3 else 0),
        "reduction": (staged + (4 if staged == 2 else 0)) * min(count, BUCKET),
        "activations": kept,
        "layer": layer * tokens if conf.gradient_checkpointing else (layer - saved) * tokens,
        "head": _head(shape, each, scored, conf.logprob_chunk, head_dtype),
    }
    return RankMemory(items, host, 12 * part * (ranks if stage else 1))


def kv_bytes(config: Mapping[str, Any], dtype: Dtype = Dtype.bfloat16) -> int:
    """Bytes of a sampler's cache for one token: keys and values of every layer."""
    shape = shape_of(config)
    if shape is None:
        raise ValueError("not a plain decoder: its cache is not known")
    return 2 * shape.layers * shape.kv_heads * shape.head_dim * BYTES[dtype]


def parameter_sizes(config: Mapping[str, Any]) -> list[int]:
    """Elements of each of a decoder's tensors, in transformers' order, the output head last unless it is tied.

    Qwen2 has a bias on queries, keys and values; Qwen3 norms of queries and keys; others what `attention_bias` and
    `mlp_bias` say. Raises ValueError for a model that is not a plain decoder.
    """
    shape = shape_of(config)
    if shape is None or not shape.gated:
        raise ValueError(f"memory is only known of plain gated decoders, not of {config.get('model_type')!r}")
    hidden, ffn = shape.hidden, shape.ffn
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    kind, everywhere = config.get("model_type"), bool(config.get("attention_bias"))
    layer = []
    for size in (queries, keys, keys):
        layer += [hidden * size] + ([size] if everywhere or kind == "qwen2" else [])
    layer += [queries * hidden] + ([hidden] if everywhere else [])
    layer += [shape.head_dim] * 2 if kind == "qwen3" else []
    for size in (ffn, ffn, hidden):
        layer += [hidden * ffn] + ([size] if config.get("mlp_bias") else [])
    layer += [hidden] * 2
    vocabulary = shape.vocab * hidden
    head = [] if config.get("tie_word_embeddings") else [vocabulary]
    return [vocabulary, *layer * shape.layers, hidden, *head]


def _layer(shape: Shape, each: int) -> tuple[int, int]:
    """Bytes a token: what a layer's forward pass saves, and the peak of its backward pass with that."""
    norms = 16 * shape.hidden if each == 2 else 20 * shape.hidden  # float32: the input is not copied
    attention = 2 * each * (shape.heads + shape.kv_heads) * shape.head_dim + 4 * shape.heads
    if each == 4:  # no flash attention: queries, keys, values and output once more, gathered by sequence
        attention += 2 * each * (shape.heads + shape.kv_heads) * shape.head_dim
    saved = norms + attention + 4 * each * shape.ffn
    return saved, saved + 2 * each * shape.ffn + 2 * each * shape.hidden


def _head(shape: Shape, each: int, scored: int, chunk: int, head_dtype: Dtype) -> int:
    """`learner.model.logprob`, with what the final norm saved: the larger of its passes. Forward: logits and log-probs
    of a chunk in float32. Backward: logits in float32, their gradients in the model's dtype, the gradient of the states
    in float32, that of the head, and of the block of the head that is being computed."""
    block, states, head = min(chunk, scored) * shape.vocab, scored * shape.hidden, each * shape.vocab * shape.hidden
    forward = 2 * 4 * block
    product = each * block if each == 2 and head_dtype is Dtype.bfloat16 else 0  # not rounded by the product itself
    own = head * min(chunk, scored) // scored if scored < shape.vocab else 0
    backward = (6 if each == 2 else 4) * block + product + (4 + 2 * each) * states + head + own
    return max(forward, backward) + (4 + 3 * each) * states


def _touched(sizes: list[int], part: int) -> int:
    """Elements of the tensors that the part of a rank touches, of the rank with most. A float32 model's gradients are
    kept whole under stage 2."""
    found: dict[int, int] = {}
    start = 0
    for size in sizes:
        for rank in range(start // part, (start + size - 1) // part + 1):
            found[rank] = found.get(rank, 0) + size
        start += size
    return max(found.values())


def _multiple(count: int, of: int) -> int:
    return -(-count // of) * of
