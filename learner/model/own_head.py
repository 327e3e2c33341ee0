"""Log-probs by a model's own head: where its logits are more than hidden states times a matrix.

In: hidden states and a causal language model whose forward pass scales its logits (Granite, Cohere), caps them (Gemma
2) or adds a bias (Phi). Out: what `LogProbHead` gives, from transformers' own code for all of that, chunk by chunk and
recomputed for the gradient. Must not know: which models do what (`is_plain` measures it).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from learner.model.logprob import LogProbHead, of_logits

LARGE = 100.0  # standard deviation of a probe's logits: caps on logits lie below


class OwnHead(LogProbHead):
    """Owns the output head's weight [V, H] and bias [V]."""

    def __init__(self, causal_lm: Any, float32: bool = True):
        head = causal_lm.get_output_embeddings()
        super().__init__(head.weight, float32)
        self.bias = getattr(head, "bias", None)
        self._causal_lm = [causal_lm]  # in a list: its parameters must not be registered twice
        self._name = head_name(causal_lm)

    def of_states(
        self, states: Tensor, targets: Tensor, temperature: float, chunk: int, entropy: bool
    ) -> tuple[Tensor, Tensor | None]:
        dtype = torch.promote_types(states.dtype, torch.float32) if self.float32 else states.dtype
        # outside of the recomputed chunks, so that ZeRO-3, which gathers them for this module alone, sees them once
        weight = self.weight.to(dtype)
        bias = None if self.bias is None else self.bias.to(dtype)
        found = [
            checkpoint(self._chunk, some.to(dtype), ids, weight, bias, temperature, entropy, use_reentrant=False)
            for some, ids in zip(states.split(chunk), targets.split(chunk), strict=True)
        ]
        logprobs, entropies = zip(*found, strict=True)
        return torch.cat(logprobs), torch.cat(entropies) if entropy else None

    def _chunk(
        self, states: Tensor, ids: Tensor, weight: Tensor, bias: Tensor | None, temperature: float, entropy: bool
    ) -> tuple[Tensor, Tensor | None]:
        """[c, H] states, i64[c] ids -> log-probs and entropies, nats, [c]."""
        return of_logits(own_logits(self._causal_lm[0], self._name, states, weight, bias), ids, temperature, entropy)


def own_logits(causal_lm: Any, name: str, states: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The logits [n, V] that the model's forward pass makes of its last hidden states [n, H], by these parameters of
    its output head, whose name in it is `name`."""
    with _replaced(causal_lm, causal_lm.base_model_prefix, _Given()), _replaced(causal_lm, name, _Linear(weight, bias)):
        logits: Tensor = causal_lm(inputs_embeds=states[None], use_cache=False).logits[0]
    return logits


def head_name(causal_lm: Any) -> str:
    """The name of the output head in the model: lm_head, embed_out."""
    head = causal_lm.get_output_embeddings()
    return next(name for name, module in causal_lm.named_children() if module is head)


def is_plain(causal_lm: Any) -> bool:
    """Whether the model's logits are its last hidden states times its output head's weight, and nothing else."""
    head = causal_lm.get_output_embeddings()
    if getattr(head, "bias", None) is not None:
        return False
    if isinstance(head.weight, FakeTensor):  # without values, to measure a model's memory
        return True
    weight = head.weight.detach()[: 1 << 13]  # enough of a large vocabulary
    with torch.no_grad():
        generator = torch.Generator().manual_seed(0)
        states = torch.randn(4, weight.shape[1], generator=generator).to(weight)
        plain = states @ weight.T
        factor = LARGE / plain.float().std().clamp(min=1e-12)
        states = states * factor.to(states.dtype)
        plain = functional.linear(states, weight)
        own = own_logits(causal_lm, head_name(causal_lm), states, weight, None)
    return own.shape == plain.shape and torch.allclose(own.float(), plain.float(), rtol=1e-2, atol=1e-3 * LARGE)


class _States:
    """The output of a model's body of which only the last hidden states are there."""

    def __init__(self, states: Tensor):
        self.last_hidden_state = states

    def __getitem__(self, place: int | slice) -> Any:
        return (self.last_hidden_state,)[place]

    def __getattr__(self, name: str) -> None:
        """Caches, attentions and what else a model passes on."""


class _Given(nn.Module):
    """In place of a model's body, and of each part of it: its last hidden states are what it is given."""

    def __getattr__(self, name: str) -> _Given:
        """OPT's forward pass calls its body's decoder."""
        return self

    def forward(self, *_: Any, inputs_embeds: Tensor, **__: Any) -> _States:
        return _States(inputs_embeds)


class _Linear(nn.Module):
    """In place of a model's output head: with parameters that it does not register."""

    def __init__(self, weight: Tensor, bias: Tensor | None):
        super().__init__()
        self._given = weight, bias

    @property
    def weight(self) -> Tensor:
        return self._given[0]

    def forward(self, states: Tensor) -> Tensor:
        return functional.linear(states, *self._given)


@contextlib.contextmanager
def _replaced(module: nn.Module, name: str, by: nn.Module) -> Iterator[None]:
    before = module._modules[name]
    module._modules[name] = by
    try:
        yield
    finally:
        module._modules[name] = before
