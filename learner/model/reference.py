"""The frozen reference model, which only scores: on the learner's device, or in host memory until it scores.

In: a policy. Out: the same, frozen and placed. Must not know: losses, batches.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from learner.model.policy import Policy


def frozen(policy: Policy, device: torch.device, offload: bool) -> Policy:
    """Without gradients; on `device`, or (offload, if that is a GPU) in page-locked host memory."""
    policy.requires_grad_(False)
    if not offload:
        return policy.to(device)
    if device.type == "cuda":
        for tensor in _tensors(policy):
            tensor.data = tensor.data.pin_memory()
    return policy


@contextlib.contextmanager
def on_device(reference: Any, device: torch.device) -> Iterator[None]:
    """Within the context all weights of an offloaded reference are on `device`; any other reference is unaffected.

    The weights do not change, so leaving just drops the copies. reference: a module, or anything that scores without
    its own weights (None, or the policy without its adapters).
    """
    tensors = _tensors(reference) if isinstance(reference, nn.Module) else []
    homes = [(tensor, tensor.data) for tensor in tensors if tensor.device.type != device.type]
    try:
        for tensor, home in homes:
            tensor.data = _copy(home, device)
        yield
    finally:
        for tensor, home in homes:
            tensor.data = home


def _copy(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    return tensor.to(device, non_blocking=True)


def _tensors(module: nn.Module) -> list[torch.Tensor]:
    return [*module.parameters(), *module.buffers()]
