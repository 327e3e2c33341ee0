"""Trackers beside metrics.jsonl: where a run's figures go as well, a file each.

In: settings. Out: the trackers that a run has (`trackers`), or BadInput for one whose package is missing. Must not
know: how figures come about. A tracker's package is imported in its own thread, when the run's first line comes.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from conf.schema import TrackerConf
from orchestrator.tracking.sinks.background import Background, Tracker
from rollout.base.errors import BadInput

PACKAGES = ("tensorboard", "wandb", "mlflow")  # settings of `tracker`, and what they import


def chosen(conf: TrackerConf) -> list[str]:
    return [name for name in PACKAGES if getattr(conf, name)]


def refuse_absent(conf: TrackerConf) -> None:
    """BadInput for a tracker whose package is not installed."""
    for name in chosen(conf):
        if importlib.util.find_spec(name) is None:
            raise BadInput(
                f"tracker.{name}={getattr(conf, name)} needs the package {name}, which is not installed: "
                "pip install 'thinkless[trackers]'"
            )


def trackers(conf: TrackerConf, folder: Path, step: int, config: Mapping[str, Any]) -> list[Background]:
    """Those that are chosen, Ray's Prometheus endpoint among them. step: the last one done; config: of the run."""

    first = iter([step])

    def tensorboard() -> Tracker:
        from orchestrator.tracking.sinks.tensorboard import TensorBoard

        return TensorBoard(folder / "tensorboard", next(first, None))

    def wandb(project: str) -> Tracker:
        from orchestrator.tracking.sinks.wandb import WandB

        return WandB(folder, project, config)

    def mlflow(uri: str) -> Tracker:
        from orchestrator.tracking.sinks.mlflow import MLflow

        return MLflow(folder, uri)

    starts: dict[str, Callable[[], Tracker]] = {
        "tensorboard": tensorboard,
        "wandb": partial(wandb, conf.wandb or ""),
        "mlflow": partial(mlflow, conf.mlflow or ""),
    }
    found = [Background(name, starts[name]) for name in chosen(conf)]
    if conf.gauges:
        from orchestrator.tracking.sinks.prometheus import Prometheus

        found.insert(0, Background("prometheus", lambda: Prometheus(folder.name), setting="gauges"))
    return found
