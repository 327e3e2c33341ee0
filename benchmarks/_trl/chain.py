"""A model whose answers have a known distribution of lengths, so that two systems sample the same work without a hook.

Answers are walks of a Markov chain over letters. A walk draws one of a few speeds, passes some stages at that speed
(each stage has letters of its own), and ends. With four speeds at the nodes of a Gauss-Hermite rule and three stages
each, the time it takes is log-normal to within a few per cent. An endless chain's walks never end: every answer has the
length of the cap. `teach` fits a Qwen2 model to the chain's own next-token probabilities.

In: what lengths are wanted. Out: a Hugging Face folder with the quickstart's tokenizer. Must not know: who
samples from it.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from conf.schema import ModelConf, RandomModelConf

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz01234567"
STATES = 12
SHARE = len(LETTERS) // STATES  # letters of one state
END, ASSISTANT, FIRST_BYTE = 1, 3, 8  # of the character-level tokenizer
SHAPE = RandomModelConf(hidden_size=128, layers=4, heads=4, kv_heads=4, ffn_size=384, init_std=0.088)  # 0.89 M
DIGAMMA_3, TRIGAMMA_3 = 0.9227843, 0.3949341  # mean and variance of the logarithm of a time through three stages


@dataclass(frozen=True, slots=True)
class Chain:
    """weights f64[speeds]: share of walks; leave f64[speeds]: probability of leaving a stage at one letter.

    A speed has STATES / speeds stages. ends: False for walks that begin again instead.
    """

    weights: np.ndarray
    leave: np.ndarray
    ends: bool = True

    @property
    def stages(self) -> int:
        return STATES // len(self.weights)

    def ids(self, speed: int, stage: int) -> np.ndarray:
        """Token ids of the letters of `stage` at `speed`."""
        first = (speed * self.stages + stage) * SHARE
        return np.array([FIRST_BYTE + ord(letter) for letter in LETTERS[first : first + SHARE]])

    def next_probabilities(self, vocabulary: int) -> np.ndarray:
        """f64[vocabulary, vocabulary]: row i is the law of the token after token i; zeros where no walk comes by."""
        law = np.zeros((vocabulary, vocabulary))
        for speed, (weight, left) in enumerate(zip(self.weights, self.leave)):
            law[ASSISTANT, self.ids(speed, 0)] = weight / SHARE
            for stage in range(self.stages):
                here = self.ids(speed, stage)
                law[np.ix_(here, here)] = (1 - left) / SHARE
                if stage + 1 < self.stages or not self.ends:
                    law[np.ix_(here, self.ids(speed, (stage + 1) % self.stages))] = left / SHARE
                else:
                    law[here, END] = left
        return law

    def lengths(self, longest: int) -> np.ndarray:
        """f64[longest + 1]: probability of each length in tokens, the end token included; the rest is longer."""
        found = np.zeros(longest + 1)
        for weight, left in zip(self.weights, self.leave):
            at = np.zeros(self.stages)
            at[0] = 1.0
            for length in range(2, longest + 1):
                found[length] += weight * at[-1] * left
                at = at * (1 - left) + np.concatenate([[0.0], at[:-1] * left])
        return found


def log_normal(median: float, p99: float) -> Chain:
    """The chain whose lengths have about that median and 99th percentile, in tokens."""
    sigma = math.log(p99 / median) / 2.3263
    if sigma**2 <= TRIGAMMA_3:
        lowest = median * math.exp(2.3263 * TRIGAMMA_3**0.5)
        raise ValueError(f"p99 must be above {lowest:.0f} for a median of {median:g}, got {p99:g}")
    nodes, weights = np.polynomial.hermite_e.hermegauss(4)
    means = median * 3 * math.exp(-DIGAMMA_3) * np.exp(math.sqrt(sigma**2 - TRIGAMMA_3) * nodes)
    return Chain(weights / weights.sum(), np.minimum(1.0, 3 / means))


def mild(mean: float) -> Chain:
    """Lengths of that mean with a deviation of about a quarter of it: one speed through all states."""
    return Chain(np.ones(1), np.array([STATES / (mean - 1)]))


def endless() -> Chain:
    return Chain(np.full(4, 0.25), np.full(4, 0.2), ends=False)


def make_prompts(count: int, tokens: int, seed: int) -> list[str]:
    """Distinct texts of `tokens` - 2 characters: the chat template adds one token before and one after."""
    rng, found = np.random.default_rng(seed), dict[str, None]()
    while len(found) < count:
        found["".join(rng.choice(list("abcdefghijklmnopqrstuvwxyz"), tokens - 2))] = None
    return list(found)


def walks(law: np.ndarray, rows: int, tokens: int, rng: np.random.Generator) -> np.ndarray:
    """i64[rows, tokens]: walks one after the other, each beginning with the assistant's token."""
    cumulative = law.cumsum(1)
    cumulative[END, :] = np.arange(len(law)) >= ASSISTANT  # an end is followed by the next beginning
    out = np.full((rows, tokens), ASSISTANT, np.int64)
    for t in range(1, tokens):
        out[:, t] = (cumulative[out[:, t - 1]] < rng.random(rows)[:, None] * cumulative[out[:, t - 1], -1:]).sum(1)
    return out


def teach(folder: Path, chain: Chain, longest: int, steps: int, say: Callable[[str], None]) -> None:
    """Write a model to `folder` that samples from `chain` up to `longest` tokens; nothing is done when it is there."""
    import torch
    from transformers import AutoModelForCausalLM

    from learner.model.prepare_model import random_model

    if (folder / "done").is_file():
        return
    shutil.rmtree(folder, ignore_errors=True)
    random_model(folder, SHAPE, ModelConf(), 0)
    torch.set_num_threads(1)  # a busy machine makes several wait for each other
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.98), weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps, pct_start=0.1)
    law = chain.next_probabilities(model.config.vocab_size)
    target = torch.tensor(law, dtype=torch.float32)
    for step in range(steps):
        rows, tokens = (64, 48) if step % 4 else (4, longest)
        tokens_in = torch.tensor(walks(law, rows, tokens, rng))
        wanted = target[tokens_in].flatten(0, 1)
        known = wanted.sum(-1) > 0
        logp = model(tokens_in, use_cache=False).logits.log_softmax(-1).flatten(0, 1)
        gap = torch.nn.functional.kl_div(logp[known], wanted[known], reduction="batchmean")
        optimizer.zero_grad()
        gap.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 49:
            say(f"teaching {folder.name}: step {step + 1} of {steps}, {float(gap.detach()):.5f} nats from the chain")
    model.save_pretrained(folder)
    (folder / "done").touch()
