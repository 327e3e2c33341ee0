"""What comes before a run: hours of its warm-up and of distilling the data for that.

In: a configuration, a placement's number of learner ranks, lengths, assumptions. Out: `Stage`s. Must not know:
placements to choose from, prices, how it is printed.

A warm-up step is the learner's update alone (`orchestrator.plan.formulas`, no reference, no old log-probs) over
warmup.batch_size questions, answered in both modes. A teacher samples steadily: its engines always run as many
sequences as their caches hold, a sequence under way has half of its tokens on average (weighted by how long it stays),
and at the end the longest answer is waited for alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from conf.distill import TeacherConf
from conf.schema import Config
from learner.metrics.memory_plan import learner_memory
from orchestrator.plan.costs import Batch
from orchestrator.plan.formulas import Assumptions, Recipe, engine_costs, learner_seconds
from orchestrator.plan.hardware import Hardware
from orchestrator.plan.lengths import Lengths
from orchestrator.plan.memory import LEARNER_CONTEXT, cache_tokens, engine_items
from orchestrator.plan.model_shape import ModelShape, model_shape
from rollout.base.errors import BadInput
from rollout.data.dataset_rows import is_hub_name
from rollout.data.pairs import load_pairs
from rollout.data.problems import load_problems

DRAWN, SEED = 16, 1  # batches whose seconds are averaged
# Rows of the presets' data sets on the hub. The warm-up's: 17,000 steps of 128 answers, one epoch
# (github.com/VainF/Reasoning-SFT).
ROWS = {
    "Vinnnf/Hybrid-OpenThoughts2-1M-1.5B": 17_000 * 64,
    "openai/gsm8k": 7_473,
    "agentica-org/DeepScaleR-Preview-Dataset": 40_315,
}


@dataclass(frozen=True, slots=True)
class Stage:
    name: str
    what: str  # how much of it
    gpus: int
    seconds: float
    tokens: float  # learnt from, or sampled
    model: ModelShape
    findings: tuple[str, ...] = ()  # why it does not fit

    @property
    def hours(self) -> float:
        return self.seconds / 3600


def stages(
    conf: Config, model: ModelShape, gpu: Hardware, ranks: int, lengths: Lengths, given: Assumptions, pairs: int | None
) -> tuple[Stage, ...]:
    """In the order in which they run. pairs: questions of the warm-up; None: as many as its file or preset has."""
    found = [_teacher(side, conf, gpu, lengths, given) for side in ("think", "short") if _of(conf, side).model]
    if conf.warmup is not None:
        found.append(_warmup(conf, model, gpu, ranks, lengths, given, pairs))
    return tuple(found)


def _warmup(
    conf: Config, model: ModelShape, gpu: Hardware, ranks: int, lengths: Lengths, given: Assumptions, pairs: int | None
) -> Stage:
    warmup = conf.warmup
    assert warmup is not None
    steps = warmup.steps or -(-(pairs or _pairs(conf)) // warmup.batch_size)
    ranks = warmup.ranks or ranks
    learner = replace(conf.learner, ranks=ranks)
    recipe = replace(
        Recipe.of(replace(conf, learner=learner)),
        group=2,
        optimizer_steps=1,
        passes=3 + learner.gradient_checkpointing,
        reference=False,
    )
    seconds_of = learner_seconds(model, gpu, recipe, ranks, given)
    batches = list(islice(_batches(warmup.batch_size, warmup.max_tokens, lengths), min(DRAWN, steps)))
    seconds = float(np.mean([seconds_of(batch) for batch in batches]))
    tokens = float(np.mean([sum(part.sum() for part in batch.sequences()) for batch in batches]))
    peak = learner_memory(model.config, learner, conf.model.dtype, conf.model.head_dtype, False).peak + LEARNER_CONTEXT
    what = f"{steps:,} steps of {warmup.batch_size} questions in both modes"
    too_much = f"it takes {peak / 1e9:.1f} GB of {gpu.memory / 1e9:.1f} on {ranks} ranks: set warmup.ranks=null"
    findings = (too_much,) if gpu.gpu and peak > gpu.memory else ()
    return Stage("warm-up", what, ranks, steps * seconds, steps * tokens, model, findings)


def _batches(questions: int, cap: int, lengths: Lengths) -> Iterator[Batch]:
    """Each question once in either mode, prompt and response together no longer than `cap`."""
    room = max(cap - lengths.prompt, 2)
    capped = replace(lengths, cap_think=room, cap_short=room, learnt=1.0)
    think = replace(capped, think_rate=1.0).batches(questions, 1, SEED)
    short = replace(capped, think_rate=0.0).batches(questions, 1, SEED + 1)
    for one, other in zip(think, short):
        yield replace(one, lengths=np.concatenate([one.lengths, other.lengths], axis=1))


def _pairs(conf: Config) -> int:
    warmup = conf.warmup
    assert warmup is not None
    rows = _known_rows("warmup.path", warmup.path, "pairs")
    return rows if rows is not None else load_pairs(warmup, conf.model).size or 0


def _teacher(side: str, conf: Config, gpu: Hardware, lengths: Lengths, given: Assumptions) -> Stage:
    teacher, distill = _of(conf, side), conf.distill
    assert teacher.model is not None
    model = model_shape(replace(conf.model, path=teacher.model, revision=teacher.revision, random=None))
    median = lengths.think if side == "think" else lengths.short
    capped = replace(
        lengths, think=median, think_rate=float(side == "think"), cap_think=teacher.max_tokens,
        cap_short=teacher.max_tokens,
    )  # fmt: skip
    own = replace(
        conf,
        rollout=replace(
            conf.rollout,
            workers=teacher.workers or conf.rollout.workers,
            tensor_parallel=teacher.tensor_parallel or conf.rollout.tensor_parallel,
            max_model_len=teacher.max_tokens + conf.data.max_prompt_tokens,
        ),
    )
    questions = distill.problems or _questions(conf)
    answers = questions * distill.samples
    drawn = next(capped.batches(min(answers, 20_000), 1, SEED)).lengths.ravel().astype(float)
    total, longest = drawn.mean() * answers, drawn.max()
    engines, parts = own.rollout.workers, own.rollout.tensor_parallel
    room = cache_tokens(engine_items(own, model, gpu)["cache"], own, model, gpu)
    context = lengths.prompt + float((drawn**2).mean() / (2 * drawn.mean()))  # of a sequence under way
    running = int(min(own.rollout.max_num_seqs, room // context, -(-answers // engines)))
    what = f"{questions:,} questions x {distill.samples} answers"
    name = f"distillation, distill.{side} ({Path(teacher.model).name})"
    if running < 1 or room < longest + lengths.prompt:
        lacks = f"{name} does not fit into {engines} x {parts} GPUs: give distill.{side}.tensor_parallel={2 * parts}"
        return Stage(name, what, engines * parts, float("inf"), total, model, (lacks,))
    costs = engine_costs(model, gpu, Recipe.of(own), given)
    steady = total / engines / running * (costs.step_s[running] + running * context * costs.context_s)
    prefill = answers / engines * lengths.prompt * costs.prefill_s
    alone = longest * (costs.step_s[1] + longest / 2 * costs.context_s)
    return Stage(name, what, engines * parts, steady + prefill + alone, total, model)


def _questions(conf: Config) -> int:
    if conf.data.path is None:
        raise BadInput("how many questions are distilled: give data.path=<problems>, or distill.problems=<number>")
    rows = _known_rows("data.path", conf.data.path, "distill.problems")
    return rows if rows is not None else len(load_problems(conf.data).problems)


def _known_rows(key: str, path: Any, remedy: str) -> int | None:
    """Of the presets' data sets; None: they can be counted. BadInput for others that would have to be fetched."""
    paths = path if isinstance(path, list) else [path]
    if all(one in ROWS for one in paths):
        return sum(ROWS[one] for one in paths)
    if any(map(is_hub_name, paths)):
        raise BadInput(f"{key}={path}: how many questions it has is not known here: give {remedy}=<number>")
    return None


def _of(conf: Config, side: str) -> TeacherConf:
    return conf.distill.think if side == "think" else conf.distill.short
