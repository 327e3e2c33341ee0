"""Checkpoints of a run. A checkpoint that exists is complete.

In: a learner, a JSON-able state. Out: folders `checkpoints/step_000050`. Must not know: what the state means.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any, Protocol

from conf.shell import command_line
from orchestrator.base.errors import RunError
from orchestrator.base.files import whole_folder, write_json
from orchestrator.base.interrupt import defer_signals


class Saves(Protocol):
    def save(self, folder: str) -> None: ...
    def load(self, folder: str) -> int: ...


class CheckpointStore:
    """The checkpoints of one run folder."""

    def __init__(self, run_folder: Path, keep: int, to_go_on: str | None = None):
        """to_go_on: what to do after a full disk; None: resume the run."""
        self.folder, self.keep = run_folder / "checkpoints", keep
        self.to_go_on = to_go_on or f"go on: {command_line('train', f'resume={run_folder}')}"
        self.whole: dict[str, Any] | None = None  # the state to save after an interruption

    def note(self, step: int, state: dict[str, Any]) -> None:
        """`step` is whole: the learner stands there until its next update."""
        self.whole = {"step": step, **state}

    def save_noted(self, learner: Saves) -> int | None:
        """Save what `note` was given last. Returns its step; None without a finished step, or when it is there."""
        found = self.latest()
        if self.whole is None or not self.whole["step"] or (found is not None and found[1] == self.whole):
            return None
        state = dict(self.whole)
        self.save(state.pop("step"), learner, state)
        return int(self.whole["step"])

    def steps(self) -> list[int]:
        """Steps with a complete checkpoint, oldest first."""
        found = (re.fullmatch(r"step_(\d+)", path.name) for path in self.folder.glob("step_*"))
        return sorted(int(m.group(1)) for m in found if m and (self.folder / m.group(0) / "state.json").is_file())

    @defer_signals()
    def save(self, step: int, learner: Saves, state: dict[str, Any]) -> None:
        """Write `step`'s checkpoint and drop all but the newest `keep`.

        Raises RunError when it cannot be written (disk full); the previous checkpoint is then as it was.
        """
        target = self.folder / f"step_{step:06d}"

        def failed(reason: str) -> RunError:
            before = self.steps()
            kept = f"the checkpoint of step {before[-1]} is intact" if before else "there is no earlier checkpoint"
            return RunError(
                f"cannot save the checkpoint of step {step} to {target} ({reason}); {kept}: free some space, then "
                f"{self.to_go_on}"
            )

        for partial in self.folder.glob(".step_*.partial"):  # of a process that was killed
            shutil.rmtree(partial, ignore_errors=True)
        with whole_folder(target, failed) as partial:
            learner.save(str(partial))
            write_json(partial / "state.json", {"step": step, **state})
        for old in self.steps()[: -self.keep] if self.keep > 0 else []:
            shutil.rmtree(self.folder / f"step_{old:06d}", ignore_errors=True)

    def latest(self) -> tuple[Path, dict[str, Any]] | None:
        """Folder and state of the newest complete checkpoint."""
        steps = self.steps()
        if not steps:
            return None
        folder = self.folder / f"step_{steps[-1]:06d}"
        return folder, json.loads((folder / "state.json").read_text())
