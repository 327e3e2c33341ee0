"""vLLM's CPU engine rotates queries by head as transformers does, in either shape that its models pass."""

from __future__ import annotations

import pytest
import torch

from conf.schema import RolloutConf
from rollout.base.vllm_environment import prepare_environment

pytestmark = pytest.mark.heavy  # imports vLLM


@pytest.mark.parametrize("by_head", [False, True])
@pytest.mark.parametrize("contiguous", [False, True])
def test_every_head_is_rotated_by_its_tokens_position(by_head: bool, contiguous: bool) -> None:
    prepare_environment(RolloutConf())
    from vllm import _custom_ops  # noqa: F401  the kernels
    from vllm.config import VllmConfig, set_current_vllm_config
    from vllm.model_executor.layers.rotary_embedding.base import RotaryEmbedding

    from rollout.vllm_rotary import rotate_by_head

    rotate_by_head()
    n, heads, kv_heads, D = 5, 4, 2, 32
    with set_current_vllm_config(VllmConfig()):
        rotary = RotaryEmbedding(D, D, 64, 10000.0, True, torch.float32)
    positions = torch.tensor([7, 3, 40, 0, 12])
    states = torch.randn(n, (heads + kv_heads) * D, generator=torch.Generator().manual_seed(0))
    q, k = states.clone().split([heads * D, kv_heads * D], dim=-1)
    q, k = (one.contiguous() if contiguous else one for one in (q, k))
    want = [_rotated(one.unflatten(-1, (-1, D)), positions) for one in (q.clone(), k.clone())]
    if by_head:
        q, k = q.unflatten(-1, (heads, D)), k.unflatten(-1, (kv_heads, D))
    for got, wanted, given in zip(rotary.forward_cpu(positions, q, k), want, (q, k), strict=True):
        assert got is not None and got.shape == given.shape
        torch.testing.assert_close(got.reshape(wanted.shape), wanted)


def _rotated(states: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """[n, heads, D] -> the same: halves (a, b) by angle t become (a cos t - b sin t, b cos t + a sin t)."""
    half = states.shape[-1] // 2
    angles = positions[:, None, None] * 10000.0 ** (-torch.arange(half) / half)
    a, b = states[..., :half], states[..., half:]
    return torch.cat([a * angles.cos() - b * angles.sin(), b * angles.cos() + a * angles.sin()], dim=-1)
