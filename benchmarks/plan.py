"""How far is `thinkless plan` off? Against published step times, a real engine's cache, and real runs on this CPU.

Figures, one JSON line each on stdout (what led to them on stderr); errors are |planned / measured - 1|:

    plan_vs_<published>       planned over published seconds of a step (A100 hours of the whole training: deepscaler);
                              goal 0.75 to 1.33 for nemo_*; what was published and assumed is in PUBLISHED
    plan_cache_error_<model>  tokens that a real vLLM engine's cache holds; goal 0.1
    plan_sampler_error_<model>  resident memory of a process with that engine after it sampled; goal 0.1
    plan_learner_error_<run>  highest resident memory of a learner rank, its longest row known; goal 0.1
    plan_step_error           mean step time of a run with three times as many prompts, from the metrics of another

About four minutes on two free cores. The small form takes one short run for both.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

sys.path.pop(0)  # this folder: `learner` is the room, not a file here
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks._figures import add_small, figure, say, without_goals
from benchmarks._runs import ROOT, add_runs, runs_folder, short_run
from conf.compose import composed, from_file
from conf.schema import Config, Dtype, ModelConf, RandomModelConf, RolloutConf
from orchestrator.plan import correction
from orchestrator.plan.formulas import assumptions
from orchestrator.plan.hardware import CPU, GPUS
from orchestrator.plan.layouts import Layout
from orchestrator.plan.lengths import Lengths
from orchestrator.plan.memory import LEARNER_PROCESS, cache_tokens, engine_items, rank_memory
from orchestrator.plan.model_shape import KNOWN, ModelShape, model_shape
from orchestrator.plan.pipeline import simulate


def _decoder(
    kind: str, hidden: int, layers: int, heads: int, ffn: int, vocab: int, kv_heads: int = 8
) -> dict[str, Any]:
    return {
        "model_type": kind, "hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": heads,
        "num_key_value_heads": kv_heads, "intermediate_size": ffn, "vocab_size": vocab, "head_dim": 128,
        "tie_word_embeddings": False,
    }  # fmt: skip


LLAMA_8B = _decoder("llama", 4096, 32, 32, 14336, 128256)
QWEN3_32B = _decoder("qwen3", 5120, 64, 64, 25600, 151936)
QWEN_7B = _decoder("qwen2", 3584, 28, 28, 18944, 152064, kv_heads=4)
R1_1P5B = KNOWN["deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B"]


@dataclass(frozen=True, slots=True)
class Published:
    """A training that others have timed. mean: response tokens; batch: prompts, siblings, optimizer steps."""

    model: dict[str, Any]
    layout: Layout
    gpu: str
    mean: float
    cap: int
    batch: tuple[int, int, int]
    seconds: float
    prompt: int = 150
    settings: tuple[str, ...] = ()


_NEMO = ("learner.gradient_checkpointing=false", "rollout.max_num_seqs=1024")
_FOUR = ("rollout.tensor_parallel=4", "rollout.workers=8", "learner.ranks=32")
PUBLISHED = {
    # NeMo RL v0.4, docs/about/performance-summary.md: DGX H100, OpenMathInstruct-2, 1,060, 1,129 and 3,206 tokens a
    # sequence, of which 150 are taken for the prompt. The split of its 16 GPUs one step off policy is assumed.
    "nemo_8b": Published(LLAMA_8B, Layout(16, 16, 16, 0), "h100", 910, 3946, (64, 32, 4), 97.7, settings=_NEMO),
    "nemo_8b_async": Published(LLAMA_8B, Layout(8, 8, 0, 1), "h100", 979, 3946, (64, 32, 4), 74.6, settings=_NEMO),
    "nemo_32b": Published(
        QWEN3_32B, Layout(8, 32, 8, 0, tensor_parallel=4), "h100", 3056, 3946, (64, 32, 4), 393,
        settings=(*_NEMO, *_FOUR),
    ),
    # EasyR1 0.3, assets/baselines.md: Qwen2.5-VL-7B on Geometry3k, 1,200 tokens/s and GPU, so 675 of each of 2,560
    # sequences; its actor's MFU is 13.6 % there, where 40 % is assumed here
    "easyr1_7b": Published(
        QWEN_7B, Layout(4, 8, 4, 0, tensor_parallel=2), "h100", 300, 2048, (512, 5, 4), 180, prompt=375,
        settings=("rollout.tensor_parallel=2", "rollout.workers=4", "learner.ranks=8"),
    ),
}  # fmt: skip
# DeepScaleR (agentica-project, February 2025): 3,800 A100 hours; by its model card 1,040 steps of 1,024 answers at 8K
# on 8 GPUs, 480 of 2,048 at 16K and 230 at 24K on 32. Its answers fall from 5,500 to 3,500 tokens at 8K; means of
# the other two stages are assumed. It ran vLLM 0.6 with xFormers attention.
DEEPSCALER_HOURS = 3800.0
DEEPSCALER = ((8192, 8, 4000, 1040, 8), (16384, 16, 5000, 480, 32), (24576, 16, 6000, 230, 32))


def planned_seconds(case: Published) -> float:
    prompts, group, steps = case.batch
    words = ["experiment=thinkless_1p5b_on_policy", f"rollout.prompts_per_step={prompts}",
             f"rollout.group_size={group}", f"algorithm.optimizer_steps={steps}",
             f"rollout.max_response_tokens={case.cap}", *case.settings]  # fmt: skip
    model = ModelShape.of("published", "", case.model, Dtype.bfloat16)
    capped = Lengths(prompt=case.prompt, cap=case.cap, cap_think=case.cap, cap_short=case.cap)
    lengths, gpu = capped.with_means(case.mean, None, 1.0), GPUS[case.gpu]
    found = simulate(case.layout, composed(words), model, gpu, lengths, assumptions(gpu))
    say(f"{case.layout.name}: {found}")
    return found.seconds


def against_published() -> None:
    for name, case in PUBLISHED.items():
        goal = "0.75 to 1.33" if name.startswith("nemo") else None
        figure(f"plan_vs_{name}", planned_seconds(case) / case.seconds, "planned over published seconds a step", goal)
    hours = 0.0
    for cap, group, mean, steps, gpus in DEEPSCALER:
        case = Published(R1_1P5B, Layout(gpus, gpus, gpus, 0), "a100", mean, cap, (128, group, 2), 0.0)
        hours += planned_seconds(case) * steps * gpus / 3600
    figure("plan_vs_deepscaler", hours / DEEPSCALER_HOURS, "planned over published A100 hours")


SHAPES = {  # of random models, with rollout.kv_cache_gib
    "tiny": (RandomModelConf(), 1.0),
    "wide": (RandomModelConf(hidden_size=512, layers=8, heads=8, kv_heads=8, ffn_size=1536), 0.5),
}


def engine(folder: Path, name: str) -> None:
    """In a process of its own: prints what an engine takes after it sampled."""
    from learner.metrics.memory import resident_peak
    from learner.model.prepare_model import random_model
    from rollout.data.tokens import control_tokens, load_tokenizer
    from rollout.engine import Request
    from rollout.worker import RolloutWorker

    shape, cache_gib = SHAPES[name]
    conf = RolloutConf(kv_cache_gib=cache_gib)
    path = random_model(folder, shape, ModelConf(), 0)
    control = control_tokens(load_tokenizer(path, ModelConf()), ModelConf())
    worker = RolloutWorker(conf, ModelConf(), path, control, seed=0)
    worker.ready()
    vllm = worker.engine.engine.vllm_config.cache_config
    made = worker.engine
    for key in range(conf.max_num_seqs):
        made.add(key, Request([2, 12, 3], 128, 1.0, 1.0, key))
    while made.unfinished:
        made.step()
    planned = replace(Config(), rollout=conf)
    model, items = model_shape(ModelConf(path=path)), engine_items(planned, model_shape(ModelConf(path=path)), CPU)
    found = {
        "blocks": vllm.num_gpu_blocks * vllm.block_size, "planned": cache_tokens(items["cache"], planned, model, CPU),
        "resident": resident_peak(), "planned_resident": sum(items.values()),
    }  # fmt: skip
    sys.stdout.flush()
    print("\n" + json.dumps(found), flush=True)


def against_an_engine(name: str, printed: tuple[str, ...]) -> None:
    """printed: names of the figures, several where one model stands for others."""
    with tempfile.TemporaryDirectory(prefix="thinkless-plan-") as scratch:
        command = [sys.executable, __file__, "--engine", scratch, "--shape", name]
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    say(f"an engine, {name}: {found}")
    error = abs(found["planned_resident"] / found["resident"] - 1)
    for one in printed:
        figure(f"plan_cache_error_{one}", abs(found["planned"] / found["blocks"] - 1), "relative error of tokens", 0.1)
        figure(f"plan_sampler_error_{one}", error, "relative error of resident memory", 0.1)


def learner_error(folder: Path) -> float:
    """Of the highest resident memory of the run's rank, with its fullest row."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    rows = [row for row in rows if row.get("learner/fill")]
    measured = max(row[f"learner/memory_gib/{phase}"] for row in rows for phase in ("score", "learn", "step")) * 2**30
    conf = from_file(folder / "config.yaml", [])
    tokens = int(max(row["learner/fill"] for row in rows) * conf.learner.max_tokens)
    row_conf = replace(conf, learner=replace(conf.learner, max_tokens=max(tokens, 1)))
    planned = rank_memory(row_conf, run_model(conf, folder)).peak + LEARNER_PROCESS
    figures = f"planned {planned / 1e9:.3f} GB, measured {measured / 1e9:.3f}"
    say(f"{folder.name}: a learner rank with rows of {tokens} tokens, {figures}")
    return abs(planned / measured - 1)


def run_model(conf: Config, folder: Path) -> ModelShape:
    return model_shape(replace(conf.model, path=str(folder / "model")))


def step_error(calibrated: Path, predicted: Path) -> float:
    own, other = (from_file(folder / "config.yaml", []) for folder in (calibrated, predicted))
    model = run_model(own, calibrated)
    found = correction.corrected(own, correction.read(calibrated, own), model, CPU, assumptions(CPU))
    say("\n".join(found.said))
    step = simulate(Layout.of(other), other, model, CPU, found.lengths, found.given)
    measured = correction.read(predicted, other)
    say(f"{predicted.name}: {measured.step:.3f} s a step measured, {step.seconds:.3f} planned")
    return abs(step.seconds / measured.step - 1)


_SAME = """
    run.save_every=0 run.logprob_check_every=0 evaluate.every=0 evaluate.final=false tracker.report=false
    tracker.progress=false tracker.console=false learner.lr=1e-12 rollout.workers=1 rollout.num_cpus=0.4
"""
_WIDE = """
    model.random.hidden_size=512 model.random.layers=8 model.random.heads=8 model.random.kv_heads=8
    model.random.ffn_size=1536 warmup.steps=10 warmup.batch_size=4 warmup.max_tokens=1024 run.steps=5
    data.max_prompt_tokens=512 rollout.max_response_tokens=256 learner.max_tokens=4096
"""
BATCHES = {f"prompts_{n}": [f"rollout.prompts_per_step={n}", "run.steps=24", "warmup.steps=600"] for n in (16, 48)}


def train(root: Path, name: str, settings: list[str]) -> Path:
    command = [sys.executable, "-m", "orchestrator", "train", "experiment=quickstart", f"run.root={root}",
               f"run.name={name}", *_SAME.split(), *settings]  # fmt: skip
    say(" ".join(command))
    subprocess.run(command, cwd=ROOT, stdout=sys.stderr, check=True)
    return root / name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_small(parser)
    add_runs(parser)
    parser.add_argument("--engine", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--shape", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.engine:
        engine(arguments.engine, arguments.shape)
        return
    if arguments.small:
        without_goals()
    against_published()
    engines = {"tiny": tuple(SHAPES)} if arguments.small else {name: (name,) for name in SHAPES}
    for model, names in engines.items():
        against_an_engine(model, names)
    with runs_folder(arguments.runs) as root:
        if arguments.small:
            runs = {name: short_run(0, root) for name in ("tiny", "wide")}
            first = second = runs["tiny"]
        else:
            first, second = (train(root, name, settings) for name, settings in BATCHES.items())
            runs = {"tiny": second, "wide": train(root, "wide", _WIDE.split())}
        for name, folder in runs.items():
            figure(f"plan_learner_error_{name}", learner_error(folder), "relative error of resident memory", 0.1)
        figure("plan_step_error", step_error(first, second), "relative error of the mean step time", 0.15)


if __name__ == "__main__":
    main()
