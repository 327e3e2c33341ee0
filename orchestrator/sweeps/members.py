"""How a member of a sweep starts, or is found again where an earlier call has started it.

In: a member, and what the sweep's folder knows of it. Out: a `Running`. Must not know: which members run, and when.

A member on this machine is found by the lock beside its log, which it has inherited and holds while it runs, or by its
run folder, which is complete when it has finished. A Ray job is found by its metadata, which name the sweep and the
member, so that it does not matter whether the call that submitted it came to note the job's id.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from conf.choices import Objective
from conf.compose import from_file
from conf.errors import BadConfig
from conf.flags import Flags
from conf.multirun import Member
from conf.overrides import quoted
from orchestrator.sweeps.runner import Adopted, Process, Running
from orchestrator.sweeps.state import RUNNING, MemberState, SweepState
from orchestrator.training import run_dir


class Members:
    def __init__(self, sweep: SweepState, root: str, flags: Flags, jobs: Any = None):
        """root: run.root as it was given. jobs: `orchestrator.sweeps.jobs.Jobs`; None: members run on this machine."""
        self._sweep, self._root, self._flags, self._jobs = sweep, root, flags, jobs

    def start(self, state: MemberState, member: Member, objective: Objective) -> Running:
        """Raises RunError or BadInput where it cannot be started; HeadGone, after which it may have been."""
        folder, log = self._sweep.run_folder(state), self._sweep.log(state)
        if self._jobs is not None:
            marks = {"sweep": self._sweep.id, "member": member.key}
            job = self._jobs.again(marks, state.job, state.status == RUNNING, log)
            if job is None:
                job = self._jobs.start(self._arguments(state, member, objective), member.conf, state.run, marks, log)
            state.job = job.id
            running: Running = job
        elif Adopted.runs(run_dir.lock(folder), log) or finished(folder):
            running = Adopted(run_dir.lock(folder), log, lambda: finished(folder))
        else:
            running = Process(["train", *self._arguments(state, member, objective)], log)
        return running

    def _arguments(self, state: MemberState, member: Member, objective: Objective) -> list[str]:
        """Behind `thinkless train`. A run that was begun goes on from its checkpoint."""
        folder, log = self._sweep.run_folder(state), self._sweep.log(state)
        if (folder / "config.yaml").is_file():
            return [f"resume={folder}"]
        if self._jobs is not None and not state.here and self._jobs.begun(log):  # on another host
            return [f"resume={state.run}", f"run.root={self._root}"]
        if folder.exists():  # it was killed before it wrote anything
            shutil.rmtree(folder)
        files = self._flags.words_of_files
        single = ["hydra.mode=RUN"] if files else []  # whatever those files say
        where = f"run.root={quoted(str(folder.parent) if self._jobs is None else self._root)}"
        own = [f"run.name={state.run}", where, f"sweep.objective={objective.value}"]
        return [*(files if self._jobs is None else []), *member.overrides, *single, *own]


def finished(folder: Path) -> bool:
    """Whether a run has done its steps and everything after them that a sweep looks at: all but its report."""
    from orchestrator.training.checkpoint import CheckpointStore
    from orchestrator.training.retention import Retention
    from orchestrator.training.stages import Stand, missing

    if not (folder / "config.yaml").is_file():
        return False
    try:
        conf = from_file(folder / "config.yaml", [])
    except BadConfig:  # it is torn: going on with the run says so
        return False
    steps = CheckpointStore(folder, Retention(0)).steps()
    return bool(steps) and {stage.name for stage in missing(Stand.of(folder, conf, steps[-1]))} <= {"report"}
