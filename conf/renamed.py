"""Former names of settings, values and presets, which keep working for one version, with a notice.

In: overrides, or a saved configuration. Out: the same under the current names. Must not know: what a setting does.
"""

from __future__ import annotations

import sys
from typing import Any

SETTINGS = {
    "run.check_every": "run.logprob_check_every",
    "run.check_max_abs": "run.logprob_check_p999_abs",
    "run.logprob_check_max_abs": "run.logprob_check_p999_abs",
    "run.check_mean_abs": "run.logprob_check_mean_abs",
    "rollout.refill": "rollout.dynamic_sampling",
    "rollout.on_push": "rollout.on_weight_sync",
    "learner.publish_bucket_mib": "learner.weight_sync_bucket_mib",
    "cluster.push_timeout_s": "cluster.weight_sync_timeout_s",
    "cluster.turn_timeout_s": "cluster.colocation_timeout_s",
}
VALUES = {
    "cluster.placement": {"split": "disaggregated", "shared": "colocated"},
    "experiment": {
        "thinkless_1p5b_shared": "thinkless_1p5b_on_policy",
        "thinkless_1p5b_colocated": "thinkless_1p5b_on_policy",
    },
}
_announced: set[str] = set()


def today(key: str) -> str:
    """The current name of a setting (or of a setting within a section)."""
    for old, new in SETTINGS.items():
        if key == old or key.startswith(f"{old}."):
            return new + key.removeprefix(old)
    return key


def override(argument: str) -> str:
    """A key=value argument under the current names, with one line on stderr for a former one."""
    key, equals, value = argument.partition("=")
    name = key.lstrip("+~")
    now = today(name)
    values = [VALUES.get(now, {}).get(one, one) for one in value.split(",")]
    renamed = f"{key.removesuffix(name)}{now}{equals}{','.join(values)}"
    if renamed != argument and argument not in _announced:
        _announced.add(argument)
        old, new = (name, now) if now != name else (f"{name}={value}", renamed)
        print(f"thinkless: {old} is now called {new}; the former name works for one more version", file=sys.stderr)
    return renamed


def saved(config: dict[Any, Any]) -> dict[Any, Any]:
    """The content of a run's config.yaml under the current names."""
    for old, new in SETTINGS.items():
        section, name = old.split(".")
        values = config.get(section)
        if isinstance(values, dict) and name in values:
            values[new.split(".")[1]] = values.pop(name)
    for key, names in VALUES.items():
        section, _, name = key.partition(".")
        values = config.get(section)
        if isinstance(values, dict) and isinstance(values.get(name), str):
            values[name] = names.get(values[name], values[name])
    return config
