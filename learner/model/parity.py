"""Checks that the learner computes the model: its packed log-probs against transformers' own forward pass.

In: a policy as loaded, before anything wraps or splits it. Out: nothing, or BadInput that names the difference. A few
random sequences of different lengths are packed into one row; then the same module gets each alone, with eager
attention. Anything a model does beyond plain attention over one sequence and a linear head shows up here, whether or
not `learner.model.support` knows it. Uses its own random generator. Must not know: DeepSpeed, batches, commands.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from conf.schema import Device
from learner.model import attention
from learner.model.attention import Layout
from learner.model.policy import Policy
from learner.model.reference import on_device
from learner.model.support import context_length, unsupported, whole
from rollout.base.errors import BadInput, in_one_line

LENGTHS = (9, 24, 3, 17)  # tokens; the second gets the last positions of the run's longest sequence
BOUNDS = {  # largest and mean |difference|, nats
    torch.float64: (1e-8, 1e-9),
    torch.float32: (1e-3, 1e-4),  # random models of 40 families: at most 2e-6, mean 4e-7
    torch.bfloat16: (2.0, 0.05),
}
ROOM = 2**30  # bytes of GPU memory required besides the copy of the weights
FLOOR = 4.0  # in bfloat16, differences up to this many times those between sdpa and eager attention count as rounding


def refuse_different(policy: Policy, path: str, longest: int = 0, device: Device = Device.cpu) -> None:
    """BadInput unless packed log-probs agree with the model's, within `BOUNDS` of its dtype, and all of it is trained.

    path: for the message; longest: tokens of the run's longest sequence, on which some rotary embeddings depend;
    device: if gpu, the comparison runs there, in a copy, if there is room for one.
    """
    causal_lm = policy.causal_lm
    config = whole(causal_lm.config.to_dict())
    what = f"model.path={path}: this model (model type {config.get('model_type')}) cannot be trained here"
    known = unsupported(config, longest)
    cause = f"it has {'; '.join(dict.fromkeys(known))}" if known else "the cause is unknown"
    ours = {id(parameter) for parameter in policy.parameters()}
    left = [name for name, parameter in causal_lm.named_parameters() if id(parameter) not in ours]
    if left:
        raise BadInput(f"{what}: {', '.join(left[:4])} would be neither trained nor synced to the sampler ({cause})")
    try:
        with on_device(policy, _device(policy, device)):
            packed, *alone = _log_probs(policy, int(max(min(longest, context_length(config)[0]), max(LENGTHS))))
    except torch.OutOfMemoryError:
        raise
    except (ValueError, TypeError, AttributeError, LookupError, RuntimeError, NotImplementedError) as error:
        raise BadInput(
            f"{what}: it does not accept a packed row of sequences ({in_one_line(error)}); {cause}"
        ) from error
    largest, mean = _gap(packed, alone[0])
    dtype = next(policy.parameters()).dtype
    max_abs, mean_abs = BOUNDS[dtype]
    if len(alone) > 1:
        floor = _gap(alone[1], alone[0])
        max_abs, mean_abs = max(max_abs, FLOOR * floor[0]), max(mean_abs, FLOOR * floor[1])
    if not (largest <= max_abs and mean <= mean_abs):
        raise BadInput(
            f"{what}: the learner's log-probs of packed sequences differ from transformers' own, one sequence at a "
            f"time, by {largest:.2g} nats at most, {mean:.2g} on average (allowed in {str(dtype)[6:]}: {max_abs:.2g} "
            f"and {mean_abs:.2g}): {cause}"
        )
    if known:  # shows with other sequences, or in the sampler
        raise BadInput(f"{what}: {cause}")


def _device(policy: Policy, device: Device) -> torch.device:
    if device is Device.gpu:
        needed = sum(tensor.numel() * tensor.element_size() for tensor in (*policy.parameters(), *policy.buffers()))
        if needed + ROOM < torch.cuda.mem_get_info()[0]:
            return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


def _gap(one: Tensor, other: Tensor) -> tuple[float, float]:
    """Largest and mean |difference|."""
    gaps = (one - other).abs()
    return float(gaps.max()), float(gaps.mean())


def _log_probs(policy: Policy, longest: int) -> list[Tensor]:
    """Log-probs of the same tokens, nats, for every token that is not the first of its sequence: packed; one sequence
    at a time with eager attention; in bfloat16 also with sdpa, to measure what rounding alone causes in this model."""
    causal_lm, first = policy.causal_lm, next(policy.parameters())
    generator = torch.Generator().manual_seed(0)
    starts = (0, longest - LENGTHS[1], *[0] * (len(LENGTHS) - 2))
    ids = [torch.randint(policy.vocabulary, (length,), generator=generator).to(first.device) for length in LENGTHS]
    positions = [torch.arange(at, at + n, device=first.device) for at, n in zip(starts, LENGTHS, strict=True)]
    asked = torch.cat([torch.arange(n, device=first.device) > 0 for n in LENGTHS])
    layout = Layout(list(LENGTHS), first.device)
    with torch.no_grad():
        found = [policy(torch.cat(ids), torch.cat(positions), asked, layout, 1.0, sum(LENGTHS))[0][asked]]
        kinds = ["eager", "sdpa"] if first.dtype is torch.bfloat16 and causal_lm._supports_sdpa else ["eager"]
        try:
            for kind in kinds:
                causal_lm.set_attn_implementation(kind)
                found.append(torch.cat([_alone(causal_lm, *one) for one in zip(ids, positions, strict=True)]))
        finally:
            causal_lm.set_attn_implementation(attention.NAME)
    return found


def _alone(causal_lm: Any, ids: Tensor, positions: Tensor) -> Tensor:
    """One sequence through transformers: i64[L] ids and positions -> log-probs of tokens 1.., [L - 1], nats."""
    logits = causal_lm(input_ids=ids[None], position_ids=positions[None], use_cache=False).logits[0]  # [L, V]
    wide = torch.promote_types(logits.dtype, torch.float32)
    return logits[:-1].to(wide).log_softmax(-1).gather(-1, ids[1:, None])[:, 0]
