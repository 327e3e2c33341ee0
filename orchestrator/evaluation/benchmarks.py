"""Evaluation sets by name: `evaluate.benchmark`.

In: a configuration. Out: the same with the benchmark's problems as its data. Must not know: how problems are read.

Sets that `rollout.data.dataset_rows` pins to a commit need nothing else; of the others evaluate.revision names one.
None has been loaded from the hub here.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, replace

from conf.schema import Config, DataConf
from rollout.base.errors import BadInput
from rollout.data.dataset_rows import HUB_SETS


@dataclass(frozen=True, slots=True)
class Benchmark:
    path: str  # on the hub
    problems: int
    subset: str | None = None
    split: str | None = None


BENCHMARKS = {
    "aime24": Benchmark("HuggingFaceH4/aime_2024", 30),
    "aime25": Benchmark("yentinglin/aime_2025", 30, split="train"),
    "amc": Benchmark("AI-MO/aimo-validation-amc", 83, split="train"),
    "gsm8k": Benchmark("openai/gsm8k", 1319, split="test"),
    "math500": Benchmark("HuggingFaceH4/MATH-500", 500),
    "minerva_algebra": Benchmark("EleutherAI/hendrycks_math", 1187, "algebra", "test"),  # MATH's algebra test part
    "olympiad_bench": Benchmark("Hothan/OlympiadBench", 674, "OE_TO_maths_en_COMP", "train"),
}


def with_benchmark(conf: Config) -> Config:
    """`conf` that measures evaluate.benchmark, whole, where one is given. Raises BadInput: no such name, or a set of
    which no commit is known."""
    name, revision = conf.evaluate.benchmark, conf.evaluate.revision
    if name is None:
        return conf
    chosen = BENCHMARKS.get(name)
    if chosen is None:
        guess = difflib.get_close_matches(name, BENCHMARKS, 1, 0.4)
        hint = f"did you mean {guess[0]}? " if guess else ""
        raise BadInput(
            f"evaluate.benchmark={name}: {hint}there are {', '.join(BENCHMARKS)}; for any other problems give "
            "data.path=<problems>"
        )
    if revision is None and (HUB_SETS.get(chosen.path) is None or HUB_SETS[chosen.path].revision is None):
        raise BadInput(
            f"evaluate.benchmark={name} is {chosen.path} on the hub, of which no commit is pinned here: give "
            "evaluate.revision=<commit>"
        )
    data = DataConf(
        path=chosen.path, revision=revision, subset=chosen.subset, split=chosen.split,
        max_prompt_tokens=conf.data.max_prompt_tokens, unusable_answers=conf.data.unusable_answers,
        max_unusable=conf.data.max_unusable,
    )  # fmt: skip
    return replace(
        conf,
        data=data,
        validation=replace(conf.validation, path=None),
        evaluate=replace(conf.evaluate, questions=max(conf.evaluate.questions, chosen.problems)),
    )
