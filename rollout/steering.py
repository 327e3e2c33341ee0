"""What a sampler adds to a model's own distribution: the dial on the first token, and a budget of thinking.

In: control tokens, numbers, a model's folder. Out: `Steering`; the dial in and from the model's config.json. Must not
know: engines. `rollout.vllm_steering` applies both.

The dial is stored in config.json, since that is the one file that goes wherever a model goes, and that vLLM gives to
its plugins. Training ignores it, and leaves it out of what it exports.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rollout.base.errors import BadInput
from rollout.mode import ControlTokens

KEY = "first_token_bias"  # of config.json: {"bias": {"<id>": nats}, "control_tokens": [ids]}
LIMIT = 100.0  # of a dial, as of a logit_bias in OpenAI's API; e^-100 is below what a probability in float32 can be


@dataclass(frozen=True, slots=True)
class Steering:
    control: ControlTokens
    dial: float = 0.0  # times its effort added to each mode's logit where the mode is chosen, before temperature
    thinking_budget: int | None = None  # tokens after the think token until </think> is forced; None: no limit

    @property
    def stored(self) -> dict[str, Any]:
        """What `rollout.vllm_steering` reads of a model's config."""
        return {
            "bias": {str(one): mode.effort * self.dial for mode, one in self.control.modes.items() if mode.thinks},
            "control_tokens": [*reversed(self.control.modes.values())],
        }


@dataclass(frozen=True, slots=True)
class FirstTokens:
    """The same, read. A request whose prompt ends with a control token has its mode, and is left alone."""

    bias: Mapping[int, float] = field(default_factory=dict)
    control: frozenset[int] = frozenset()

    @classmethod
    def of(cls, config: Any) -> FirstTokens:
        """config: a model's, or its config.json as an object. Raises BadInput: the entry is not as it should be."""
        found = config.get(KEY) if isinstance(config, Mapping) else getattr(config, KEY, None)
        if found is None:
            return cls()
        try:
            bias = {int(key): float(value) for key, value in found["bias"].items()}
            return cls(bias, frozenset(map(int, found["control_tokens"])))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise BadInput(f"{KEY} of the model's config.json cannot be read: {found!r}; export it again") from error


def stored_dial(config: Mapping[str, Any]) -> float:
    """The bias on the think token that a model was exported with; 0: none. config: its config.json."""
    found = FirstTokens.of(config)
    return max(found.bias.values(), key=abs, default=0.0)  # think's: all of it


def store_dial(folder: Path, control: ControlTokens, dial: float) -> None:
    """Write it into the model's config.json, in the place of an earlier one; 0 takes that away."""
    refuse_dial(dial, "dial")
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config.pop(KEY, None)
    if dial:
        config[KEY] = Steering(control, dial).stored
    partial = path.with_suffix(".json.partial")
    with partial.open("w", encoding="utf-8") as file:
        file.write(json.dumps(config, indent=2, ensure_ascii=False) + "\n")
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def forget_dial(config: Any) -> None:
    """Take it out of a loaded model's config: it belonged to the weights before they were trained."""
    if hasattr(config, KEY):
        delattr(config, KEY)


def refuse_dial(dial: float, name: str) -> None:
    if not (math.isfinite(dial) and abs(dial) <= LIMIT):
        raise BadInput(
            f"{name}={dial:g} is beyond what P(think) can express: from -{LIMIT:g} to {LIMIT:g}, since e^-{LIMIT:g} is "
            "0 in float32. For a model that always or never thinks ask with mode=think or mode=short instead"
        )
