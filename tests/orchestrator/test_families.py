"""Each family of models, as a tiny one with random weights, from new control tokens to the export.

Control tokens are added, a warm-up step is learnt, vLLM loads the model and samples, the log-probs agree, an update is
learnt, the weights are synced and agree again, and the export is the same model. Learner and sampler have processes of
their own, as in a run: vLLM changes classes of transformers where it uses them itself, for all that the process has.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conf.schema import AlgorithmConf, LearnerConf, ModelConf, RolloutConf, WarmupConf
from learner.data.batch import Sequence
from learner.data.pack import pack
from learner.data.sft import Curriculum
from learner.learner import Learner
from learner.loss import Totals
from learner.model.prepare_model import prepared_model
from orchestrator.training.logprob_check import logprob_gaps
from rollout.data.pairs import Pair, Pairs
from rollout.data.tokens import build_character_tokenizer, control_tokens, load_tokenizer, save_tokenizer
from rollout.mode import ControlTokens
from rollout.request import SamplingParams
from rollout.sampler import Sampler
from rollout.trajectory import Trajectory
from rollout.weight_sync.sync import WeightSync
from rollout.worker import RolloutWorker
from tests.helpers.handles import LocalFuture
from tests.helpers.learner_ranks import Ranks
from tests.helpers.prompts import make_prompts
from tests.helpers.seldom import seldom

pytestmark = pytest.mark.heavy
SHAPE: dict[str, Any] = {
    "vocab_size": 264, "hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 96, "max_position_embeddings": 512, "initializer_range": 0.12, "attention_dropout": 0.0,
    "pad_token_id": 0, "bos_token_id": None, "eos_token_id": 1,
}  # fmt: skip
HEAD = {"head_dim": 32}  # vLLM's CPU attention takes multiples of 32
GEMMA = {**HEAD, "query_pre_attn_scalar": 32, "sliding_window": 16}  # shorter than a sequence here
LONG = {"rope_type": "longrope", "rope_theta": 10000.0, "partial_rotary_factor": 0.75, "long_factor": [9.0] * 12,
        "short_factor": [1 + 0.1 * i for i in range(12)], "original_max_position_embeddings": 512}  # fmt: skip
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "Qwen2.5": ("Qwen2Config", {"tie_word_embeddings": True}),
    "Qwen3": ("Qwen3Config", {**HEAD, "vocab_size": 300}),  # more rows than the tokenizer has ids
    "DeepSeek-R1-Distill": ("Qwen2Config", {"tie_word_embeddings": False}),
    "Llama 3": ("LlamaConfig", {"rope_parameters": {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 4.0,
                "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}}),
    "Gemma 2": ("Gemma2Config", {**GEMMA, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 5.0}),
    "Gemma 3": ("Gemma3TextConfig", GEMMA),
    "Phi-2": ("PhiConfig", {"num_key_value_heads": 4}),
    "Phi-3": ("Phi3Config", {"sliding_window": 16, "max_position_embeddings": 2048, "rope_parameters": LONG}),
    "OLMo 2": ("Olmo2Config", {}),
    "Mistral": ("MistralConfig", {"sliding_window": 16, "rope_parameters": DYNAMIC}),
    "Granite": ("GraniteConfig", {"logits_scaling": 4.0, "residual_multiplier": 0.3, "embedding_multiplier": 4.0,
                "attention_multiplier": 0.1}),
    "Cohere": ("CohereConfig", {}),
    "Cohere 2": ("Cohere2Config", {"sliding_window": 64, "layer_types": ["sliding_attention", "full_attention"]}),
    "LFM2": ("Lfm2Config", {"layer_types": ["conv", "full_attention"], "conv_dim": 128, "block_dim": 128}),
    "Mamba 2": ("Mamba2Config", {"num_heads": 8, "head_dim": 32, "state_size": 32, "n_groups": 1, "chunk_size": 16,
                "intermediate_size": 256}),
    "SmolLM3": ("SmolLM3Config", {}),
    "GLM-4": ("Glm4Config", HEAD),
    "EXAONE 4": ("Exaone4Config", {"sliding_window": 16}),
    "GPT-NeoX": ("GPTNeoXConfig", {"num_key_value_heads": 4}),  # vLLM reads the number, transformers does not
    "GPT-2": ("GPT2Config", {"tie_word_embeddings": True}),
    "OPT": ("OPTConfig", {"word_embed_proj_dim": 128, "ffn_dim": 96, "init_std": 0.12}),
}  # fmt: skip
# Of `make test`, and the others of `make test-all`: the paper's; norms of queries and keys, padded embeddings; capped
# logits, windows; fused projections, partial and scaled positions; a state along the sequence and no attention.
ALWAYS = {"DeepSeek-R1-Distill", "Qwen3", "Gemma 2", "Phi-3", "Mamba 2"}
LR = 1e-2
CONF = LearnerConf(lr=LR, betas=[0.9, 0.95])
NAMES = ModelConf(think_token="<a>", think_end_token="</a>", short_token="<b>")  # of a tokenizer without ours


class RolloutHandle:
    """The newest rollout worker of a process of its own."""

    def __init__(self, sampler: Ranks):
        self.sampler = sampler

    def call(self, method: str, *args: Any, timeout_s: float | None = None) -> LocalFuture:
        given = [arg.wait() if isinstance(arg, LocalFuture) else arg for arg in args]
        return LocalFuture(self.sampler.each(call_rollout, method, *given)[0])


def start_rollout(state: dict[str, Any], folder: str, control: ControlTokens) -> None:
    """The former ones are kept: the first to close would take vLLM's process groups from the others."""
    conf = RolloutConf(kv_cache_gib=0.05, max_model_len=512)
    state.setdefault("rollout", []).append(RolloutWorker(conf, ModelConf(), folder, control, seed=0))


def call_rollout(state: dict[str, Any], method: str, *args: Any) -> Any:
    return getattr(state["rollout"][-1], method)(*args)


class RankHandle:
    """The only rank of a learner, in its own process."""

    def __init__(self, ranks: Ranks, folder: str):
        self.ranks, self.folder = ranks, folder

    def call(self, method: str, *args: Any, timeout_s: float | None = None) -> LocalFuture:
        if method == "address":
            return LocalFuture(("127.0.0.1", self.ranks.port))
        if method == "start":
            return LocalFuture(self.ranks.start(CONF, self.folder, temperature=1.0))
        return LocalFuture(self.ranks.call(method, *args)[0])


@pytest.fixture(scope="module")
def ranks() -> Iterator[Ranks]:
    made = Ranks(1)
    yield made
    made.close()


@pytest.fixture(scope="module")
def sampling() -> Iterator[Ranks]:
    made = Ranks(1)
    yield made
    made.close()


def base_model(folder: Path, kind: str, settings: dict[str, Any]) -> None:
    import torch
    import transformers

    config = getattr(transformers, kind)(**SHAPE | settings)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(config)
        for parameter in model.parameters():
            if parameter.ndim < 2:  # biases and norms: neither zero nor one
                parameter.data += 0.3 * torch.randn_like(parameter)
    model.generation_config = transformers.GenerationConfig(
        do_sample=True, temperature=0.3, top_k=3, repetition_penalty=1.5, eos_token_id=[1, 2]
    )
    model.save_pretrained(folder)
    build_character_tokenizer(folder, NAMES)


def warm_up(learner: Learner, folder: str) -> None:
    """One step on two pairs, as `thinkless warmup` does it."""
    conf, pairs = (
        WarmupConf(steps=1, batch_size=2),
        (Pair("1+1=", "2, so</think>2", "2"), Pair("2+1=", "3</think>3", "3")),
    )
    curriculum = Curriculum(
        Pairs(conf, "</think>", pairs), load_tokenizer(folder, ModelConf()), conf, ModelConf(), 2048, 1
    )
    (batch,) = curriculum.batches()
    loss, _ = learner.fine_tune(batch).wait()
    assert np.isfinite(loss) and not curriculum.too_long


def learn(learner: Learner, trajectories: list[Trajectory]) -> None:
    """An update on random advantages."""
    rng, sequences = np.random.default_rng(0), []
    for t in trajectories:
        weights = np.full(len(t.token_ids), 1 / len(t.token_ids) / len(trajectories), np.float32)
        ids = np.concatenate([t.prompt.token_ids, t.token_ids])
        advantage = float(rng.choice([-1.0, 1.0]))
        sequences.append(Sequence(ids, len(t.prompt.token_ids), weights, weights, advantage, t.behavior_logprobs, 0))
    report = learner.apply([pack(sequences, Totals(len(sequences), 1, 1), 2048, 1)], AlgorithmConf(kl=0.0))
    assert report is not None and not report.skipped


def logprobs_of_folder(state: dict[str, Any], folder: str, prompt: np.ndarray, response: np.ndarray) -> np.ndarray:
    """By transformers alone; in the learner's process."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")  # sdpa ignores Gemma 2's caps
    ids = torch.tensor(np.concatenate([prompt, response]).astype(np.int64))
    with torch.no_grad():
        logits = model(input_ids=ids[None], use_cache=False).logits[0, len(prompt) - 1 : -1]
    return logits.log_softmax(-1).gather(-1, ids[len(prompt) :, None])[:, 0].numpy()


@pytest.mark.parametrize("family", [one if one in ALWAYS else seldom(one) for one in FAMILIES])
def test_a_family_goes_through_the_whole_loop(family: str, ranks: Ranks, sampling: Ranks, tmp_path: Path) -> None:
    base_model(tmp_path / "base", *FAMILIES[family])
    folder = prepared_model(ModelConf(path=str(tmp_path / "base")), tmp_path / "prepared")  # with the control tokens
    tokenizer = load_tokenizer(folder, ModelConf())
    control = control_tokens(tokenizer, ModelConf(), folder)
    assert control.other_ends == (2,)  # of its generation_config.json, whose sampling is not used
    learner = Learner([RankHandle(ranks, folder)], CONF)
    assert learner.start(None, reference=False) > 0 and (learner.vocabulary or 0) >= 267
    warm_up(learner, folder)

    sampling.each(start_rollout, folder, control)
    sampler = Sampler([RolloutHandle(sampling)], SamplingParams(1.0, 1.0, 24))
    sync, prompts = WeightSync(learner.ranks, sampler, True), make_prompts(8)
    trajectories: list[Trajectory] = []
    for version in (1, 2):  # after the warm-up, after an update
        if trajectories:
            learn(learner, trajectories)
            assert np.abs(logprob_gaps(trajectories, learner, 1.0, 2048)).max() > 0.1  # the weights moved
        sync.start(version)
        trajectories = sampler.sample(prompts, 2, version).wait()
        assert {int(one) for t in trajectories for one in t.versions} == {version}
        assert np.abs(logprob_gaps(trajectories, learner, 1.0, 2048)).max() <= 1e-4

    learner.export(str(tmp_path / "export"))
    save_tokenizer(tokenizer, tmp_path / "export", ModelConf())
    prompt, response = trajectories[0].prompt.token_ids, trajectories[0].token_ids
    (logprobs,) = ranks.each(logprobs_of_folder, str(tmp_path / "export"), prompt, response)
    np.testing.assert_allclose(logprobs, trajectories[0].behavior_logprobs, atol=1e-4)
