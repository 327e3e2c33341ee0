"""A question as the policy gets it. (`rollout.data.stream` makes them.)"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, slots=True, eq=False)
class Prompt:
    """One question, tokenized up to where the control token will be sampled.

    Example: uid "gsm8k/train/17#e0" is row 17 in epoch 0.
    """

    uid: str  # unique within a run: source, row and epoch
    problem: str
    token_ids: np.ndarray  # i32[P], ends with the chat template's generation prompt
    answer: str | tuple[str, ...]  # gold; a tuple: any may match (see all_answers); never shown to the policy
    source: str  # data set's name, or "arithmetic"
    level: str | None = None  # difficulty as the source names it
    all_answers: bool = False  # a tuple of answers: all must be given
