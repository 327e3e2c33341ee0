"""What the parts of benchmarks/learner.py share: judged groups to learn from, small models, a started learner rank.

In: shapes and seeds. Out: `Group`s, model folders, packed batches. Must not know: what is measured.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from conf.schema import AlgorithmConf, ArithmeticConf, Dtype, Form, LearnerConf, Loss, ModelConf, RandomModelConf
from learner.data.batch import TrainBatch
from learner.data.flops import Shape, tokens_only
from learner.data.pack import pack
from learner.objective import optimizer_steps
from rollout.mode import Mode

QWEN = Shape(hidden=1536, layers=28, heads=12, kv_heads=2, head_dim=128, ffn=8960, vocab=151936)  # Qwen2.5-1.5B
GRPO = AlgorithmConf(loss=Loss.grpo, form=Form.paper, kl=0.0, optimizer_steps=1)
LONG_SHAPE = RandomModelConf(hidden_size=128, layers=4, heads=4, kv_heads=2, ffn_size=384, init_std=0.09)  # 0.8 M
LONGEST = 24_576  # tokens of an answer


def make_group(prompt: np.ndarray, responses: list[np.ndarray], rng: np.random.Generator, uid: str) -> Any:
    """A judged group whose rewards differ."""
    from reward.group import Group
    from reward.verdict import Outcome, Verdict
    from rollout.prompt import Prompt
    from rollout.trajectory import Finish, Trajectory

    asked = Prompt(uid, "", prompt, "1", "bench")
    given = tuple(
        Trajectory(
            asked, i, ids, np.full(len(ids), -1, np.float32), (Mode.THINK, Mode.SHORT)[i % 2], Finish.STOP,
            np.zeros(len(ids), np.int32),
        )
        for i, ids in enumerate(responses)
    )  # fmt: skip
    rewards = rng.choice([1.0, 0.5, -1.0], len(given)).astype(np.float32)
    rewards[:2] = 1.0, -1.0
    verdicts = tuple(Verdict(Outcome.CORRECT if r > 0 else Outcome.WRONG, None, 0.0) for r in rewards)
    return Group(asked, given, verdicts, rewards)


def quickstart_groups(tokenizer: Any, prompts: int = 32) -> list[Any]:
    """One step's trajectories of the quickstart: its questions, half of the siblings thinking, half short."""
    from rollout.data.arithmetic import question_at, short_answer, think_answer
    from rollout.data.tokens import control_tokens, generation_prompt, training_response

    rng, groups, control = np.random.default_rng(0), [], control_tokens(tokenizer, ModelConf())
    for index in range(prompts):
        _, problem, steps = question_at(0, index, ArithmeticConf(), "bench")
        texts = [(Mode.THINK, think_answer(steps)), (Mode.SHORT, short_answer(steps))]
        responses = [training_response(tokenizer, control, mode, text, ModelConf()) for mode, text in texts]
        groups.append(make_group(generation_prompt(tokenizer, problem, ModelConf()), responses * 4, rng, f"q{index}"))
    return groups


def ragged_groups(prompts: int, median: float, longest: int, prompt_tokens: tuple[int, int]) -> list[Any]:
    """Eight answers each, heavy-tailed: log-normal lengths with that median and deviation e, 8 to `longest` tokens."""
    vocab, rng, groups = 264, np.random.default_rng(1), []
    for index in range(prompts):
        lengths = np.clip(rng.lognormal(np.log(median), 1.0, 8), 8, longest).astype(int)
        prompt = rng.integers(8, vocab, int(rng.integers(*prompt_tokens))).astype(np.int32)
        responses = [rng.integers(8, vocab, n).astype(np.int32) for n in lengths]
        groups.append(make_group(prompt, responses, rng, f"l{index}"))
    return groups


def model_folder(folder: Any, shape: RandomModelConf, seed: int = 0) -> str:
    from learner.model.prepare_model import random_model

    return random_model(folder, shape, ModelConf(), seed)


def started_worker(path: str, conf: LearnerConf, dtype: Dtype = Dtype.float32) -> Any:
    """A learner of one rank in this process."""
    from learner.worker import LearnerWorker

    worker = LearnerWorker(conf, ModelConf(dtype=dtype), path, 0, 1.0, 1_000_000)
    worker.start("127.0.0.1", worker.address(None)[1], False)
    return worker


def as_batch(groups: list[Any], conf: LearnerConf, cost: Any = tokens_only) -> TrainBatch:
    """One optimizer step of GRPO for one rank."""
    ((sequences, totals),) = optimizer_steps(groups, GRPO)
    return pack(sequences, totals, conf.max_tokens, 1, cost)
