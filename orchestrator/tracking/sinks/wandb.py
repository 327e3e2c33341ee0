"""A run's figures on Weights & Biases; with WANDB_MODE=offline, in the run folder for `wandb sync`.

In: lines of metrics.jsonl, values of histograms. Out: a run of a W&B project. Must not know: how figures come about.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import wandb

from orchestrator.base.files import write_whole
from orchestrator.tracking.catalogue import Sink, find
from orchestrator.tracking.sinks.background import End

INIT_S = 60.0  # for the server to answer
RUN = "wandb_run.txt"  # in the run folder: the W&B run's id, with which a resumed run goes on


class WandB:
    def __init__(self, folder: Path, project: str, config: Mapping[str, Any]):
        """A run that is resumed goes on in the same W&B run. What it does again is there twice: W&B drops lines whose
        own step goes back, so the training step is a figure of its own."""
        kept = folder / RUN
        if not kept.is_file():
            write_whole(kept, secrets.token_hex(6) + "\n")
        name = kept.read_text().strip()
        settings = wandb.Settings(init_timeout=INIT_S, console="off", silent=True, x_disable_stats=True)
        self._run = wandb.init(
            project=project,
            name=folder.name,
            id=name,
            resume="allow",
            dir=folder,
            config=dict(config),
            settings=settings,
        )
        self._run.define_metric("*", step_metric="step")

    def write(self, step: int, line: Mapping[str, Any], values: Mapping[str, Sequence[float]]) -> None:
        shown: dict[str, Any] = {
            key: value
            for key, value in line.items()
            if value is not None and (found := find(key)) is not None and Sink.wandb in found[0].sinks
        }
        shown |= {key: wandb.Histogram(list(many)) for key, many in values.items() if many}
        self._run.log(shown | {"step": step})

    def close(self, end: End | None = None) -> None:
        """W&B marks a run with another exit code than 0 as failed. Its service writes the run's file after `finish` has
        returned: only its end says that the file is whole."""
        self._run.finish(exit_code=0 if end in (None, End.finished) else 1)
        wandb.teardown()
