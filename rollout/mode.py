"""The modes of a response, in order, and the token ids that stand for them.

In: names, token ids. Out: `Mode`s. The mode of a response is the id at t = 0, never a substring of its text.

Modes lie between `short`, which answers at once, and `think`, which reasons at full length; those between reason, too,
and end it with the same token. Each has its place by `effort`: with three modes 0, 1/2 and 1. What is given for the
ends alone holds for the others in proportion: rewards (`along`) and the dial.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

from conf.schema import ModelConf


@dataclass(frozen=True, slots=True)
class Mode:
    """Equal modes are equal by value, not identical: they travel between processes."""

    name: str  # as written in files
    effort: float  # 0 short, 1 think, evenly spaced between

    SHORT: ClassVar[Mode]
    THINK: ClassVar[Mode]

    @property
    def thinks(self) -> bool:
        """Whether it reasons before the answer."""
        return self.effort > 0

    def along(self, values: Sequence[float]) -> float:
        """A value on the straight lines through `values`, evenly spaced from short to think. Example: at 1/2, [1, 0.5]
        is 0.75, and [1, 0.9, 0.5] is 0.9."""
        place = round(self.effort * (len(values) - 1), 9)  # a whole number where every mode has a value of its own
        low = int(place)
        share = place - low
        return (1 - share) * values[low] + share * values[low + 1] if share else values[low]


Mode.SHORT, Mode.THINK = Mode("short", 0.0), Mode("think", 1.0)
MODES = (Mode.SHORT, Mode.THINK)  # where nothing else is configured


def modes_of(names: Sequence[str]) -> tuple[Mode, ...]:
    """In order. Example: those of model.modes = [short, medium, think] have efforts 0, 1/2 and 1."""
    return _modes(tuple(names))


@functools.cache
def _modes(names: tuple[str, ...]) -> tuple[Mode, ...]:
    return tuple(Mode(name, place / (len(names) - 1)) for place, name in enumerate(names))


def names_of_tokens(model: ModelConf) -> dict[Mode, str]:
    """Every mode's control token, in the order of the modes: <medium> of medium."""
    ends = {"short": model.short_token, "think": model.think_token}
    return {mode: ends.get(mode.name, f"<{mode.name}>") for mode in modes_of(model.modes)}


def think_names(model: ModelConf) -> tuple[str, ...]:
    """The tokens that begin reasoning, and the one that ends it."""
    return (*(name for mode, name in reversed(names_of_tokens(model).items()) if mode.thinks), model.think_end_token)


class Caps(Protocol):
    """Limits on tokens by mode: of a section of the configuration, or of a request."""

    @property
    def max_tokens_short(self) -> int | None: ...
    @property
    def max_tokens_between(self) -> Sequence[int]: ...
    @property
    def max_tokens_think(self) -> int | None: ...


def cap_of(mode: Mode, caps: Caps) -> int | None:
    """None: none."""
    if mode in MODES:
        return caps.max_tokens_think if mode.thinks else caps.max_tokens_short
    between = caps.max_tokens_between
    return between[round(mode.effort * (len(between) + 1)) - 1] if between else None


@dataclass(frozen=True, slots=True)
class ControlTokens:
    """Ids of the control tokens, each exactly one id of the tokenizer, all different."""

    think: int
    short: int
    think_end: int
    eos: int  # the tokenizer's own end of sequence, which a warm-up teaches
    other_ends: tuple[int, ...] = ()  # that end a response as well (`rollout.data.end_tokens`)
    between: tuple[tuple[str, int], ...] = ()  # names and ids of the modes between short and think, in order

    @property
    def ends(self) -> tuple[int, ...]:
        """Every id that ends a response, the tokenizer's own first."""
        return (self.eos, *self.other_ends)

    @property
    def modes(self) -> dict[Mode, int]:
        """The id of each mode, in the order of the modes."""
        ids = {"short": self.short, **dict(self.between), "think": self.think}
        return dict(zip(_modes(tuple(ids)), ids.values(), strict=True))

    @property
    def openers(self) -> tuple[int, ...]:
        """Ids that begin reasoning: those of all modes but short."""
        return (self.think, *(one for _, one in self.between))

    def mode_of(self, first_id: int) -> Mode | None:
        """The mode announced by the first sampled id; None when it is no control token."""
        return next((mode for mode, one in self.modes.items() if one == first_id), None)

    def id_of(self, mode: Mode) -> int:
        return self.modes[mode]
