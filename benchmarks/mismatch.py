"""How far sampler and learner are apart on the log-probs of the same tokens, by dtype, with and without a float32 head.

vLLM samples from random models, at temperatures 0.6 and 1; the learner scores the same tokens with the same weights.
Figures, one JSON line each on stdout (what led to them on stderr),
for each model (tiny: the quickstart's, random weights; trained: the same after its warm-up, on its own questions; wide:
random, hidden size 512, 8 layers, 32,768 tokens of vocabulary):

    mismatch_mean_<model>_<dtype>[_head]   mean |difference|, nats; _head: bfloat16 with float32 logits on both sides
    mismatch_p999_..., _max_..., _kl_...   its 99.9 % quantile, its maximum, the k3 estimate of KL(sampler, learner)
    mismatch_head_<model>                  the mean with the float32 head over that without it; goal 0.5 for
                                           trained (random models stay at 0.85 to 0.9)

`orchestrator/training/logprob_check.py` has its bounds from here.
"""

from __future__ import annotations

import argparse
import functools
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.pop(0)  # this folder: `learner` is the room, not a file here
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from benchmarks._answers import Local
from benchmarks._figures import add_small, figure, figures_only, say, without_goals
from benchmarks._random_models import scale
from benchmarks._runs import ROOT, add_runs, runs_folder, short_run

MODELS = ("tiny", "trained", "wide")
KINDS = {
    "float32": ("float32", "float32"),
    "bfloat16": ("bfloat16", "bfloat16"),
    "bfloat16_head": ("bfloat16", "float32"),
}
TEMPERATURES = (0.6, 1.0)
PROMPTS, LONGEST, SMALL = 64, 200, 8  # LONGEST: tokens of an answer; SMALL: what the small form divides both by


def make_model(name: str, folder: Path) -> str:
    """Random bfloat16 weights, with which every kind begins."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from conf.schema import ModelConf, RandomModelConf
    from learner.model.prepare_model import random_model

    path = random_model(folder / name, RandomModelConf(), ModelConf(), 0)
    config = AutoConfig.from_pretrained(path, tie_word_embeddings=False)
    if name == "wide":
        config = AutoConfig.for_model(
            "qwen2", hidden_size=512, num_hidden_layers=8, num_attention_heads=8, num_key_value_heads=2,
            intermediate_size=1536, vocab_size=32_768, tie_word_embeddings=False, max_position_embeddings=2048,
        )  # fmt: skip
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    scale(model)
    model.save_pretrained(path)
    return path


def trained_model(folder: Path) -> str:
    command = [sys.executable, "-m", "orchestrator", "warmup", "experiment=quickstart", f"warmup.cache={folder}"]
    subprocess.run(command, cwd=ROOT, stdout=sys.stderr, check=True)
    (config,) = folder.glob("*/config.json")
    return str(config.parent)


def questions(tokenizer: Any, count: int) -> list[Any]:
    """The quickstart's own, as its model reads them."""
    from conf.schema import DataConf, ModelConf
    from rollout.data.stream import PromptStream
    from rollout.data.tokens import generation_prompt

    encode = functools.partial(generation_prompt, tokenizer, conf=ModelConf())
    return PromptStream(None, encode, DataConf(), 1).take(count)


def noise(count: int) -> list[Any]:
    from rollout.prompt import Prompt

    rng = np.random.default_rng(0)
    return [Prompt(f"p{i}", "", rng.integers(5, 64, 16).astype(np.int32), "1", "bench") for i in range(count)]


def measure(
    name: str, path: str, dtype: str, head: str, tokens: int, small: bool, device: str = "cpu"
) -> list[dict[str, Any]]:
    """Differences at each temperature over at least `tokens` tokens, by an engine and a learner in this process."""
    from conf.schema import Device, Dtype, LearnerConf, ModelConf, RolloutConf
    from learner.learner import Learner
    from learner.worker import LearnerWorker
    from orchestrator.training.logprob_check import differences, logprob_gaps
    from rollout.data.tokens import control_tokens, load_tokenizer
    from rollout.request import SamplingParams
    from rollout.sampler import Sampler
    from rollout.worker import RolloutWorker

    shrink = SMALL if small else 1
    model = ModelConf(dtype=Dtype(dtype), head_dtype=Dtype(head))
    longest = LONGEST // shrink
    rollout = RolloutConf(
        device=Device(device), gpu_memory_utilization=0.2, kv_cache_gib=0.5, max_model_len=512,
        max_response_tokens=longest, max_num_seqs=64,
    )  # fmt: skip
    tokenizer = load_tokenizer(path, model)
    worker = RolloutWorker(rollout, model, path, control_tokens(tokenizer, model), 0)
    conf = LearnerConf(device=Device(device), max_tokens=8192, zero_stage=1)
    learner = Learner([Local(LearnerWorker(conf, model, path, 0, 1.0, 1))], conf)
    learner.start(None, reference=False)
    count = PROMPTS // shrink
    prompts = questions(tokenizer, count) if name == "trained" else noise(count)
    found = []
    for temperature in TEMPERATURES:
        gaps: list[np.ndarray] = []
        sampler = Sampler([Local(worker)], SamplingParams(temperature, 1.0, longest))
        while sum(map(len, gaps)) < tokens:
            trajectories = sampler.sample(prompts, 4, len(gaps)).wait()
            gaps.append(logprob_gaps(trajectories, learner, temperature, conf.max_tokens))
        whole = np.concatenate(gaps)
        found.append({**differences(whole), "tokens": len(whole)})
    return found  # both live on: the first to close takes the process's groups from the others


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=100_000, help="at each temperature, at least (100,000)")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS), help="these models (all)")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS), help="these kinds of numbers (all)")
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu", help="of sampler and learner (cpu)")
    add_runs(parser)
    add_small(parser)
    arguments = parser.parse_args()
    if arguments.small:
        without_goals()
    figures_only()
    with runs_folder(arguments.runs) as runs, tempfile.TemporaryDirectory(prefix="thinkless-bench-") as scratch:
        for name in arguments.models:
            if name != "trained":
                path = make_model(name, Path(scratch))
            elif arguments.small:
                path = str(short_run(0, runs) / "model")
            else:
                path = trained_model(Path(scratch) / name)
            means = {}
            for kind in arguments.kinds:
                dtype, head = KINDS[kind]
                tokens = 500 if arguments.small else arguments.tokens
                each = measure(name, path, dtype, head, tokens, arguments.small, arguments.device)
                say(f"{name}, {kind}: {each}")
                worst = {key: max(one[key] for one in each) for key in each[0]}
                for key in ("mean_abs", "p999_abs", "max_abs", "kl"):
                    figure(f"mismatch_{key.removesuffix('_abs')}_{name}_{kind}", worst[key], "nats")
                means[kind] = worst["mean_abs"]
            if {"bfloat16", "bfloat16_head"} <= set(means):
                goal = 0.5 if name == "trained" else None
                figure(f"mismatch_head_{name}", means["bfloat16_head"] / means["bfloat16"], "ratio", goal)


if __name__ == "__main__":
    main()
