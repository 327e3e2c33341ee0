"""The configuration of a resumed run, and which settings must stay as the checkpoint has them.

In: the run's folder, overrides, the checkpoint's state. Out: a configuration, or `BadInput` before anything is started.
Must not know: how a checkpoint is loaded.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np

from conf.compose import from_file
from conf.overrides import pasted
from conf.schema import Config
from orchestrator.commands.preflight import located
from rollout.base.errors import BadInput
from rollout.data.problems import Problem
from rollout.data.stream import PromptStream

FIXED = {  # key, or all keys below it: why
    "model": "the checkpoint holds that model's weights",
    "warmup": "the run began with that warm-up",
}
FREE = ("warmup.cache", "warmup.out", "warmup.ranks", "warmup.save_every_s", "model.trust_remote_code")


def refuse_changed(run_folder: Path, conf: Config, state: dict[str, Any], training: list[Problem] | None) -> None:
    """BadInput when `conf` cannot resume from the checkpoint with this `state` of the run in `run_folder`.

    training: its problems; None: the generated task.
    """
    before, now = (dict(_flat(located(one))) for one in (from_file(run_folder / "config.yaml", []), conf))
    for key in [*now, *(key for key in before if key not in now)]:
        was, is_now = before.get(key), now.get(key)
        if was == is_now or key in FREE:
            continue
        reason = next((why for fixed, why in FIXED.items() if key == fixed or key.startswith(f"{fixed}.")), None)
        if reason is None:
            continue
        if key == "model.path" and isinstance(was, str) and Path(was).is_absolute() and not Path(was).exists():
            continue  # it was moved
        old = _shown(was)
        again = f"{key}={old}" if re.fullmatch(r"[\w./-]+", old) else pasted(key, old)
        raise BadInput(
            f"{key} was {old} in this run and cannot become {_shown(is_now)}: {reason}; go on with {again}, or start "
            "a new run"
        )
    PromptStream(training, _unused, conf.data, conf.run.seed).restore(state["prompts"])


def _flat(conf: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for field in fields(conf):
        value, key = getattr(conf, field.name), prefix + field.name
        if is_dataclass(value):
            yield from _flat(value, f"{key}.")
        else:
            yield key, value


def _shown(value: Any) -> str:
    return "null" if value is None else str(value.value if isinstance(value, Enum) else value)


def _unused(problem: str) -> np.ndarray:
    raise AssertionError("no prompt is drawn here")
