"""A run's figures as TensorBoard event files.

In: lines of metrics.jsonl, values of histograms. Out: an event file in a folder. Must not know: torch, TensorFlow.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.histogram_pb2 import HistogramProto
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.summary.writer.record_writer import RecordWriter

from orchestrator.tracking.catalogue import Sink, find
from orchestrator.tracking.sinks.background import End


class TensorBoard:
    def __init__(self, folder: Path, step: int | None):
        """step: the last one done before this session; events of later steps, which a resumed run does again, are
        hidden. None: a file was opened in this session before, and nothing is hidden."""
        folder.mkdir(parents=True, exist_ok=True)
        self._file = (folder / f"events.out.tfevents.{time.time_ns()}.{os.getpid()}").open("ab")
        self._records = RecordWriter(self._file)
        self._event(file_version="brain.Event:2")
        if step is not None:
            self._event(step=step + 1, session_log=SessionLog(status=SessionLog.START))

    def write(self, step: int, line: Mapping[str, Any], values: Mapping[str, Sequence[float]]) -> None:
        summary = Summary()
        for key, value in line.items():
            found = find(key)
            if value is not None and found is not None and Sink.tensorboard in found[0].sinks:
                about = SummaryMetadata(summary_description=found[0].help)
                summary.value.add(tag=key, simple_value=float(value), metadata=about)
        for key, many in values.items():
            found = find(key)
            if many and found is not None:
                summary.value.add(tag=key, histo=_histogram(many, found[0].buckets))
        self._event(step=step, summary=summary)

    def close(self, end: End | None = None) -> None:
        self._file.close()

    def _event(self, **content: Any) -> None:
        self._records.write(Event(wall_time=time.time(), **content).SerializeToString())
        self._file.flush()


def _histogram(values: Sequence[float], bounds: Sequence[float]) -> HistogramProto:
    numbers = np.asarray(values, np.float64)
    above = max(float(numbers.max()), 2 * bounds[-1])
    counts, _ = np.histogram(numbers, [-np.inf, *np.nextafter(bounds, np.inf), np.inf])  # bounds are included
    return HistogramProto(
        min=float(numbers.min()),
        max=float(numbers.max()),
        num=len(numbers),
        sum=float(numbers.sum()),
        sum_squares=float((numbers**2).sum()),
        bucket_limit=[*bounds, above],
        bucket=counts.tolist(),
    )
