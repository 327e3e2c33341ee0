"""The range of every numeric setting, and one line for a value outside it.

In: a typed configuration. Out: nothing, or BadConfig. Must not know: how settings depend on each other (`conf.check`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from conf.errors import BadConfig
from conf.schema import Config
from conf.settings import ABSENT, Setting, settings

# Brackets include the bound, parentheses exclude it. A list's range is that of each item; "x 2": of exactly two.
# Upper bounds are far beyond any use: they catch typing errors, overflows, and runs that would never end.
RANGES = {
    "run.steps": "[0, 1e7]",
    "run.seed": "[0, 4294967295]",
    "run.max_staleness": "[0, 1000]",
    "run.save_every": "[0, 1e7]",
    "run.keep_checkpoints": "[0, 1e6]",
    "run.samples_per_step": "[0, 1e6]",
    "run.record": "[1, 1e7]",
    "run.logprob_check_every": "[0, 1e7]",
    "run.logprob_check_max_abs": "(0, 1000]",
    "run.logprob_check_mean_abs": "(0, 1000]",
    "model.random.hidden_size": "[2, 1e5]",
    "model.random.layers": "[1, 1000]",
    "model.random.heads": "[1, 1000]",
    "model.random.kv_heads": "[1, 1000]",
    "model.random.ffn_size": "[1, 1e6]",
    "model.random.init_std": "(0, 10]",
    "model.random.max_position_embeddings": "[2, 1e8]",
    "model.lora.rank": "[0, 65536]",
    "model.lora.alpha": "(0, 1e6]",
    "model.lora.dropout": "[0, 1)",
    "model.lora.seed": "[0, 4294967295]",
    "data.max_unusable": "[0, 1]",
    "data.max_prompt_tokens": "[1, 1e8]",
    "data.shard": "[0, 1e6]",
    "data.num_shards": "[1, 1e6]",
    "data.arithmetic.levels": "[2, 500]",
    "data.arithmetic.weights": "[0, 1e6]",
    "data.arithmetic.width": "[1, 1000]",
    "data.arithmetic.max_digit": "[1, 9]",
    "validation.size": "[0, 1e6]",
    "validation.samples": "[1, 10000]",
    "rollout.workers": "[1, 10000]",
    "rollout.tensor_parallel": "[1, 1024]",
    "rollout.num_cpus": "[0, 10000]",
    "rollout.num_gpus": "[0, 1024]",
    "rollout.max_restarts": "[0, 1e6]",
    "rollout.threads": "[1, 1024]",
    "rollout.group_size": "[2, 1e5]",
    "rollout.prompts_per_step": "[1, 1e6]",
    "rollout.temperature": "[0.01, 2]",  # vLLM raises lower ones to 0.01 and rejects higher ones
    "rollout.top_p": "(0, 1]",
    "rollout.max_response_tokens": "[2, 1e8]",
    "rollout.max_tokens_short": "[2, 1e8]",
    "rollout.max_tokens_think": "[2, 1e8]",
    "rollout.slowdown": "[1, 1e6]",
    "rollout.dynamic_sampling.rounds": "[0, 1000]",
    "rollout.dynamic_sampling.factor": "[1, 1000]",
    "rollout.max_model_len": "[2, 1e8]",
    "rollout.max_num_seqs": "[1, 1e6]",
    "rollout.max_num_batched_tokens": "[1, 1e8]",
    "rollout.kv_cache_gib": "(0, 1e5]",
    "rollout.gpu_memory_utilization": "(0, 1]",
    "rollout.start_timeout_s": "[0.1, 1e7]",
    "rollout.timeout_s": "[0.1, 1e7]",
    "reward.workers": "[1, 10000]",
    "reward.num_cpus": "[0, 10000]",
    "reward.processes": "[1, 1024]",
    "reward.timeout_s": "[0.01, 1e5]",
    "reward.memory_mib": "[0, 1e8]",
    "reward.correct_short": "[-1e6, 1e6]",
    "reward.correct_think": "[-1e6, 1e6]",
    "reward.wrong": "[-1e6, 1e6]",
    "reward.cut_off": "[-1e6, 1e6]",
    "reward.no_answer": "[-1e6, 1e6]",
    "reward.no_mode": "[-1e6, 1e6]",
    "reward.format_error": "[-1e6, 1e6]",
    "reward.max_unjudged": "[0, 1]",
    "reward.max_tokens_short": "[1, 1e8]",
    "reward.max_tokens_think": "[1, 1e8]",
    "algorithm.alpha": "[0, 1e6]",
    "algorithm.length_constant": "[1, 1e8]",
    "algorithm.clip": "(0, 1)",
    "algorithm.clip_high": "(0, 1e6]",
    "algorithm.dual_clip": "(1, 1e6]",
    "algorithm.importance_cap": "(0, 1e6]",
    "algorithm.kl": "[0, 1e6]",
    "algorithm.max_log_ratio": "(0, 80]",  # exp(89) is beyond float32
    "algorithm.optimizer_steps": "[1, 1e6]",
    "learner.ranks": "[1, 1e5]",
    "learner.sequence_parallel": "[1, 1e5]",
    "learner.num_cpus": "[0, 10000]",
    "learner.num_gpus": "[0, 1024]",
    "learner.threads": "[1, 1024]",
    "learner.lr": "(0, 1)",
    "learner.warmup_steps": "[0, 1e8]",
    "learner.decay_start": "[0, 1]",
    "learner.min_lr_ratio": "[0, 1]",
    "learner.betas": "[0, 1) x 2",
    "learner.eps": "(0, 0.1]",
    "learner.weight_decay": "[0, 10]",
    "learner.max_grad_norm": "[0, 1e9]",
    "learner.max_tokens": "[1, 1e8]",
    "learner.logprob_chunk": "[1, 1e8]",
    "learner.zero_stage": "[0, 3]",
    "learner.weight_sync_bucket_mib": "(0, 1e6]",
    "learner.max_bad_steps": "[1, 1e6]",
    "learner.start_timeout_s": "[0.1, 1e7]",
    "learner.timeout_s": "[0.1, 1e7]",
    "warmup.max_tokens": "[1, 1e8]",
    "warmup.steps": "[0, 1e8]",
    "warmup.batch_size": "[1, 1e6]",
    "warmup.ranks": "[1, 1e5]",
    "warmup.short_weight": "[0, 1e6]",
    "warmup.lr": "(0, 1)",
    "warmup.warmup_steps": "[0, 1e8]",
    "warmup.min_lr_ratio": "[0, 1]",
    "warmup.betas": "[0, 1) x 2",
    "warmup.weight_decay": "[0, 10]",
    "warmup.max_grad_norm": "[0, 1e9]",
    "warmup.arithmetic.levels": "[2, 500]",
    "warmup.arithmetic.weights": "[0, 1e6]",
    "warmup.arithmetic.width": "[1, 1000]",
    "warmup.arithmetic.max_digit": "[1, 9]",
    "warmup.seed": "[0, 4294967295]",
    "evaluate.every": "[0, 1e7]",
    "evaluate.questions": "[1, 1e6]",
    "evaluate.temperature": "[0.01, 2]",
    "evaluate.top_p": "(0, 1]",
    "evaluate.samples": "[1, 10000]",
    "evaluate.max_response_tokens": "[2, 1e8]",
    "evaluate.seed": "[0, 4294967295]",
    "cluster.object_store_gib": "[0.08, 1e5]",  # Ray rejects less than 75 MiB
    "cluster.port": "[1, 65535]",
    "cluster.metrics_port": "[1, 65535]",
    "cluster.start_timeout_s": "[0.1, 1e7]",
    "cluster.weight_sync_timeout_s": "[0.1, 1e7]",
    "cluster.colocation_timeout_s": "[0.1, 1e7]",
}


@dataclass(frozen=True)
class Range:
    """Finite numbers between two bounds."""

    text: str  # the interval as written in RANGES and in messages
    low: float
    high: float
    with_low: bool
    with_high: bool
    count: int | None = None  # a list's items; None: any number of them

    @classmethod
    def read(cls, text: str) -> Range:
        found = re.fullmatch(r"([\[(])(\S+), (\S+)([\])])(?: x (\d+))?", text)
        assert found, text
        left, low, high, right, count = found.groups()
        interval = text.partition(" x ")[0]
        return cls(interval, float(low), float(high), left == "[", right == "]", int(count) if count else None)

    def holds(self, value: Any) -> bool:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        if isinstance(value, float) and not math.isfinite(value):
            return False
        above = value >= self.low if self.with_low else value > self.low
        return above and (value <= self.high if self.with_high else value < self.high)


def refuse_outside(key: str, value: Any, shown: str | None = None) -> None:
    """BadConfig if `value` is not valid for `key`. shown: its name in the message, by default `key`."""
    setting, bounds = settings()[key], Range.read(RANGES[key])
    if value is None and setting.optional:
        return
    if setting.many:
        items = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value]
        good = all(map(bounds.holds, items)) and bounds.count in (None, len(items))
    else:
        good = bounds.holds(value)
    if not good:
        raise BadConfig(f"{shown or key} must be {described(setting)}, got {_short(value)}")


def described(setting: Setting) -> str:
    """The valid values of a numeric setting in words: "in [1, 65535] or null", "2 numbers in [0, 1)"."""
    bounds = Range.read(RANGES[setting.key])
    if not setting.many:
        return f"in {bounds.text}{' or null' if setting.optional else ''}"
    number = "a list of numbers" if bounds.count is None else f"{bounds.count} numbers"
    return f"{number if setting.kind is float else number.replace('numbers', 'integers')} in {bounds.text}"


def refuse_all_outside(conf: Config) -> None:
    """Check that every number is within its range and no text is empty."""
    for key, setting in settings().items():
        value = setting.of(conf)
        if value is ABSENT:
            continue
        if setting.numeric:
            refuse_outside(key, value)
        elif setting.textual and value == "":
            raise BadConfig(f"{key} must not be empty{' (null: none)' if setting.optional else ''}, got ''")


def _short(value: Any) -> str:
    text = f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)
    return text if len(text) <= 60 else f"{text[:50]}... ({len(text)} characters)"
