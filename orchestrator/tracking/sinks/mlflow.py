"""A run's figures in an MLflow store.

In: lines of metrics.jsonl. Out: a run of an MLflow experiment; histograms are left out, MLflow has none. Must not know:
how figures come about.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mlflow.entities import Metric
from mlflow.tracking import MlflowClient

from orchestrator.base.files import write_whole
from orchestrator.tracking.catalogue import Sink, find
from orchestrator.tracking.sinks.background import End

EXPERIMENT = "thinkless"
RUN = "mlflow_run.txt"  # in the run folder: the MLflow run's id, with which a resumed run goes on
STATUS = {End.finished: "FINISHED", End.failed: "FAILED", End.interrupted: "KILLED"}


class MLflow:
    def __init__(self, folder: Path, uri: str):
        self._client = MlflowClient(tracking_uri=uri)
        kept = folder / RUN
        if kept.is_file():
            self._run = kept.read_text().strip()
            self._client.update_run(self._run, status="RUNNING")
            return
        experiment = self._client.get_experiment_by_name(EXPERIMENT)
        number = experiment.experiment_id if experiment else self._client.create_experiment(EXPERIMENT)
        self._run = self._client.create_run(number, run_name=folder.name).info.run_id
        write_whole(kept, self._run + "\n")

    def write(self, step: int, line: Mapping[str, Any], values: Mapping[str, Sequence[float]]) -> None:
        now = round(1000 * time.time())
        metrics = [
            Metric(re.sub(r"[^\w\-. :/]", "_", key), float(value), now, step)
            for key, value in line.items()
            if value is not None and (found := find(key)) is not None and Sink.mlflow in found[0].sinks
        ]
        self._client.log_batch(self._run, metrics=metrics)

    def close(self, end: End | None = None) -> None:
        if end is not None:
            self._client.set_terminated(self._run, STATUS[end])
