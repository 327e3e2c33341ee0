"""One response against its gold answer, also in the forms that TRL and verl call.

In: responses and golds as text. Out: truth values, or rewards 1.0 and 0.0. Must not know: processes, time limits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from reward.maths.equivalence import Gold, equivalent
from reward.maths.extraction.answer import extract


def verify(
    response: str,
    gold: Gold,
    strict: bool = False,
    all_answers: bool = False,
    think_end: str = "</think>",
    thinking: bool = False,
) -> bool:
    """Whether the final answer of `response` equals `gold`; False if it has no answer.

    gold, all_answers: as in `equivalent`. strict, think_end, thinking: as in `extract`.
    Accuracy and limits: README.md. No time limit of its own: see `equivalent`.
    Example: verify(r"so we get $\\boxed{\\tfrac{11}{850}}$.", r"\\frac{22}{1700}") is True.
    """
    answer = extract(response, strict, think_end, thinking)
    return answer is not None and equivalent(answer, gold, all_answers)


def trl_reward(
    completions: Sequence[str | Sequence[Mapping[str, Any]]], solution: Sequence[Gold], **_: Any
) -> list[float]:
    """A reward function for TRL's GRPOTrainer: 1.0 for a correct final answer, else 0.0, aligned with `completions`.

    completions: texts, or conversations, whose last message counts. solution: the data set's column of that name: gold
    answers, or worked solutions with the gold answer in a box. Other columns are ignored.
    Raises ValueError if the two differ in length. Only boxed answers count, as is usual in training.
    """
    return [
        float(verify(_text(one), _gold(gold), strict=True)) for one, gold in zip(completions, solution, strict=True)
    ]


def compute_score(
    data_source: str, solution_str: str, ground_truth: Gold, extra_info: Mapping[str, Any] | None = None, **_: Any
) -> float:
    """A reward function for verl (`custom_reward_function`): 1.0 for a correct final answer, else 0.0.

    solution_str: the decoded response. ground_truth: the gold answer, of `reward_model.ground_truth` in verl's data.
    data_source and extra_info are ignored. Only boxed answers count, as is usual in training.
    """
    return float(verify(solution_str, ground_truth, strict=True))


def _text(completion: str | Sequence[Mapping[str, Any]]) -> str:
    return completion if isinstance(completion, str) else str(completion[-1]["content"])


def _gold(solution: Gold) -> Gold:
    """The boxed answer of a worked solution; anything else is the gold answer itself."""
    return (extract(solution, strict=True) or solution) if isinstance(solution, str) else solution
