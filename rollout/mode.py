"""The two modes of a response and the token ids that stand for them.

In: token ids. Out: `Mode`. The mode of a response is the id at t = 0, never a substring of its text.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Mode(Enum):
    """Value: the name written in files."""

    THINK = "think"
    SHORT = "short"


@dataclass(frozen=True, slots=True)
class ControlTokens:
    """Ids of the control tokens, each exactly one id of the tokenizer, all different."""

    think: int
    short: int
    think_end: int
    eos: int  # the tokenizer's own end of sequence, which a warm-up teaches
    other_ends: tuple[int, ...] = ()  # that end a response as well (`rollout.data.end_tokens`)

    @property
    def ends(self) -> tuple[int, ...]:
        """Every id that ends a response, the tokenizer's own first."""
        return (self.eos, *self.other_ends)

    def mode_of(self, first_id: int) -> Mode | None:
        """The mode announced by the first sampled id; None when it is no control token."""
        if first_id == self.think:
            return Mode.THINK
        if first_id == self.short:
            return Mode.SHORT
        return None

    def id_of(self, mode: Mode) -> int:
        return self.think if mode is Mode.THINK else self.short
