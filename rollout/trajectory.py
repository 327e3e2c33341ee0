"""What sampling produces. In: prompts and sampled ids. Out: frozen `Trajectory` records.

Law of alignment: entry t of every [T] array belongs to response token t; t = 0 is the control token.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from rollout.mode import Mode
from rollout.prompt import Prompt

if TYPE_CHECKING:
    import numpy as np


class Finish(Enum):
    STOP = "stop"  # an end token was sampled (and is the last id)
    LENGTH = "length"  # cut off at max_response_tokens
    ABORT = "abort"


@dataclass(frozen=True, slots=True, eq=False)
class Trajectory:
    """One response to one prompt.

    Example: a short answer `<short>\\boxed{5}<eos>` is token_ids [short, boxed, 5, }, eos], T = 5.
    """

    prompt: Prompt
    sibling: int  # 0..G-1
    token_ids: np.ndarray  # i32[T], control token first, end token included when sampled
    behavior_logprobs: np.ndarray  # f32[T], nats, after temperature; 0 for a forced control token
    mode: Mode | None  # of token_ids[0]; None: it is no control token
    finish: Finish
    versions: np.ndarray  # i32[T], version of the weights that sampled each token (finished training steps)
    forced: bool = False  # the control token was given, not sampled

    def __post_init__(self) -> None:
        if not 0 < len(self.token_ids) == len(self.behavior_logprobs) == len(self.versions):
            raise ValueError(
                f"trajectory {self.prompt.uid}/{self.sibling}: {len(self.token_ids)} token ids, "
                f"{len(self.behavior_logprobs)} log-probs, {len(self.versions)} versions (must be equal, at least 1)"
            )
