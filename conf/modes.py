"""Refuses modes without an order or a name of their own, and settings that do not fit them.

In: a typed configuration. Out: nothing, or `BadConfig`. Must not know: files, what a mode does.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence

from conf.errors import BadConfig
from conf.schema import Config, ModelConf

# taken in the names of figures, ways, answers and columns
RESERVED = frozenset({
    "all", "answer", "auto", "control", "end", "free", "kl", "level", "max", "mean", "none", "oracle", "p50", "p95",
    "problem", "random", "response", "short", "think", "total", "worker",
})  # fmt: skip


def _refuse_alike(model: ModelConf) -> None:
    """BadConfig for control tokens of which one is, or is a part of, another."""
    tokens = {key: getattr(model, key) for key in ("think_token", "short_token", "think_end_token")}
    tokens |= {f"modes: {name}": f"<{name}>" for name in model.modes[1:-1]}
    for (key, token), (other, whole) in itertools.permutations(tokens.items(), 2):
        if token in whole:
            raise BadConfig(
                f"model.{key}={token!r} must not be a part of model.{other}={whole!r}: a text with one would hold both"
            )


def check_modes(conf: Config) -> None:
    """Raises BadConfig."""
    names = list(conf.model.modes)
    if names[:1] != ["short"] or names[-1:] != ["think"]:
        raise BadConfig(
            f"model.modes={names} must begin with short, end with think, and have any others between, the cheaper first"
        )
    for name in names[1:-1]:
        if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or name in RESERVED or names.count(name) > 1:
            raise BadConfig(
                f"model.modes={names}: {name!r} cannot be a mode's name: lower-case letters and digits, each name "
                f"once, and none of {', '.join(sorted(RESERVED))}"
            )
    _refuse_alike(conf.model)
    each: dict[str, Sequence[float]] = {
        "reward.correct_between": conf.reward.correct_between,
        "reward.max_tokens_between": conf.reward.max_tokens_between,
        "rollout.max_tokens_between": conf.rollout.max_tokens_between,
    }
    for key, given in each.items():
        if len(given) not in (0, len(names) - 2):
            raise BadConfig(
                f"{key}={list(given)} must have a value for each mode between short and think, or none: "
                f"{', '.join(names[1:-1]) or 'there is no such mode'} (model.modes)"
            )
    for key in ("max_tokens_short", "max_tokens_between", "max_tokens_think"):
        limit, longest = getattr(conf.rollout, key), conf.rollout.max_response_tokens
        if max(limit if isinstance(limit, list) else [limit or 0], default=0) > longest:
            raise BadConfig(f"rollout.{key} must be at most rollout.max_response_tokens={longest}, got {limit}")
