"""The learner's gradients under every layout (ranks, ZeRO stages, packing) against a float64 reference.

In: nothing but `small`. Out: the worst tensor's error. Must not know: speeds. The reference and the ranks are the
tests' own (tests/helpers/naive.py, learner_ranks.py).
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks._figures import figure, say
from benchmarks._learner_setup import model_folder
from conf.schema import AlgorithmConf, LearnerConf, RandomModelConf
from learner.data.pack import pack
from learner.objective import optimizer_steps

Layout = tuple[dict[str, Any], str, int]  # changes to LearnerConf, model, micro-batch budget
SMALL: list[Layout] = [
    ({"ranks": 2, "zero_stage": 3, "gradient_checkpointing": True}, "untied", 80),
    ({"ranks": 2, "sequence_parallel": 2, "zero_stage": 2}, "tied", 4096),
]


def layouts() -> Iterator[Layout]:
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
    for stage, model, budget in itertools.product((0, 2, 3), ("tied", "untied"), budgets):
        yield {"ranks": 2, "sequence_parallel": 2, "zero_stage": stage}, model, budget


def gradient(small: bool) -> None:
    import torch
    from transformers import AutoModelForCausalLM, Qwen2ForCausalLM

    from tests.helpers import naive
    from tests.helpers.learner_ranks import Ranks

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
        worst, count, made = 0.0, 0, dict[int, Ranks]()
        try:
            running = None
            for changes, model, budget in SMALL if small else layouts():
                conf = replace(still, **changes)
                if conf.ranks not in made:
                    made[conf.ranks] = Ranks(conf.ranks)
                ranks = made[conf.ranks]
                if (changes, model) != running:
                    ranks.start(conf, folders[model], reference[model])
                    running = (changes, model)
                parts = conf.ranks // conf.sequence_parallel
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
