"""A policy on a GPU that is not there: tensors without memory that take the GPU's way through the learner's code.

In: a Hugging Face configuration, a row's lengths. Out: the peak of a forward and backward pass by torch's MemTracker.
A CPU build of torch has no autograd for CUDA tensors, not even fake ones: the tensors are fake CPU tensors that say
`is_cuda`, so that flash attention and the head's float32 products run by the shapes of their registered fake kernels.
The number of response tokens is data, which fake tensors have not: it is given.
"""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker
from transformers import AutoModelForCausalLM, PretrainedConfig

from learner.model.attention import Layout
from learner.model.policy import Policy, load_policy


def peak(
    monkeypatch: pytest.MonkeyPatch,
    config: PretrainedConfig,
    lengths: list[int],
    prompt: int,
    chunk: int,
    checkpointing: bool,
    on_gpu: bool = True,
) -> int:
    """Bytes, with the gradients of an earlier micro-batch in memory. lengths: tokens of each sequence of the row;
    prompt: of them no responses; on_gpu: False for real tensors, attention by sdpa."""
    tokens = sum(lengths)
    responses = tokens - prompt * len(lengths)
    layout = Layout(lengths)
    response = torch.cat([torch.arange(length) >= prompt for length in lengths])
    fake = FakeTensorMode(allow_non_fake_inputs=True) if on_gpu else contextlib.nullcontext()
    with monkeypatch.context() as patched, fake:
        if on_gpu:
            patched.setattr(FakeTensor, "is_cuda", True, raising=False)
            patched.setattr(FakeTensor, "nonzero", lambda self: torch.empty(responses, 1, dtype=torch.long))
        patched.setattr(AutoModelForCausalLM, "from_pretrained", lambda path, **given: _fake_model(config, given))
        policy = load_policy("qwen/fake", str(config.dtype).removeprefix("torch."), checkpointing=checkpointing)
        for parameter in policy.parameters():
            parameter.grad = torch.zeros_like(parameter)
        return _tracked(policy, layout, response.clone(), chunk)


def _fake_model(config: PretrainedConfig, given: dict[str, Any]) -> Any:
    config._attn_implementation = given["attn_implementation"]
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    made: dict[int, nn.Parameter] = {}  # by the meta tensor: a tied head stays one
    for module in model.modules():
        for name, one in module._parameters.items():
            if one is not None:
                made.setdefault(id(one), nn.Parameter(torch.zeros(one.shape, dtype=given["dtype"], device="cpu")))
                module._parameters[name] = made[id(one)]
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.zeros(buffer.shape, dtype=buffer.dtype, device="cpu")
    return model


def _tracked(policy: Policy, layout: Layout, response: Tensor, chunk: int) -> int:
    tracker = MemTracker()
    tracker.track_external(policy)
    with tracker:
        ids = torch.zeros(len(response), dtype=torch.long)
        logprobs, _ = policy(ids, ids, response, layout, 0.6, chunk)
        torch.autograd.backward(logprobs.sum())
    snapshot = tracker.get_tracker_snapshot("peak")
    return int(snapshot[torch.device("cpu")]["Total"])
