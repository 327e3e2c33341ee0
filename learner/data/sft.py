"""Paired long and short answers -> supervised batches (Thinkless stage 1).

In: pairs, a tokenizer. Out: one `TrainBatch` per optimizer step, which depends only on (pairs, step). Must not know:
engines.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from conf.schema import ModelConf, WarmupConf
from learner.data.batch import Sequence, TrainBatch
from learner.data.flops import Cost, tokens_only
from learner.data.pack import pack
from learner.loss import Totals, sft
from rollout.data.pairs import Pairs
from rollout.data.tokens import control_tokens, generation_prompt, training_response
from rollout.mode import Mode, modes_of

Example = tuple[Mode, np.ndarray, np.ndarray]  # mode, prompt i32[P], response i32[T]


class Curriculum:
    """Batches of `batch_size` questions, each answered in every mode, so that the modes stay balanced. Two questions
    with one answer each take the place of one (`rollout.data.pairs`)."""

    def __init__(
        self,
        pairs: Pairs,
        tokenizer: Any,
        conf: WarmupConf,
        model: ModelConf,
        max_tokens: int,
        ranks: int,
        cost: Cost = tokens_only,
    ):
        self.pairs, self.tokenizer, self.conf, self.model = pairs, tokenizer, conf, model
        self.max_tokens, self.ranks, self.cost = max_tokens, ranks, cost
        self.control, self.modes = control_tokens(tokenizer, model), modes_of(model.modes)
        self.too_long = 0  # examples dropped so far

    @property
    def steps(self) -> int:
        """conf.steps, or one epoch of a file's pairs."""
        if self.conf.steps or self.pairs.size is None:
            return self.conf.steps
        return -(-self.pairs.size // self.conf.batch_size)

    def batches(self, done: int = 0) -> Iterator[TrainBatch]:
        """The batches after `done` steps, to the last."""
        for step in range(done, self.steps):
            first = step * self.conf.batch_size
            examples = [e for i in range(first, first + self.conf.batch_size) for e in self._tokenize(i)]
            totals, weighted = weigh(examples, self.conf.short_weight)
            yield pack(weighted, totals, self.max_tokens, self.ranks, self.cost, siblings_together=True)

    def _tokenize(self, index: int) -> list[Example]:
        kept = []
        for pair in self.pairs.together(index):
            prompt = generation_prompt(self.tokenizer, pair.problem, self.model)
            for mode, text in pair.answers(self.modes):
                response = training_response(self.tokenizer, self.control, mode, text, self.model)
                if len(prompt) + len(response) > self.conf.max_tokens:
                    self.too_long += 1
                else:
                    kept.append((mode, prompt, response))
        return kept


def weigh(examples: list[Example], short_weight: float) -> tuple[Totals, list[Sequence]]:
    """Token-mean weights; tokens after a short answer's control token count `short_weight` times."""
    factors = []
    for mode, _, response in examples:
        factor = np.ones(len(response), np.float32)
        if mode == Mode.SHORT:
            factor[1:] = short_weight
        factors.append(factor)
    totals = Totals(len(examples), 1, max(1, round(float(sum(f.sum() for f in factors)))))
    sequences = [
        Sequence(
            token_ids=np.concatenate([prompt, response]),
            prompt_tokens=len(prompt),
            weights=sft.token_weights(len(response), totals) * factor,
            kl_weights=np.zeros(len(response), np.float32),
            advantage=0.0,
            behavior_logprobs=np.zeros(len(response), np.float32),
            mode=mode.effort,
        )
        for (mode, prompt, response), factor in zip(examples, factors, strict=True)
    ]
    return totals, sequences
