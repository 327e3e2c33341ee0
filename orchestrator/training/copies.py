"""Copies of a run's checkpoints at an address: s3://, gs://, or whatever else fsspec knows.

In: folders of whole checkpoints, an address. Out: the same files under <address>/<run>, and back from there. Must not
know: learners, what a checkpoint's files mean.

A copy's manifest comes last and goes first, so a copy that has one is complete. A thread copies, beside training; what
failed is said, and tried again with the next checkpoint. Credentials are the file system's own matter: its environment
variables (AWS_ACCESS_KEY_ID...) or files, never a setting.
"""

from __future__ import annotations

import contextlib
import json
import re
import sys
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, wait
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from conf.compose import from_file
from orchestrator.base.errors import RunError, WaitedTooLong
from orchestrator.base.files import write_whole
from orchestrator.training import manifest
from orchestrator.training.retention import Retention
from rollout.base.errors import BadInput, in_one_line
from rollout.data.addresses import filesystem

WITHOUT_FOLDERS = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss")  # there making one might make a bucket
CONFIG, STATE = "config.yaml", "state.json"
COPIED_S = 3600.0  # for a checkpoint's copy, when it is waited for


def name_of(step: int) -> str:
    """Of a checkpoint's folder."""
    return f"step_{step:06d}"


def split(address: str) -> tuple[str, str]:
    """(run.checkpoints, the run's name) of the address of a run's copies."""
    parent, _, name = address.rstrip("/").rpartition("/")
    return parent, name


def bring(address: str, parent: Path) -> Path:
    """The folder below `parent` of the run whose copies are at `address`, <run.checkpoints>/<run>. Where it is not
    there it is made, with the run's configuration alone: checkpoints are fetched when the run goes on. Raises BadInput
    for an address that holds none, and when another run has that folder."""
    checkpoints, name = split(address)
    folder = parent / name
    system, root = filesystem(address, f"resume={address}")
    try:
        config = system.cat_file(f"{root}/{CONFIG}")
    except FileNotFoundError:
        raise BadInput(f"resume={address}: no {CONFIG} is there, so it holds no copies of a run") from None
    except Exception as error:
        raise BadInput(f"resume={address}: cannot be read ({in_one_line(error, 300)})") from error
    if (here := folder / CONFIG).is_file():
        own = "" if here.read_bytes() == config else from_file(here, []).run.checkpoints or "null"
        if own and own.rstrip("/") != checkpoints:
            raise BadInput(
                f"resume={address}: {folder} is another run of that name, whose run.checkpoints is {own}: move it, or "
                "choose another run.root"
            )
    else:
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(here, config)
    return folder.absolute()


class Copies:
    def __init__(self, address: str, run_folder: Path, keep: Retention):
        self.address, self.run_folder, self.keep = f"{address.rstrip('/')}/{run_folder.name}", run_folder, keep
        self._folders = address.partition("://")[0] not in WITHOUT_FOLDERS
        self._copied: Future[None] | None = None

    @cached_property
    def _place(self) -> tuple[Any, str]:
        """The file system, and the run's folder in it. BadInput for an address that fsspec cannot use here."""
        return filesystem(self.address, f"run.checkpoints: {self.address}")

    @property
    def _system(self) -> Any:
        return self._place[0]

    @property
    def _root(self) -> str:
        return self._place[1]

    # ---- what is there

    def steps(self) -> set[int]:
        """Those with a complete copy."""
        with self._told("cannot be listed"):
            self._system.invalidate_cache()
            found = (re.search(rf"/step_(\d+)/{re.escape(manifest.NAME)}$", f"/{one}") for one in self._files())
            return {int(match[1]) for match in found if match}

    def begin_run(self) -> None:
        """Of a new run: write its configuration there, and so try whether that can be done. Raises BadInput when
        copies of another run are there."""
        if there := self.steps():
            raise BadInput(
                f"{self.address} holds checkpoints of another run (the newest of step {max(there)}): choose another "
                "run.name, or another run.checkpoints"
            )
        with self._told("cannot be written"):
            self._put(self.run_folder / CONFIG, CONFIG)

    def fetch(self, step: int, folder: Path) -> None:
        """The copy of `step` into `folder`, which is empty."""
        with self._told(f"the copy of step {step} cannot be fetched"):
            for name in self._files(name_of(step)):
                inner = name.partition(f"/{name_of(step)}/")[2]
                if ".." in PurePosixPath(inner).parts:
                    raise RunError(f"{self.address} has a file {name}, which is no checkpoint's")
                (folder / inner).parent.mkdir(parents=True, exist_ok=True)
                self._system.get_file(name, str(folder / inner))

    # ---- what is copied

    def begin(self, new: int, folders: Mapping[int, Path]) -> None:
        """Copy the checkpoint of step `new`, and of the others those that are not there; then drop what is not kept."""
        self.finish()
        copied = self._copied = Future[None]()

        def work() -> None:
            try:
                self._copy(new, folders)
                copied.set_result(None)
            except RunError as error:
                print(f"warning: {error}; it is tried again with the next checkpoint", file=sys.stderr, flush=True)
                copied.set_exception(error)
            except BaseException as error:
                copied.set_exception(error)

        threading.Thread(target=work, name="copies", daemon=True).start()

    def finish(self, timeout_s: float | None = None) -> RunError | None:
        """Wait for what is being copied. Returns what kept the last from being copied, which has been said."""
        if self._copied is None:
            return None
        limit = COPIED_S if timeout_s is None else timeout_s
        if not wait([self._copied], limit).done:
            raise WaitedTooLong(
                f"the driver timed out after {limit:g} s waiting for checkpoints to be copied to {self.address}"
            )
        error = self._copied.exception()
        if error is None or isinstance(error, RunError):
            return error
        raise error

    def _copy(self, new: int, folders: Mapping[int, Path]) -> None:
        there = self.steps()
        with self._told("cannot be written"):
            self._put(self.run_folder / CONFIG, CONFIG)
        for step in sorted({*folders} - (there - {new}), reverse=True):
            with self._told(f"the checkpoint of step {step} cannot be copied there"):
                self._remove(step)
                names = sorted(path.relative_to(folders[step]).as_posix() for path in folders[step].rglob("*"))
                for name in sorted(names, key=lambda name: name == manifest.NAME):
                    if (folders[step] / name).is_file():
                        self._put(folders[step] / name, f"{name_of(step)}/{name}")
        there |= {*folders}
        with self._told("checkpoints that are not kept cannot be removed there"):
            kept = self.keep.keeps(sorted(there), lambda step: self._state(step, folders))
            for step in sorted(there - kept):
                self._remove(step)

    def _state(self, step: int, folders: Mapping[int, Path]) -> dict[str, Any]:
        if step in folders:
            text = (folders[step] / STATE).read_bytes()
        else:
            text = self._system.cat_file(f"{self._root}/{name_of(step)}/{STATE}")
        found: dict[str, Any] = json.loads(text)
        return found

    def _put(self, file: Path, name: str) -> None:
        target = f"{self._root}/{name}"
        if self._folders:
            self._system.makedirs(target.rpartition("/")[0], exist_ok=True)
        self._system.put_file(str(file), target)

    def _remove(self, step: int) -> None:
        self._system.invalidate_cache()
        names = self._files(name_of(step))
        for name in sorted(names, key=lambda name: not name.endswith(f"/{manifest.NAME}")):
            self._system.rm_file(name)

    def _files(self, inside: str = "") -> list[str]:
        return list(self._system.find(f"{self._root}/{inside}".rstrip("/")))

    @contextlib.contextmanager
    def _told(self, what: str) -> Iterator[None]:
        """File systems raise their own exceptions: of networks, credentials, buckets that do not exist."""
        try:
            yield
        except (RunError, BadInput):
            raise
        except Exception as error:
            raise RunError(f"run.checkpoints: {self.address}: {what} ({in_one_line(error, 300)})") from error
