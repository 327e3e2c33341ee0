"""A run folder's files of lines: metrics.jsonl, samples and such.

In: lines. Out: files that have each piece of text whole or not at all. Must not know: what lines mean.

What the disk does not take is lost, said once and counted (`tracking/failures/files`): it ends no run. A checkpoint
that cannot be written does (`orchestrator.training.checkpoint`).
"""

from __future__ import annotations

from pathlib import Path

from orchestrator.base.files import append, reason
from orchestrator.tracking.failures import Failures


class LineFiles:
    def __init__(self, folder: Path):
        self.folder, self.failures = folder, Failures("files")

    def append(self, name: str, text: str) -> bool:
        """Add whole lines to a file of the folder. Returns whether they are there."""
        try:
            append(self.folder / name, text)
            return True
        except OSError as error:
            self.failures.add(
                f"{name} could not be written ({reason(error, self.folder)}): training goes on, and lines are lost "
                f"as long as {self.folder} cannot be written"
            )
            return False
