"""The learner against bare PyTorch and TRL, the exactness of its gradients, and what it needs of memory.

Figures, one JSON line each on stdout (what led to them on stderr). Each group runs in a process of its own; --only
takes groups or figures by name.

    update       update_vs_torch        tokens/s of LearnerWorker.update over those of a bare PyTorch loop; goal 0.9
                 update_vs_trl          the same over TRL's GRPO update on the same trajectories; goal 2
                 update_tokens_per_s    of LearnerWorker.update
    update_long  the same three with _long: heavy-tailed lengths of up to 1,000 tokens, a model of 0.8 M parameters
    scaling      update_seconds_per_token_ratio   seconds a token at four times the tokens, over those at one time
    gradient     gradient_max_rel_error worst tensor of all layouts against float64; goal 1e-5
    growth       update_memory_growth   resident memory after 200 updates over that after 20; goal 1.01
    logprob      logprob_extra_gb       what log-probs of 24,576 tokens and their backward pass add; goal 1.5
                 logprob_extra_gb_<N>, _full_<N>, _tiled_<N>, and their seconds: against plain logits and DeepSpeed's
                 tiled loss
    packing      pack_imbalance         costliest rank over the mean by FLOPs, goal 1.02; _by_tokens for comparison
                 pack_padding, pack_fill
    gpu          mfu, hfu               of a GPU's peak, Qwen2.5-1.5B's shape, answers of 24,576 tokens, bfloat16, full
                 checkpointing; goals 0.35, 0.45; and _packed: eight answers a row. Needs torch, transformers,
                 deepspeed and a GPU (else it is left out); about three minutes. --gpu is --only gpu.

Every round, the sides of `update` take turns in one process with one thread: what else the machine does falls on all.
They start from the same weights and must end at the same ones. TRL is given the trajectories as tensors ready for its
loss, padded as it pads them, and its fastest micro-batch of those tried; its own optimizer and loss, temperature 1, no
KL term, no checkpointing. The bare loop has the learner's packed attention and the faster of plain and chunked logits.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import itertools
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

sys.path.pop(0)  # this folder: `learner` is the room, not this file
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "learner"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from benchmarks._figures import figure, say
from conf.schema import (
    AlgorithmConf,
    ArithmeticConf,
    Device,
    Dtype,
    Form,
    LearnerConf,
    Loss,
    ModelConf,
    RandomModelConf,
)
from learner.batch import TrainBatch
from learner.flops import Shape, device_peak, tokens_only
from learner.memory import GIB, PeakMemory, reset_resident_peak, resident, resident_peak
from learner.objective import optimizer_steps
from learner.pack import pack, packing
from learner.siblings import origins
from rollout.mode import Mode

TRL_NEEDS = "pip install --no-deps 'trl==1.16.*' accelerate"
QWEN = Shape(hidden=1536, layers=28, heads=12, kv_heads=2, head_dim=128, ffn=8960, vocab=151936)  # Qwen2.5-1.5B
GRPO = AlgorithmConf(loss=Loss.grpo, form=Form.paper, kl=0.0, optimizer_steps=1)
VOCAB = 151_936
LONGEST = 24_576


# ---------------------------------------------------------------------- trajectories and models


def make_group(prompt: np.ndarray, responses: list[np.ndarray], rng: np.random.Generator, uid: str) -> Any:
    """A judged group whose rewards differ."""
    from reward.group import Group
    from reward.verdict import Outcome, Verdict
    from rollout.prompt import Prompt
    from rollout.trajectory import Finish, Trajectory

    asked = Prompt(uid, "", prompt, "1", "bench")
    given = tuple(
        Trajectory(asked, i, ids, np.full(len(ids), -1, np.float32), tuple(Mode)[i % 2], Finish.STOP, (0, 0))
        for i, ids in enumerate(responses)
    )
    rewards = rng.choice([1.0, 0.5, -1.0], len(given)).astype(np.float32)
    rewards[:2] = 1.0, -1.0
    verdicts = tuple(Verdict(Outcome.CORRECT if r > 0 else Outcome.WRONG, None, 0.0) for r in rewards)
    return Group(asked, given, verdicts, rewards)


def quickstart_groups(tokenizer: Any, prompts: int = 32) -> list[Any]:
    """One step's trajectories of the quickstart: its questions, half of the siblings thinking, half short."""
    from rollout.arithmetic import question_at, short_answer, think_answer
    from rollout.tokens import training_example

    rng, groups = np.random.default_rng(0), []
    for index in range(prompts):
        _, problem, steps = question_at(0, index, ArithmeticConf(), "bench")
        texts = [(Mode.THINK, think_answer(steps)), (Mode.SHORT, short_answer(steps))]
        pairs = [training_example(tokenizer, problem, mode, text, ModelConf()) for mode, text in texts]
        groups.append(make_group(pairs[0][0], [response for _, response in pairs * 4], rng, f"q{index}"))
    return groups


def long_groups(vocab: int, prompts: int = 4) -> list[Any]:
    """Heavy-tailed lengths as reasoning models have them, at a sixteenth of their scale: up to 1,536 tokens."""
    rng, groups = np.random.default_rng(1), []
    for index in range(prompts):
        lengths = np.clip(rng.lognormal(4.8, 1.0, 8), 8, 1536).astype(int)
        prompt = rng.integers(8, vocab, int(rng.integers(10, 40))).astype(np.int32)
        responses = [rng.integers(8, vocab, n).astype(np.int32) for n in lengths]
        groups.append(make_group(prompt, responses, rng, f"l{index}"))
    return groups


def model_folder(folder: Path, shape: RandomModelConf, seed: int = 0) -> str:
    from learner.prepare import random_model

    return random_model(folder, shape, ModelConf(), seed)


def started_worker(path: str, conf: LearnerConf, dtype: Dtype = Dtype.float32) -> Any:
    from learner.worker import LearnerWorker

    worker = LearnerWorker(conf, ModelConf(dtype=dtype), path, 0, 1.0, 1_000_000)
    worker.start("127.0.0.1", worker.address(None)[1], False)
    return worker


def as_batch(
    groups: list[Any], conf: LearnerConf, cost: Any = tokens_only, algorithm: AlgorithmConf = GRPO
) -> TrainBatch:
    ((sequences, totals),) = optimizer_steps(groups, algorithm)
    return pack(sequences, totals, conf.max_tokens, 1, cost)


# ---------------------------------------------------------------------- update: the same step three ways


class Bare:
    """What one would write by hand: forward, backward, clip, AdamW. plain: whole logits; else the learner's head."""

    def __init__(self, path: str, conf: LearnerConf, plain: bool):
        import torch

        from learner.model import load_policy

        self.policy, self.conf, self.plain = load_policy(path, "float32").train(), conf, plain
        self.optimizer = torch.optim.AdamW(
            self.policy.parameters(), lr=conf.lr, betas=tuple(conf.betas), eps=conf.eps, weight_decay=conf.weight_decay
        )

    def __call__(self, batch: TrainBatch) -> None:
        import torch

        self.optimizer.zero_grad()
        for mb in batch.ranks[0]:
            weights, advantages = torch.from_numpy(mb.weights), torch.from_numpy(mb.advantages)
            new = self._logprobs(mb)
            ratio = (new - new.detach()).exp()
            surrogate = torch.minimum(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages)
            (-weights * surrogate).sum().backward()
        torch.nn.utils.clip_grad_norm_(self.policy.parameters(), self.conf.max_grad_norm)
        self.optimizer.step()

    def weights(self) -> dict[str, Any]:
        return weights_of(self.policy.causal_lm)

    def _logprobs(self, mb: Any) -> Any:
        import torch

        from learner.attention import Layout

        ids, places, response = map(torch.from_numpy, (mb.token_ids, mb.position_ids, mb.response))
        layout = Layout(list(mb.lengths), origins=None if self.plain else origins(mb))
        if not self.plain:
            return self.policy(ids, places, response, layout, 1.0, self.conf.logprob_chunk)[0]
        states = self.policy.body(
            input_ids=ids[None], position_ids=places[None], use_cache=False, layout=layout
        ).last_hidden_state[0]
        at = response.nonzero()[:, 0]
        table = (states[at - 1] @ self.policy.head.weight.T).log_softmax(-1)
        return torch.zeros(len(ids)).index_put((at,), table.gather(-1, ids[at, None])[:, 0])


class Ours:
    def __init__(self, worker: Any):
        self.worker = worker

    def __call__(self, batch: TrainBatch) -> None:
        self.worker.update([batch.ranks[0]], GRPO)

    def weights(self) -> dict[str, Any]:
        return {name: parameter.detach().clone() for name, parameter in self.worker.engine.parameters()}


class Trl:
    """TRL's GRPOTrainer from the loss to the optimizer's step, on tensors padded as it pads them."""

    def __init__(self, path: str, conf: LearnerConf, folder: Path, size: int, groups: list[Any]):
        import torch
        from datasets import Dataset
        from transformers import AutoModelForCausalLM
        from trl import GRPOConfig, GRPOTrainer
        from trl.trainer.utils import pad, split_tensor_dict

        from rollout.tokens import load_tokenizer

        trajectories = [t for group in groups for t in group.trajectories]
        parts = len(trajectories) // size
        arguments = GRPOConfig(
            output_dir=str(folder / "trl"), use_cpu=True, bf16=False, report_to="none",
            per_device_train_batch_size=size, gradient_accumulation_steps=parts, num_generations=8,
            temperature=1.0, beta=0.0, epsilon=0.2, loss_type="grpo", gradient_checkpointing=False,
            learning_rate=conf.lr, lr_scheduler_type="constant", weight_decay=conf.weight_decay,
            adam_beta1=conf.betas[0], adam_beta2=conf.betas[1], adam_epsilon=conf.eps, max_grad_norm=conf.max_grad_norm,
            max_completion_length=LONGEST,
        )  # fmt: skip
        model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
        tokenizer = load_tokenizer(path, ModelConf())
        self.trainer = GRPOTrainer(
            model=model,
            reward_funcs=lambda **_: [0.0],
            args=arguments,
            train_dataset=Dataset.from_list([{"prompt": "?"}] * 8),
            processing_class=tokenizer,
        )
        trainer = self.trainer
        trainer.create_optimizer()
        trainer.model_wrapped, trainer.optimizer = trainer.accelerator.prepare(trainer.model, trainer.optimizer)
        trainer.current_gradient_accumulation_steps = parts
        trainer._prepare_inputs = lambda inputs: inputs  # they are ready: no generation, no rewards
        advantages = np.concatenate([g.rewards - g.rewards.mean() for g in groups]).astype(np.float32)
        prompts = [torch.from_numpy(t.prompt.token_ids).long() for t in trajectories]
        answers = [torch.from_numpy(t.token_ids).long() for t in trajectories]
        everything = {
            "prompt_ids": pad(prompts, padding_value=tokenizer.pad_token_id, padding_side="left"),
            "prompt_mask": pad([torch.ones_like(p) for p in prompts], padding_value=0, padding_side="left"),
            "completion_ids": pad(answers, padding_value=tokenizer.pad_token_id, padding_side="right"),
            "completion_mask": pad([torch.ones_like(a) for a in answers], padding_value=0, padding_side="right"),
            "advantages": torch.from_numpy(advantages),
        }
        order = torch.randperm(len(trajectories), generator=torch.Generator().manual_seed(0))  # as it shuffles them
        self.inputs = split_tensor_dict({k: v[order] for k, v in everything.items()}, parts)
        cells = everything["prompt_ids"].numel() + everything["completion_ids"].numel()
        self.padding = 1 - sum(len(p) + len(a) for p, a in zip(prompts, answers, strict=True)) / cells

    def __call__(self, _: TrainBatch) -> None:
        trainer = self.trainer
        for inputs in self.inputs:
            trainer.training_step(trainer.model_wrapped, inputs, None)
        trainer.accelerator.clip_grad_norm_(trainer.model.parameters(), trainer.args.max_grad_norm)
        trainer.optimizer.step()
        trainer.model.zero_grad()

    def weights(self) -> dict[str, Any]:
        return weights_of(self.trainer.model)


def make_trl(*arguments: Any) -> Trl | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return Trl(*arguments)
    except ImportError as error:
        say(f"update_vs_trl is left out ({error}): {TRL_NEEDS}")
        return None


def update() -> None:
    with tempfile.TemporaryDirectory(prefix="thinkless-bench-") as scratch:
        compare("", Path(scratch), RandomModelConf(), rounds=21)


def update_long() -> None:
    shape = RandomModelConf(hidden_size=128, layers=4, heads=4, kv_heads=2, ffn_size=384, init_std=0.09)
    with tempfile.TemporaryDirectory(prefix="thinkless-bench-") as scratch:
        compare("_long", Path(scratch), shape, rounds=5, sizes=(4, 8, 16))


def compare(
    name: str, folder: Path, shape: RandomModelConf, rounds: int, sizes: tuple[int, ...] = (8, 16, 32, 64)
) -> None:
    import torch

    from rollout.tokens import load_tokenizer

    path = model_folder(folder / "model", shape)
    groups = long_groups(264) if name else quickstart_groups(load_tokenizer(path, ModelConf()))
    conf = LearnerConf(threads=1, lr=1e-4)
    batch = as_batch(groups, conf)
    lengths = [len(t.prompt.token_ids) + len(t.token_ids) for g in groups for t in g.trajectories]
    say(
        f"update{name}: {len(lengths)} trajectories of {min(lengths)} to {max(lengths)} tokens, {batch.tokens} in all, "
        f"{len(batch.ranks[0])} micro-batches, {packing([batch], conf.max_tokens).padding:.1%} padding"
    )
    sides: dict[str, Any] = {
        f"torch, {kind} logits": Bare(path, conf, kind == "plain") for kind in ("plain", "chunked")
    }
    start = weights_of(sides["torch, plain logits"].policy.causal_lm)
    for size in sizes:  # before the learner's rank: TRL would take its process group for a distributed run
        trl = make_trl(path, conf, folder, size, groups)
        if trl is None:
            break
        sides[f"trl, {size} a micro-batch"] = trl
        if size == sizes[0]:
            say(f"TRL pads {trl.padding:.0%} of its cells")
    worker = started_worker(path, conf)
    sides["learner"] = Ours(worker)
    torch.set_num_threads(1)
    for side in sides.values():
        side(batch)
    check_same(start, sides)

    def timed(side: str) -> tuple[float, float]:
        begin, busy = time.perf_counter(), time.process_time()
        sides[side](batch)
        return time.perf_counter() - begin, time.process_time() - busy

    once = {side: min(timed(side) for _ in range(3))[0] for side in sides}
    best = [min((side for side in sides if side.startswith(kind)), key=once.__getitem__, default=None)
            for kind in ("learner", "torch", "trl")]  # fmt: skip
    chosen = [side for side in best if side]
    seconds: dict[str, list[float]] = {side: [] for side in chosen}
    busy: dict[str, list[float]] = {side: [] for side in chosen}
    for turn in range(rounds):
        for side in chosen if turn % 2 else reversed(chosen):
            for kept, taken in zip((seconds[side], busy[side]), timed(side), strict=True):
                kept.append(taken)
    for side in sides:
        taken, note = (statistics.median(seconds[side]), "") if side in seconds else (once[side], "  (not compared)")
        say(f"  {side}: {batch.tokens / taken:,.0f} tokens/s, {taken:.3f} s{note}")
    for side in chosen[1:]:
        ratios = [theirs / ours for ours, theirs in zip(seconds["learner"], seconds[side], strict=True)]
        cpu = statistics.median(busy[side]) / statistics.median(busy["learner"])
        say(f"  against {side}: {min(ratios):.3f} to {max(ratios):.3f}; of processor time {cpu:.3f}")
        other = side.split(",")[0]
        figure(f"update_vs_{other}{name}", statistics.median(ratios), "ratio of tokens/s", GOALS[other])
    figure(f"update_tokens_per_s{name}", batch.tokens / statistics.median(seconds["learner"]), "tokens/s")
    worker.close()


GOALS = {"torch": 0.9, "trl": 2.0}


def weights_of(causal_lm: Any) -> dict[str, Any]:
    return {name: parameter.detach().clone() for name, parameter in causal_lm.named_parameters()}


def check_same(start: dict[str, Any], sides: dict[str, Any]) -> None:
    """After one step from the same weights all sides have moved alike, or they do not do the same work."""
    import torch

    def moved(side: Any) -> Any:
        end = side.weights()
        return torch.cat([(end[name] - start[name]).flatten() for name in start]).double()

    ours = moved(sides["learner"])
    for name, side in sides.items():
        error = float((moved(side) - ours).norm() / ours.norm())
        if error > 0.02:  # AdamW's first step is the gradient's sign: rounding shows where it is near zero
            raise SystemExit(f"{name} does another step than the learner: {error:.1e} apart")


# ---------------------------------------------------------------------- scaling, growth


def scaling() -> None:
    """Fixed length, one row each: 64 sequences of 128 tokens, then 256."""
    with tempfile.TemporaryDirectory(prefix="thinkless-bench-") as scratch:
        path = model_folder(Path(scratch) / "model", RandomModelConf())
        conf = LearnerConf(threads=1, lr=1e-6, max_tokens=64 * 128)
        worker = started_worker(path, conf)
        batches = {}
        for prompts in (8, 32):
            rng = np.random.default_rng(prompts)
            ids = rng.integers(8, 264, (prompts, 9, 108)).astype(np.int32)
            batches[prompts] = as_batch(
                [make_group(g[0, :20], list(g[1:]), rng, f"s{i}") for i, g in enumerate(ids)], conf
            )
        ratios = []
        for turn in range(12):
            seconds = {}
            for prompts in (8, 32) if turn % 2 else (32, 8):
                begin = time.perf_counter()
                worker.update([batches[prompts].ranks[0]], GRPO)
                seconds[prompts] = time.perf_counter() - begin
            if turn > 1:
                ratios.append(seconds[32] / seconds[8] * batches[8].tokens / batches[32].tokens)
        say(f"scaling: {min(ratios):.3f} to {max(ratios):.3f}")
        figure("update_seconds_per_token_ratio", statistics.median(ratios), "ratio of s/token")
        worker.close()


def growth() -> None:
    from rollout.tokens import load_tokenizer

    with tempfile.TemporaryDirectory(prefix="thinkless-bench-") as scratch:
        path = model_folder(Path(scratch) / "model", RandomModelConf())
        conf = LearnerConf(threads=1, lr=1e-6, max_tokens=2048)
        groups = quickstart_groups(load_tokenizer(path, ModelConf()), prompts=16)
        rng, worker, sizes = np.random.default_rng(0), started_worker(path, conf), list[int]()
        for count in range(1, 201):
            chosen = [groups[i] for i in rng.permutation(len(groups))[: rng.integers(4, len(groups))]]
            worker.update([as_batch(chosen, conf).ranks[0]], GRPO)
            if count in (20, 200):
                gc.collect()
                ctypes.CDLL(None).malloc_trim(0)  # what the C library keeps for later goes up and down by 2 %
                sizes.append(resident())
        after_20, after_200 = sizes
        say(f"growth: {after_20 / GIB:.3f} GiB after 20 updates of differing size, {after_200 / GIB:.3f} after 200")
        figure("update_memory_growth", after_200 / after_20, "ratio of bytes", 1.01)
        worker.close()


# ---------------------------------------------------------------------- gradients


def layouts() -> Iterator[tuple[dict[str, Any], str, int]]:
    """(changes to LearnerConf, model, micro-batch budget)."""
    budgets = (32, 80, 4096)  # one sequence a row, a few, all
    for ranks, stage, model in itertools.product((1, 2), (0, 1, 2, 3), ("tied", "untied")):
        for budget in budgets:
            yield {"ranks": ranks, "zero_stage": stage}, model, budget
    for changes in (
        {"gradient_checkpointing": True},
        {"zero_stage": 3, "gradient_checkpointing": True},
        {"zero_stage": 2, "offload_optimizer": True},
        {"zero_stage": 3, "offload_optimizer": True, "offload_parameters": True},
        {"logprob_chunk": 1},
        {"logprob_chunk": 4096},
    ):
        yield {"ranks": 2, **changes}, "untied", 80
    if "sequence_parallel" in {field.name for field in fields(LearnerConf)}:
        for stage, model, budget in itertools.product((0, 2, 3), ("tied", "untied"), budgets):
            yield {"ranks": 2, "sequence_parallel": 2, "zero_stage": stage}, model, budget


def gradient() -> None:
    import naive
    import torch
    from learner_ranks import Ranks
    from transformers import AutoModelForCausalLM, Qwen2ForCausalLM

    shape = RandomModelConf(hidden_size=32, layers=2, heads=4, kv_heads=4, ffn_size=48, init_std=0.15)
    still = LearnerConf(lr=0.0, weight_decay=0.0, logprob_chunk=7)
    algorithm = AlgorithmConf(optimizer_steps=1, kl=0.1, alpha=0.5)
    groups = naive.some_groups(0)
    with tempfile.TemporaryDirectory(prefix="thinkless-bench-") as scratch:
        folders = {"tied": model_folder(Path(scratch) / "tied", shape, 3)}
        folders["untied"] = model_folder(Path(scratch) / "untied", replace(shape, kv_heads=2), 4)
        config = AutoModelForCausalLM.from_pretrained(folders["untied"]).config
        config.tie_word_embeddings = False
        torch.manual_seed(5)
        Qwen2ForCausalLM(config).save_pretrained(folders["untied"])
        reference = {"tied": model_folder(Path(scratch) / "other", shape, 5), "untied": folders["tied"]}
        wanted = {name: naive.one_update(folders[name], reference[name], groups, algorithm)[0] for name in folders}
        ((sequences, totals),) = optimizer_steps(groups, algorithm)
        worst, count, made = 0.0, 0, {size: Ranks(size) for size in (1, 2)}
        try:
            running = None
            for changes, model, budget in layouts():
                conf = replace(still, **changes)
                ranks = made[conf.ranks]
                if (changes, model) != running:
                    ranks.start(conf, folders[model], reference[model])
                    running = (changes, model)
                parts = conf.ranks // getattr(conf, "sequence_parallel", 1)
                batch = pack(sequences, totals, budget, parts)
                shares = tuple(batch.ranks[r * parts // conf.ranks] for r in range(conf.ranks))
                got = ranks.scatter("gradients", [replace(batch, ranks=shares)], algorithm)[0]
                errors = {name: naive.relative_error(got[name], want) for name, want in wanted[model].items()}
                name = max(errors, key=errors.__getitem__)
                if errors[name] > worst:
                    worst = errors[name]
                    say(f"gradient: {worst:.2e} in {name} of {model} at {changes}, {budget} tokens a micro-batch")
                count += 1
        finally:
            for ranks in made.values():
                ranks.close()
    say(f"gradient: {count} layouts")
    figure("gradient_max_rel_error", worst, "relative L2 error of a tensor", 1e-5)


# ---------------------------------------------------------------------- log-probs


def logprob() -> None:
    """Each measurement in a fresh process: a high-water mark of what came before would hide it."""
    for count in (1024, 2048, 4096, 8192, 16_384, LONGEST):
        for kind in ("", "full_", "tiled_"):
            free = int(re.findall(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text())[0]) * 1024
            if kind == "full_" and 4 * 4 * count * VOCAB > min(20e9, free - 2e9):
                say(f"log-probs of {count} tokens by plain logits are left out: 4 x {4 * count * VOCAB / 1e9:.0f} GB")
                continue
            if kind == "tiled_" and count > 4096:
                continue
            command = [sys.executable, __file__, "--child", f"{kind or 'own_'}{count}"]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
            if done.returncode:
                say(f"log-probs of {count} tokens, {kind or 'own_'}: failed with exit code {done.returncode}")
                continue
            extra, seconds = json.loads(done.stdout.splitlines()[-1])
            if count == LONGEST and not kind:
                figure("logprob_extra_gb", extra / 1e9, "GB", 1.5)
            else:
                figure(f"logprob_extra_gb_{kind}{count}", extra / 1e9, "GB")
            figure(f"logprob_seconds_{kind}{count}", seconds, "s")


def logprob_child(what: str, hidden_size: int = 64) -> None:
    """Bytes that log-probs and their backward pass add over hidden states and the head's gradient, and seconds."""
    import torch

    torch.set_num_threads(1)
    kind, count = what.rsplit("_", 1)[0], int(what.rsplit("_", 1)[1])
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(count, hidden_size, generator=generator).requires_grad_()
    weight = torch.nn.Parameter(0.1 * torch.randn(VOCAB, hidden_size, generator=generator))
    ids = torch.randint(0, VOCAB, (count,), generator=generator)
    advantages = torch.randn(count, generator=generator)
    run = {"own": own_logprobs, "full": full_logprobs, "tiled": tiled_logprobs}[kind]
    run(hidden[:8], weight, ids[:8], advantages[:8])  # libraries' own buffers
    weight.grad = hidden.grad = None
    gc.collect()
    if not reset_resident_peak():
        say("this kernel does not let processes reset their high-water mark: too high a figure is possible")
    before, begin = resident(), time.perf_counter()
    run(hidden, weight, ids, advantages)
    seconds = time.perf_counter() - begin
    assert weight.grad is not None and hidden.grad is not None
    print(json.dumps([resident_peak() - before - weight.grad.nbytes, seconds]))


def own_logprobs(hidden: Any, weight: Any, ids: Any, advantages: Any) -> None:
    """`_ChunkedLogProbs` as the learner calls it, with its default chunk."""
    import torch

    from learner.logprob import LogProbHead

    states = torch.cat([hidden, hidden[-1:]])  # entry i of the answer speaks of token i: one token before the first
    tokens = torch.cat([ids[:1], ids])
    response = torch.arange(len(tokens)) > 0
    new = LogProbHead(weight)(states, tokens, response, 1.0, LearnerConf().logprob_chunk)[0][1:]
    (-(new - new.detach()).exp() * advantages).sum().backward()


def full_logprobs(hidden: Any, weight: Any, ids: Any, advantages: Any) -> None:
    """Without entropies: those would add two tables more."""
    new = (hidden @ weight.T).log_softmax(-1).gather(-1, ids[:, None])[:, 0]
    (-(new - new.detach()).exp() * advantages).sum().backward()


def tiled_logprobs(hidden: Any, weight: Any, ids: Any, advantages: Any) -> None:
    """DeepSpeed's TiledFusedLogitsLoss. It gives a sum, not a value for each token; those, and entropies, leave by the
    side. The loss is computed inside, so that everything it needs must be known before."""
    import torch
    from deepspeed.runtime.sequence_parallel.ulysses_sp import TiledFusedLogitsLoss

    taken = []

    def loss(_: Any, states: Any, packed: Any) -> Any:
        table = (states @ weight.T).log_softmax(-1)
        new = table.gather(-1, packed[:, 0].long()[:, None])[:, 0]
        taken.append((new.detach(), -(table.detach().exp() * table.detach()).sum(-1)))
        return (-(new - new.detach()).exp() * packed[:, 1]).sum()

    packed = torch.stack([ids.double(), advantages.double()], 1)[None]
    shards = -(-len(ids) // LearnerConf().logprob_chunk)
    TiledFusedLogitsLoss.apply(loss, None, hidden[None], packed, None, shards, [weight], "sum").backward()


# ---------------------------------------------------------------------- packing


def packed() -> None:
    """512 answers, half short, half long with a heavy tail up to 24,576 tokens, over 8 ranks."""
    from learner.batch import Sequence
    from learner.loss import Totals

    found: dict[str, list[Any]] = {"": [], "_by_tokens": []}
    for seed in range(5):
        rng = np.random.default_rng(seed)
        short, long = (
            np.clip(rng.lognormal(6.1, 0.6, 512), 40, 3000),
            np.clip(rng.lognormal(8.5, 0.8, 512), 300, LONGEST),
        )
        sequences = []
        for n in np.where(rng.random(512) < 0.5, short, long).astype(int):
            prompt, zeros = int(rng.integers(60, 300)), np.zeros(n, np.float32)
            sequences.append(Sequence(np.zeros(prompt + n, np.int32), prompt, zeros + 1, zeros + 1, 1.0, zeros, 0))
        for name, cost in (("", QWEN.cost), ("_by_tokens", tokens_only)):
            batch = pack(sequences, Totals(512, 1, 1), 26_624, 8, cost)
            found[name].append(packing([batch], 26_624, QWEN.cost))
    for name, goal in (("", 1.02), ("_by_tokens", None)):
        figure(f"pack_imbalance{name}", max(p.imbalance for p in found[name]), "costliest rank over the mean", goal)
    figure("pack_padding", statistics.mean(p.padding for p in found[""]), "share of attention's cells")
    figure("pack_fill", statistics.mean(p.fill for p in found[""]), "share of the rows' tokens")


# ---------------------------------------------------------------------- GPU


def gpu() -> None:
    try:
        import deepspeed  # noqa: F401
        import torch
        import transformers  # noqa: F401
    except ImportError as error:
        return say(f"mfu and hfu are left out: {error}")
    if not torch.cuda.is_available():
        return say("mfu and hfu are left out: no GPU")
    utilization(QWEN, torch.device("cuda", 0), LONGEST)


def utilization(shape: Shape, device: Any, tokens: int) -> None:
    """Two rows of `tokens` an update: one answer each, then eight. Median of three updates after two."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from learner.effort import effort

    peak, wait = device_peak(device), torch.cuda.synchronize if device.type == "cuda" else lambda: None
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    say(f"{name}: {f'{peak / 1e12:.0f} TFLOP/s' if peak else 'unknown peak, no utilization'}")
    with tempfile.TemporaryDirectory(prefix="thinkless-bench-") as scratch:
        config = Qwen2Config(
            vocab_size=shape.vocab, hidden_size=shape.hidden, num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads, num_key_value_heads=shape.kv_heads, intermediate_size=shape.ffn,
            max_position_embeddings=32768, tie_word_embeddings=True, attention_dropout=0.0,
        )  # fmt: skip
        with device:
            Qwen2ForCausalLM(config).to(torch.bfloat16).save_pretrained(scratch)
        if device.type == "cuda":
            torch.cuda.empty_cache()
        on = Device.gpu if device.type == "cuda" else Device.cpu
        conf = LearnerConf(device=on, lr=1e-6, zero_stage=1, gradient_checkpointing=True, max_tokens=tokens)
        worker = started_worker(scratch, conf, Dtype.bfloat16)
        for kind, answers in (("", 1), ("_packed", 8)):
            rng, prompt = np.random.default_rng(answers), tokens // answers // 12
            ids = rng.integers(0, shape.vocab, (answers, 2, tokens // answers)).astype(np.int32)
            groups = [make_group(pair[0, :prompt], list(pair[:, prompt:]), rng, f"g{i}") for i, pair in enumerate(ids)]
            batch, memory, measured = as_batch(groups, conf, shape.cost), PeakMemory(device), []
            for _ in range(5):
                wait()
                begin = time.perf_counter()
                with memory.of("update"):
                    report = worker.update([batch.ranks[0]], GRPO)
                    wait()
                seconds = time.perf_counter() - begin
                measured.append(effort([batch], shape, 1, tokens, seconds, [0], True, peak))
                say(f"  {seconds:.2f} s, {measured[-1].tflops:.1f} TFLOP/s, gradient norm {report.grad_norm:.3g}")
            middle = sorted(measured[2:], key=lambda one: one.tokens_per_s)[1]
            if middle.mfu is not None and middle.hfu is not None:
                figure(f"mfu{kind}", middle.mfu, "share of the peak", None if kind else 0.35)
                figure(f"hfu{kind}", middle.hfu, "share of the peak", None if kind else 0.45)
            figure(f"gpu_tokens_per_s{kind}", middle.tokens_per_s, "tokens/s")
            figure(f"gpu_update_gib{kind}", memory.take()["update"], "GiB")
        worker.close()


# ---------------------------------------------------------------------- which

GROUPS: dict[str, tuple[Callable[[], None], list[str]]] = {
    "packing": (packed, ["pack_imbalance", "pack_imbalance_by_tokens", "pack_padding", "pack_fill"]),
    "update": (update, ["update_vs_torch", "update_vs_trl", "update_tokens_per_s"]),
    "update_long": (update_long, ["update_vs_torch_long", "update_vs_trl_long", "update_tokens_per_s_long"]),
    "scaling": (scaling, ["update_seconds_per_token_ratio"]),
    "gradient": (gradient, ["gradient_max_rel_error"]),
    "growth": (growth, ["update_memory_growth"]),
    "logprob": (logprob, ["logprob_extra_gb"]),
    "gpu": (gpu, ["mfu", "hfu"]),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [name for group, (_, figures) in GROUPS.items() for name in (group, *figures)]
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=names, help="groups or figures (all)")
    parser.add_argument("--gpu", action="store_true", help="only the figures of a GPU")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        return logprob_child(arguments.child)
    asked = set(["gpu"] if arguments.gpu else arguments.only or GROUPS)
    chosen = [group for group, (_, figures) in GROUPS.items() if asked & {group, *figures}]
    if len(chosen) == 1:
        return GROUPS[chosen[0]][0]()
    failed = [name for name in chosen if subprocess.run([sys.executable, __file__, "--only", name]).returncode]
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
