"""Log-probs by a model's own head: scaled or capped logits, a bias; values and gradients against all logits at once."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from learner.model.logprob import LogProbHead
from learner.model.own_head import OwnHead, head_name, is_plain

SHAPE: dict[str, Any] = {
    "vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2,
    "intermediate_size": 24, "max_position_embeddings": 64, "bos_token_id": None, "eos_token_id": 1, "pad_token_id": 0,
    "initializer_range": 0.3,
}  # fmt: skip
OWN = {
    "scaled": ("GraniteConfig", {"logits_scaling": 3.0}),
    "capped": ("Gemma2Config", {"head_dim": 8, "final_logit_softcapping": 2.0}),
    "biased": ("PhiConfig", {}),
}


def model(kind: str, settings: dict[str, Any]) -> Any:
    import transformers

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = transformers.AutoModelForCausalLM.from_config(getattr(transformers, kind)(**SHAPE, **settings))
        for parameter in made.parameters():
            if parameter.ndim < 2:
                parameter.data += torch.randn_like(parameter)
    return made.double()


def logits(name: str, causal_lm: Any, states: Tensor) -> Tensor:
    """As the model's description has them."""
    head = causal_lm.get_output_embeddings()
    plain = states @ head.weight.T
    if name == "scaled":
        return plain / 3
    return 2 * (plain / 2).tanh() if name == "capped" else plain + head.bias


@pytest.mark.parametrize("chunk", [1, 3, 100])
@pytest.mark.parametrize("name", OWN)
def test_values_and_gradients_equal_those_of_all_logits_at_once(name: str, chunk: int) -> None:
    causal_lm = model(*OWN[name])
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(50, (9,), generator=generator)
    states = torch.randn(9, 16, generator=generator, dtype=torch.float64)
    response = torch.tensor([0, 0, 1, 1, 1, 0, 0, 1, 1], dtype=torch.bool)
    direction = torch.randn(9, generator=generator, dtype=torch.float64)
    head = causal_lm.get_output_embeddings()
    learnt = [one for one in (head.weight, getattr(head, "bias", None)) if one is not None]
    results = []
    for own in (True, False):
        given = states.clone().requires_grad_()
        if own:
            logprobs, entropies = OwnHead(causal_lm)(given, ids, response, 0.7, chunk)
        else:
            logp = (logits(name, causal_lm, given)[:-1] / 0.7).log_softmax(-1)
            mask = response[1:]
            start = torch.zeros(1, dtype=torch.float64)
            logprobs = torch.cat([start, logp.gather(-1, ids[1:, None])[:, 0] * mask])
            entropies = torch.cat([start, -(logp.exp() * logp).sum(-1) * mask])
        gradients = torch.autograd.grad((logprobs * direction).sum(), [given, *learnt])
        assert entropies is not None
        results.append([logprobs.detach(), entropies.detach(), *gradients])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)
    assert OwnHead(causal_lm)(states, ids, response, 0.7, chunk, entropy=False)[1] is None


def test_bfloat16_states_have_float32_logits() -> None:
    causal_lm = model(*OWN["capped"]).bfloat16()
    states = torch.randn(5, 16, generator=torch.Generator().manual_seed(2)).bfloat16()
    ids, response = torch.arange(5), torch.tensor([False, True, True, True, True])
    found, _ = OwnHead(causal_lm)(states, ids, response, 1.0, 2)
    want = logits("capped", causal_lm.float(), states.float())[:-1].log_softmax(-1).gather(-1, ids[1:, None])[:, 0]
    assert found.dtype == torch.float32
    torch.testing.assert_close(found[1:], want, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_a_head_does_is_measured(dtype: torch.dtype) -> None:
    """Not read from the configuration; a plain head gets the faster code."""
    for name, given in OWN.items():
        assert not is_plain(model(*given).to(dtype)), name
    for kind, settings in (
        ("Qwen2Config", {}),
        ("GraniteConfig", {"logits_scaling": 1.0}),
        ("OPTConfig", {"word_embed_proj_dim": 16, "ffn_dim": 8}),
    ):
        assert is_plain(model(kind, settings).to(dtype)), kind
    assert is_plain(model("Gemma2Config", {"head_dim": 8, "final_logit_softcapping": None}).to(dtype))


def test_a_model_is_left_as_it_was() -> None:
    from learner.model.policy import Policy

    causal_lm = model(*OWN["biased"])
    modules, names = list(causal_lm.modules()), [name for name, _ in causal_lm.named_parameters()]
    policy = Policy(causal_lm)
    assert isinstance(policy.head, OwnHead) and type(Policy(model("Qwen2Config", {})).head) is LogProbHead
    assert list(causal_lm.modules()) == modules and head_name(causal_lm) == "lm_head"
    assert [policy.public_name(name) for name, _ in policy.named_parameters()] == names
