"""A dial and a budget of thinking in vLLM: the plugin for the first, which `vllm serve` loads too, settings for both.

    vllm serve MODEL --logits-processors rollout.vllm_steering:FirstTokenBias

In: the model's config (`rollout.steering`), requests, logits. Out: the same logits, but for the first token of requests
whose prompt does not end with a control token; arguments of an engine. Must not know: training, Ray.

A `logit_bias` of a request acts on every token of the answer; this one where the mode is chosen, and nowhere else. It
comes before temperature, as a `logit_bias` does, which is added to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from vllm.config.reasoning import ReasoningConfig
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor, MoveDirectionality

from rollout.steering import KEY, FirstTokens, Steering


class FirstTokenBias(LogitsProcessor):
    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
        self.stored = FirstTokens.of(vllm_config.model_config.hf_config)
        self.ids = torch.tensor(list(self.stored.bias), dtype=torch.long, device=device)
        self.values = torch.tensor(list(self.stored.bias.values()), dtype=torch.float32, device=device)
        self.waiting: dict[int, list[int]] = {}  # row -> what was sampled so far, which vLLM appends to

    def is_argmax_invariant(self) -> bool:
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        if not len(self.ids):
            return
        if batch_update is not None:
            for row in batch_update.removed:
                self.waiting.pop(row, None)
            for row, _, prompt, sampled in batch_update.added:
                if sampled or (prompt and prompt[-1] in self.stored.control):
                    self.waiting.pop(row, None)
                else:
                    self.waiting[row] = sampled
            for one, other, direction in batch_update.moved:
                mine, its = self.waiting.pop(one, None), self.waiting.pop(other, None)
                if mine is not None:
                    self.waiting[other] = mine
                if its is not None and direction is MoveDirectionality.SWAP:
                    self.waiting[one] = its
        self.waiting = {row: sampled for row, sampled in self.waiting.items() if not sampled}

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        if self.waiting:
            rows = torch.tensor(list(self.waiting), dtype=torch.long, device=logits.device)
            logits[rows[:, None], self.ids] += self.values.to(logits.dtype)
        return logits


def engine_arguments(steering: Steering, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Of `vllm.EngineArgs`. overrides: of the model's config, which the dial is added to."""
    found: dict[str, Any] = {}
    if steering.dial:
        found["logits_processors"] = [f"{FirstTokenBias.__module__}:{FirstTokenBias.__name__}"]
        found["hf_overrides"] = {**overrides, KEY: steering.stored}
    if steering.thinking_budget is not None:
        reasoning: Any = ReasoningConfig()
        # vLLM's own way to these ids is through a tokenizer, which our engine has none of
        reasoning._reasoning_start_token_ids = [steering.control.think]
        reasoning._reasoning_end_token_ids = [steering.control.think_end]
        reasoning._natural_reasoning_end_token_ids = [steering.control.think_end]
        found["reasoning_config"] = reasoning
    return found
