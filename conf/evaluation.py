"""The section `evaluate` of the configuration (see `conf.schema`).

In: nothing. Out: a dataclass whose comments are the help, and a check. Must not know: Hydra, files, other packages.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from conf.errors import BadConfig
from conf.ranges import LINES, number, text


@dataclass
class EvaluateConf:
    """Validation during a run, and the evaluation at its end or by `thinkless evaluate`."""

    every: int = number(20, "[0, 1e7]")  # steps between validations, the first before step 1; 0: never
    final: bool = True  # at the end of train, evaluate warm-up and final model with free and forced modes
    questions: int = number(512, "[1, 1e5]")  # of the final evaluation, per level (generated task) or in all
    temperature: float = number(1.0, "[0.01, 2]")  # of validation and evaluation
    top_p: float = number(1.0, "(0, 1]")  # likewise; may be below 1
    samples: int = number(1, "[1, 10000]")  # responses per problem
    max_response_tokens: int | None = number(None, "[2, 1e8]")  # null: rollout.max_response_tokens
    seed: int = number(1234, "[0, 4294967295]")  # of generated questions, held-out rows and sampling
    benchmark: str | None = None  # a set by name instead of data.*: aime24, aime25, amc, gsm8k, math500, ...
    revision: str | None = None  # hub commit of the benchmark; null: the pinned one
    instruction: str | None = text(None, LINES)  # line behind each question of `evaluate`; null: none, as in training
    dial: float | None = number(None, "[-100, 100]")  # of `evaluate`: on the think token's logit; null: as exported
    thinking_budget: int | None = number(None, "[0, 1e8]")  # of `evaluate`: thinking tokens, then closed; null: none
    tolerated_error: float = number(0.01, "[0, 1]")  # accuracy that the dial may give up for fewer tokens
    token_budget: float | None = number(None, "(0, 1e8]")  # mean tokens a response that the dial may take


def check_evaluate(conf: EvaluateConf, longest_prompt: int, rollout: Any) -> None:
    """Raises BadConfig for answers that do not fit. longest_prompt: tokens; rollout: `conf.schema.RolloutConf`."""
    asked = conf.max_response_tokens
    if asked is not None and longest_prompt + asked > rollout.max_model_len:
        raise BadConfig(
            f"evaluate.max_response_tokens={asked} does not fit into rollout.max_model_len={rollout.max_model_len} "
            f"beside data.max_prompt_tokens={longest_prompt}"
        )
    longest, key = (rollout.max_response_tokens, "rollout") if asked is None else (asked, "evaluate")
    if conf.thinking_budget is not None and conf.thinking_budget + 2 >= longest:
        raise BadConfig(
            f"evaluate.thinking_budget={conf.thinking_budget} leaves no room for an answer within "
            f"{key}.max_response_tokens={longest}: think token, thinking and </think> come first"
        )
