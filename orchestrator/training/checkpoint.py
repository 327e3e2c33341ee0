"""Checkpoints of a run. One that exists is complete, and its manifest says whether it still is what was written.

In: a learner, a JSON-able state. Out: folders `checkpoints/step_000050`. Must not know: what the state means.

Beside training: `begin` returns when the learner's ranks have copied their parts, which threads of theirs write;
`collect` makes it a checkpoint once all are on the disk. Until then it has another name, and nobody takes it for one.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from conf.shell import command_line
from learner.written import SaveLost, Written
from orchestrator.base.errors import RunError
from orchestrator.base.files import NOT_THE_DISK, reason, replace_folder, write_json
from orchestrator.base.interrupt import defer_signals
from orchestrator.training import manifest
from orchestrator.training.copies import Copies, name_of
from orchestrator.training.retention import Retention

STATE = "state.json"
VERIFIED = "manifest"  # a key of it, popped when it is read; a checkpoint without is from before there were manifests


class NoneVerifies(RunError):
    """There are checkpoints, but each of them is damaged."""


class Saves(Protocol):
    """See `learner.learner.Learner`."""

    def save(self, folder: str) -> Written: ...


class SavesBeside(Saves, Protocol):
    def begin_save(self, folder: str) -> None: ...
    def saved(self, whole: bool, timeout_s: float | None = None) -> Written | None: ...


@dataclass(frozen=True, slots=True)
class _Begun:
    """A checkpoint that is being written."""

    step: int
    state: dict[str, Any]
    learner: SavesBeside
    partial: Path


class CheckpointStore:
    """The checkpoints of one run folder."""

    def __init__(self, run_folder: Path, keep: Retention, to_go_on: str | None = None, copies: Copies | None = None):
        """to_go_on: what to do after a full disk; None: resume the run. copies: those at an address."""
        self.folder, self.keep, self.copies = run_folder / "checkpoints", keep, copies
        self.to_go_on = to_go_on or f"go on: {command_line('train', f'resume={run_folder}')}"
        self.whole: dict[str, Any] | None = None  # the state to save after an interruption
        self._last: dict[str, Any] | None = None  # the state of the newest checkpoint, as this process saved or read it
        self._examined: dict[int, str | None] = {}  # step: what is wrong with its checkpoint; None: nothing
        self._begun: _Begun | None = None
        self.lost = False  # what was begun last

    def note(self, step: int, state: dict[str, Any]) -> None:
        """`step` is whole: the learner stands there until its next update."""
        self.whole = {"step": step, **state}

    def save_noted(self, learner: SavesBeside, background: bool = False) -> int | None:
        """Save what `note` was given last, as `save` or `begin` does. Returns its step; None without a finished step,
        or when it is there."""
        self.collect()
        if self.whole is None or not self.whole["step"] or self._last == self.whole:
            return None
        state, self.lost = dict(self.whole), False
        (self.begin if background else self.save)(state.pop("step"), learner, state)
        return int(self.whole["step"])

    def steps(self) -> list[int]:
        """Steps with a checkpoint that is not known to be damaged, oldest first."""
        return [step for step in self._all() if self._examined.get(step) is None]

    def _all(self) -> list[int]:
        found = (re.fullmatch(r"step_(\d+)", path.name) for path in self.folder.glob("step_*") if path.is_dir())
        return sorted(int(m.group(1)) for m in found if m)

    def _of(self, step: int) -> Path:
        return self.folder / name_of(step)

    @defer_signals()
    def save(self, step: int, learner: Saves, state: dict[str, Any]) -> None:
        """Write `step`'s checkpoint, and drop those that are not to be kept, and damaged ones that the run has passed.

        Raises RunError when it cannot be written (disk full); the previous checkpoint is then as it was.
        """
        self.collect()
        with self._writing(step) as partial:
            _write_state(partial, step, state)
            self._complete(step, state, partial, learner.save(str(partial)))

    @defer_signals()
    def begin(self, step: int, learner: SavesBeside, state: dict[str, Any]) -> None:
        """The same beside training, to be collected; the one before is waited for."""
        self.collect()
        with self._writing(step) as partial:
            _write_state(partial, step, state)
            learner.begin_save(str(partial))
            self._begun = _Begun(step, state, learner, partial)

    @defer_signals()
    def collect(self, whole: bool = True, timeout_s: float | None = None) -> None:
        """Make a checkpoint of what was begun, if that is written; `whole`: wait for it, at most as long as a call to
        the learner may take, and for the copy of the one before. Raises RunError as `save` does. A learner that was
        started anew meanwhile has lost it."""
        if whole and self.copies is not None:
            self.copies.finish(timeout_s)
        if (begun := self._begun) is None:
            return
        with self._writing(begun.step, begun):
            try:
                written = begun.learner.saved(whole, timeout_s)
            except SaveLost as error:
                self._begun, written, self.lost = None, None, True
                _say(f"the checkpoint of step {begun.step} is lost: {error}")
            if written is not None:
                self._begun = None
                self._complete(begun.step, begun.state, begun.partial, written)

    @contextlib.contextmanager
    def _writing(self, step: int, begun: _Begun | None = None) -> Iterator[Path]:
        """The folder for `step`'s files, a new one unless it was begun; removed when nobody writes to it any more."""
        partial = begun.partial if begun else self.folder / f".{name_of(step)}.partial"
        try:
            if begun is None:
                for left in self.folder.glob(".step_*"):  # by a process that was killed
                    shutil.rmtree(left, ignore_errors=True)
                partial.mkdir(parents=True)
            yield partial
        except BaseException as error:
            self._begun = None
            if not isinstance(error, OSError | RuntimeError) or isinstance(error, NOT_THE_DISK):
                raise
            before = self.steps()
            kept = f"the checkpoint of step {before[-1]} is intact" if before else "there is no earlier checkpoint"
            raise RunError(
                f"cannot save the checkpoint of step {step} to {self._of(step)} "
                f"({reason(error, self.folder.parent)}); {kept}: free some space, then {self.to_go_on}"
            ) from error
        finally:
            if self._begun is None:
                shutil.rmtree(partial, ignore_errors=True)

    def _complete(self, step: int, state: dict[str, Any], partial: Path, written: Written) -> None:
        """The manifest, and the name under which it is found; then others are dropped."""
        manifest.write(partial, written)
        replace_folder(partial, self._of(step))
        self._last, self._examined[step] = {"step": step, **state}, None
        steps = self.steps()
        kept = self.keep.keeps(steps, lambda one: _state(self._of(one)))
        damaged = [old for old in self._all() if old < step and self._examined.get(old) is not None]
        for old in [*damaged, *(one for one in steps if one not in kept)]:
            self._drop(old)
        if self.copies is not None:
            self.copies.begin(step, {one: self._of(one) for one in self.steps()})

    def finish(self, timeout_s: float | None = None) -> None:
        """Wait for what is being written and copied. Raises RunError unless the newest checkpoint has its copy."""
        self.collect(timeout_s=timeout_s)
        if self.copies is not None and (error := self.copies.finish(timeout_s)) is not None:
            raise RunError(f"{error}; the checkpoints are in {self.folder}: copy them there when that is mended")

    def _drop(self, step: int) -> None:
        """A process that is killed meanwhile leaves no half of it that looks like a checkpoint."""
        beside = self.folder / f".{name_of(step)}.partial"
        self._of(step).rename(beside)
        shutil.rmtree(beside, ignore_errors=True)

    def latest(self) -> tuple[Path, dict[str, Any]] | None:
        """Folder and state of the newest checkpoint that verifies; None: there is no checkpoint.

        Damaged ones are reported, a line each on stderr, and left where they are. Raises NoneVerifies when all are.
        Each is examined once.
        """
        there = set() if self.copies is None else self.copies.steps()
        for step in sorted({*self._all(), *there}, reverse=True):
            if step not in self._examined:
                self._examined[step] = self._wrong(step, step in there)
            if self._examined[step] is None:
                self._last = _state(self._of(step))
                return self._of(step), dict(self._last)
        if self._examined:
            damaged = "; ".join(f"step {step}: {wrong}" for step, wrong in sorted(self._examined.items()))
            raise NoneVerifies(
                f"every checkpoint in {self.folder} is damaged ({damaged}): restore one from a copy, or start a new run"
            )
        return None

    def _wrong(self, step: int, has_copy: bool) -> str | None:
        """What is wrong with a checkpoint and its copy; None: nothing, or the copy has taken its place."""
        folder, wrong = self._of(step), None
        if folder.is_dir():
            if (wrong := _examine(folder)) is None:
                return None
            _say(f"the checkpoint {folder} is damaged and not used: {wrong}")
        if self.copies is None or not has_copy:
            return wrong
        partial = self.folder / f".{name_of(step)}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        try:
            self.copies.fetch(step, partial)
            if (damage := _examine(partial)) is None:
                replace_folder(partial, folder)
                print(f"the checkpoint of step {step} was fetched from {self.copies.address}", flush=True)
                return None
            _say(f"its copy in {self.copies.address}, of step {step}, is damaged and not used: {damage}")
            return wrong or damage
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def _examine(folder: Path) -> str | None:
    """What is wrong with a checkpoint; None: nothing, or nothing that can be found without a manifest."""
    has_manifest = (folder / manifest.NAME).exists()
    if has_manifest and (wrong := manifest.damage(folder)):
        return wrong
    try:
        state = json.loads((folder / STATE).read_bytes())
        int(state["step"])
    except FileNotFoundError:
        return f"{STATE} is missing"
    except OSError as error:
        return f"{STATE} cannot be read ({error.strerror})"
    except (ValueError, KeyError, TypeError):
        return f"{STATE} is not what was written"
    if not has_manifest and VERIFIED in state:
        return f"{manifest.NAME} is missing"
    if not has_manifest:
        _say(f"the checkpoint {folder} has no manifest (an earlier version wrote it): damage to it cannot be found")
    return None


def _write_state(folder: Path, step: int, state: dict[str, Any]) -> None:
    write_json(folder / STATE, {"step": step, VERIFIED: manifest.NAME, **state})


def _state(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / STATE).read_bytes())
    found.pop(VERIFIED, None)
    return found


def _say(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr, flush=True)
