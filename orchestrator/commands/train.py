"""thinkless train: does the stages of a run, all of them or those that an earlier process has left.

In: configuration. Out: a run folder (metrics, samples, checkpoints, best and final model, evaluation, report).
Must not know: how a stage is done (`orchestrator.training.work`).
"""

from __future__ import annotations

import functools
import shutil
from pathlib import Path
from typing import Any

from conf.schema import Config
from conf.shell import command_line
from orchestrator.base.errors import RunError
from orchestrator.base.files import remove_leftovers
from orchestrator.base.interrupt import Interrupted, reason
from orchestrator.base.leaving import noting
from orchestrator.base.lock import Taken, locked
from orchestrator.base.same_folder import FolderGone, SameFolder
from orchestrator.base.waiting import enable, waiting
from orchestrator.cluster.cluster import Cluster
from orchestrator.cluster.object_store import sized
from orchestrator.commands.problems import Problems
from orchestrator.commands.ready import ready
from orchestrator.report.damage import say_damage
from orchestrator.training import run_dir as run_folders
from orchestrator.training.checkpoint import CheckpointStore
from orchestrator.training.copies import Copies
from orchestrator.training.resume import refuse_changed
from orchestrator.training.retention import Retention
from orchestrator.training.stages import STAGES, Stage, Stand, missing
from orchestrator.training.work import Saved, Work, report
from rollout.base.errors import BadInput


def command(conf: Config, prefix: str = "train", resume: Path | None = None) -> Path:
    """Run (or go on with `resume`, a run folder). Returns the run folder."""
    enable(conf.tracker.console)
    at_hand = ready(conf, "train", resume)
    conf, problems, config = at_hand.conf, at_hand.problems, at_hand.model
    assert problems is not None
    folder = resume or run_folders.create(conf, prefix)
    try:
        with locked(run_folders.lock(folder)):
            _command(conf, problems, folder, resume is not None, config)
    except Taken:
        raise BadInput(f"the run {folder} {run_folders.state(folder)}: wait for its end, or end it first") from None
    return folder


def _command(conf: Config, problems: Problems, folder: Path, resume: bool, config: dict[str, Any] | None) -> None:
    same, keep = SameFolder(folder), Retention.of(conf.run)
    copies = Copies(conf.run.checkpoints, folder, keep) if conf.run.checkpoints else None
    store = CheckpointStore(folder, keep, copies=copies)
    if resume and not missing(Stand.of(folder, conf, max(store.steps(), default=None))):
        say_damage(folder)
        more = f"run.steps={conf.run.steps + max(1, conf.run.steps // 2)}"
        again = command_line("train", f"resume={folder}", more)
        raise RunError(f"{folder} has finished its {conf.run.steps} steps; to add some: {again}")
    with waiting("verifying the checkpoint"):
        saved = store.latest() if resume else None
    left = missing(Stand.of(folder, conf, saved[1]["step"] if saved else None)) if resume else [*STAGES]
    if saved:
        refuse_changed(folder, conf, saved[1], problems.training)
    if resume:
        say_damage(folder)
        remove_leftovers(folder)
    else:
        run_folders.record(folder, conf, problems.data_hash)
    print(f"run folder: {folder}" + (f", going on from step {saved[1]['step']}" if saved else ""), flush=True)
    if saved and len(left) < len(STAGES) - 1:
        print(f"it has done its steps; missing: {', '.join(stage.name for stage in left)}", flush=True)
    resumed = functools.partial(_how_to_go_on, store, folder, conf)
    try:
        if copies and not resume:
            copies.begin_run()
        if [stage.name for stage in left] == ["report"]:
            report(folder)
            run_folders.mark(folder, ["report"], conf.run.steps)
        else:
            with noting(resumed):
                _do(left, conf, problems, same, store, saved, resume, config)
        if copies:
            with waiting("copying the checkpoint"):
                store.finish()
    except FolderGone:
        raise
    except BaseException as error:
        same.check()
        if not resume and not run_folders.learning(folder):  # nothing was learnt: leave no empty run behind
            shutil.rmtree(folder, ignore_errors=True)
            if isinstance(error, KeyboardInterrupt):
                error.add_note(f"no training step had finished, and {folder} is removed; the same command begins again")
        elif (reason() or not isinstance(error, Interrupted)) and "resume=" not in str(error):  # else it was told
            error.add_note(resumed())
        raise
    finally:
        same.close()


def _how_to_go_on(store: CheckpointStore, folder: Path, conf: Config) -> str:
    """Empty: without a checkpoint there is nothing to go on from."""
    steps = store.steps()
    if steps and not missing(Stand.of(folder, conf, steps[-1])):
        return "the run had done all of its stages"
    again = command_line("train", f"resume={folder}")
    return f"the last checkpoint is of step {steps[-1]}; to go on from it: {again}" if steps else ""


def _do(
    left: list[Stage],
    conf: Config,
    problems: Problems,
    same: SameFolder,
    store: CheckpointStore,
    saved: Saved | None,
    resume: bool,
    config: dict[str, Any] | None,
) -> None:
    """The stages that are left, in their order."""
    evaluated = [len(problems.validation) * conf.validation.samples]
    evaluated += [len(problems.evaluation) * conf.evaluate.samples]
    with Cluster(sized(conf, config, max(evaluated))) as cluster:
        cluster.refuse_too_small(conf.rollout, conf.learner, conf.reward)
        same.check()
        if resume:  # only now: settings that were refused must not stay
            run_folders.record(same.path, conf, problems.data_hash)
        run_folders.mark(same.path, [stage.name for stage in left], 0)
        with Work(conf, problems, same, store, saved, cluster) as work:
            for stage in left:
                stage.do(work)
                same.check()
                run_folders.mark(same.path, [stage.name], conf.run.steps)
