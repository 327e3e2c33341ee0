"""Chunked log-probs, entropies and their gradients against log_softmax in float64; no [N, V] tensor is ever kept."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from learner.model.logprob import LogProbHead

N, H, V = 13, 6, 29


def inputs(dtype: torch.dtype, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    states = torch.randn(N, H, generator=generator, dtype=torch.float64).to(dtype)
    weight = torch.randn(V, H, generator=generator, dtype=torch.float64).to(dtype)
    ids = torch.randint(V, (N,), generator=generator)
    response = torch.rand(N, generator=generator) < 0.6
    response[0], response[1] = False, True
    return states, weight, ids, response


def reference(
    states: Tensor, weight: Tensor, ids: Tensor, response: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """The whole table in float64: entry i from the hidden state at i - 1."""
    table = (states.double() @ weight.double().T / temperature).log_softmax(-1)
    logprobs, entropies = torch.zeros(N, dtype=torch.float64), torch.zeros(N, dtype=torch.float64)
    for i in range(1, N):
        if response[i]:
            logprobs[i] = table[i - 1, ids[i]]
            entropies[i] = -(table[i - 1].exp() * table[i - 1]).sum()
    return logprobs, entropies


@pytest.mark.parametrize("temperature", [0.6, 1.0])
@pytest.mark.parametrize("chunk", range(1, N + 1))
def test_log_probs_entropies_and_gradients_equal_plain_torch(chunk: int, temperature: float) -> None:
    states, weight, ids, response = inputs(torch.float64)
    direction = torch.randn(N, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    head = LogProbHead(torch.nn.Parameter(weight.clone()))
    x = states.clone().requires_grad_()
    got, entropies = head(x, ids, response, temperature, chunk)
    (got * direction).sum().backward()
    y, w = states.clone().requires_grad_(), weight.clone().requires_grad_()
    want, want_entropies = reference(y, w, ids, response, temperature)
    (want * direction).sum().backward()

    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(entropies, want_entropies, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(x.grad, y.grad, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(head.weight.grad, w.grad, rtol=1e-10, atol=1e-12)
    assert not got[~response].any() and not entropies[~response].any() and not entropies.requires_grad


@pytest.mark.parametrize("vocabulary", [5, 12, 13, 14, 100])
@pytest.mark.parametrize("chunk", [1, 4, 12, 100])
def test_vocabularies_smaller_and_larger_than_the_number_of_tokens(chunk: int, vocabulary: int) -> None:
    """The backward pass takes blocks of rows or of the vocabulary, whichever adds up less: the same gradients."""
    generator = torch.Generator().manual_seed(vocabulary)
    weight = torch.randn(vocabulary, H, generator=generator, dtype=torch.float64)
    states, ids = torch.randn(N, H, generator=generator, dtype=torch.float64), torch.arange(N) % vocabulary
    response, factors = torch.arange(N) > 0, torch.linspace(-2, 3, N, dtype=torch.float64)
    head, x = LogProbHead(torch.nn.Parameter(weight.clone())), states.clone().requires_grad_()
    (head(x, ids, response, 0.7, chunk)[0] * factors).sum().backward()
    y, w = states.clone().requires_grad_(), weight.clone().requires_grad_()
    (reference(y, w, ids, response, 0.7)[0] * factors).sum().backward()
    torch.testing.assert_close(x.grad, y.grad, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(head.weight.grad, w.grad, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("float32", [True, False])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_the_fused_head_equals_plain_torch(dtype: torch.dtype, float32: bool) -> None:
    """learner.fused_head on and off, in every combination of model and head dtype; with and without entropies."""
    states, weight, ids, response = inputs(dtype)
    found = []
    for fused in (True, False):
        head, x = LogProbHead(torch.nn.Parameter(weight.clone()), float32, fused), states.clone().requires_grad_()
        logprobs, entropies = head(x, ids, response, 0.6, 5)
        without, none = head(x, ids, response, 0.6, 5, entropy=False)
        assert none is None and torch.equal(without, logprobs)
        assert entropies is not None and not entropies.requires_grad
        (logprobs * torch.linspace(-1, 2, N)).sum().backward()
        found.append([logprobs.detach(), entropies, x.grad, head.weight.grad])
    exact = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 1e-5}[dtype]
    for one, other in zip(found[0][:2], found[1][:2], strict=True):
        torch.testing.assert_close(one, other, rtol=exact, atol=exact)
    for one, other in zip(found[0][2:], found[1][2:], strict=True):
        error = float((one - other).double().norm() / other.double().norm())
        assert error < (1e-2 if dtype is torch.bfloat16 else exact)


@pytest.mark.parametrize("temperature", [0.6, 1.0])
@pytest.mark.parametrize("chunk", [1, 5, 100])
def test_a_tied_embedding_gets_both_gradients(chunk: int, temperature: float) -> None:
    """One parameter as embedding and head: its gradient is the sum of the two uses."""
    _, weight, ids, response = inputs(torch.float64)
    shared = torch.nn.Parameter(weight.clone())
    head = LogProbHead(shared)
    head(torch.tanh(shared[ids]), ids, response, temperature, chunk)[0].sum().backward()
    w = weight.clone().requires_grad_()
    reference(torch.tanh(w[ids]), w, ids, response, temperature)[0].sum().backward()
    torch.testing.assert_close(shared.grad, w.grad, rtol=1e-10, atol=1e-12)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 20), st.sampled_from([0.3, 0.6, 1.0, 2.0]), st.integers(0, 10_000))
def test_float32_is_close_to_float64(chunk: int, temperature: float, seed: int) -> None:
    states, weight, ids, response = inputs(torch.float32, seed)
    got, entropies = LogProbHead(torch.nn.Parameter(weight))(states, ids, response, temperature, chunk)
    want, want_entropies = reference(states, weight, ids, response, temperature)
    assert got.dtype == entropies.dtype == torch.float32
    torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(entropies.double(), want_entropies, rtol=1e-4, atol=1e-4)


def test_a_float32_head_adds_no_rounding_to_bfloat16_states() -> None:
    """Log-probs of bfloat16 states and weights, against float64 of the same numbers: the head's own dtype decides."""
    states, weight, ids, response = inputs(torch.bfloat16)
    want, _ = reference(states, weight, ids, response, 0.6)
    far = {}
    for float32 in (True, False):
        got, _ = LogProbHead(torch.nn.Parameter(weight), float32)(states, ids, response, 0.6, 5)
        far[float32] = float((got.detach().double() - want).abs().max())
    assert far[True] < 1e-5 < 1e-3 < far[False]


def test_bfloat16_states_give_float32_logprobs() -> None:
    """Sums over the vocabulary are taken in float32 whatever the model's dtype."""
    states, weight, ids, response = inputs(torch.bfloat16)
    head = LogProbHead(torch.nn.Parameter(weight))
    x = states.clone().requires_grad_()
    got, _ = head(x, ids, response, 0.6, 4)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.double(), reference(states, weight, ids, response, 0.6)[0], rtol=0.02, atol=0.1)
    got.sum().backward()
    assert x.grad is not None and head.weight.grad is not None
    assert x.grad.dtype == head.weight.grad.dtype == torch.bfloat16


class _Largest(TorchDispatchMode):
    """The most vocabulary-wide rows, and the most elements, that any tensor made inside had."""

    def __init__(self, width: int):
        super().__init__()
        self.width, self.rows, self.elements = width, 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, (tuple, list)) else (made,):
            if isinstance(tensor, Tensor) and tensor.dim() == 2 and tensor.shape[1] == self.width:
                self.rows = max(self.rows, tensor.shape[0])
            if isinstance(tensor, Tensor):
                self.elements = max(self.elements, tensor.numel())
        return made


@pytest.mark.parametrize("chunk", [8, 64, 150])  # at least H: the weight transposed is as wide as the vocabulary, too
def test_logits_never_exceed_a_chunk(chunk: int) -> None:
    """Forward and backward: no tensor as wide as the vocabulary has more rows than a chunk, and none is saved."""
    count, width = 200, 997
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(count, H, generator=generator, requires_grad=True)
    head = LogProbHead(torch.nn.Parameter(torch.randn(width, H, generator=generator)))
    ids = torch.randint(width, (count,), generator=generator)
    response = torch.arange(count) > 0
    saved: list[tuple[int, ...]] = []

    def keep(tensor: Tensor) -> Tensor:
        saved.append(tuple(tensor.shape))
        return tensor

    with _Largest(width) as largest:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            logprobs, _ = head(states, ids, response, 0.6, chunk)
        logprobs.sum().backward()
    assert largest.rows == chunk
    assert largest.elements == chunk * width  # also in the backward pass, whose blocks have all rows and some columns
    assert saved and all(shape == (width, H) or width not in shape for shape in saved)


def test_a_row_without_response_tokens_has_zero_gradients() -> None:
    """A row of prompts only: zeros, and gradients of zero rather than None."""
    states, weight, ids, _ = inputs(torch.float32)
    head = LogProbHead(torch.nn.Parameter(weight))
    x = states.clone().requires_grad_()
    logprobs, _ = head(x, ids, torch.zeros(N, dtype=torch.bool), 1.0, 4)
    logprobs.sum().backward()
    assert not logprobs.any() and head.weight.grad is not None and not head.weight.grad.any()
