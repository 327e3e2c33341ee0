"""thinkless train: builds the parts from the configuration and runs the loop.

In: configuration. Out: a run folder (metrics, samples, checkpoints, best and final model, evaluation, report).
Must not know: what a step does (orchestrator.training.loop).
"""

from __future__ import annotations

import contextlib
import functools
import gc
import shutil
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from conf.schema import Config, ModelConf
from conf.shell import command_line
from learner.learner import Learner
from learner.model.prepare_model import prepared_model
from orchestrator.base.errors import RunError
from orchestrator.base.interrupt import EndedAtOnce, Interrupted, reason, saving
from orchestrator.base.leaving import noting
from orchestrator.base.lock import Taken, locked
from orchestrator.base.waiting import enable, waiting
from orchestrator.cluster.cluster import Cluster
from orchestrator.cluster.object_store import sized
from orchestrator.cluster.parts import start_all
from orchestrator.commands.problems import Problems
from orchestrator.commands.ready import ready
from orchestrator.commands.warmup import FACTS as WARM_UP_FACTS
from orchestrator.commands.warmup import LOGS as WARM_UP_LOGS
from orchestrator.commands.warmup import warm_up
from orchestrator.replay.recorder import Recorder
from orchestrator.report import write_report
from orchestrator.tracking.results import read_config
from orchestrator.tracking.summary import doubts, has_goals
from orchestrator.tracking.timeline import Timeline
from orchestrator.tracking.tracker import Tracker
from orchestrator.tracking.workers import Workers
from orchestrator.training import run_dir as run_folders
from orchestrator.training.batch_queue import BatchQueue
from orchestrator.training.checkpoint import CheckpointStore
from orchestrator.training.evaluation import Evaluator, Validator
from orchestrator.training.logprob_check import LogprobCheck
from orchestrator.training.loop import train
from orchestrator.training.observers import Observers
from orchestrator.training.resume import ended, refuse_changed
from orchestrator.training.retention import Retention
from orchestrator.training.run_checkpoints import RunCheckpoints
from orchestrator.training.unjudged import FILE as UNJUDGED
from orchestrator.training.unjudged import UnjudgedLimit, UnjudgedLog
from rollout.base.errors import BadInput
from rollout.base.spans import Spans
from rollout.data.stream import PromptStream, as_prompts
from rollout.data.tokens import control_tokens, decode_response, generation_prompt, load_tokenizer, save_tokenizer
from rollout.mode import modes_of
from rollout.sampler import Sampler


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
    store = CheckpointStore(folder, Retention.of(conf.run))
    if resume and (steps := store.steps()) and steps[-1] >= conf.run.steps and ended(conf, folder):
        more = f"run.steps={conf.run.steps + max(1, conf.run.steps // 2)}"
        again = command_line("train", f"resume={folder}", more)
        raise RunError(f"{folder} has finished its {conf.run.steps} steps; to add some: {again}")
    with waiting("verifying the checkpoint"):
        saved = store.latest() if resume else None
    if saved:
        refuse_changed(folder, conf, saved[1], problems.training)
    if not resume:
        run_folders.record(folder, conf, problems.data_hash)
    resumed = functools.partial(_how_to_go_on, store, folder)
    print(f"run folder: {folder}" + (f", going on from step {saved[1]['step']}" if saved else ""), flush=True)
    try:
        evaluated = [len(problems.validation) * conf.validation.samples]
        evaluated += [len(problems.evaluation) * conf.evaluate.samples]
        with noting(resumed), Cluster(sized(conf, config, max(evaluated))) as cluster:
            cluster.refuse_too_small(conf.rollout, conf.learner, conf.reward)
            if resume:  # only now: settings that were refused must not stay
                run_folders.record(folder, conf, problems.data_hash)
            _run(conf, problems, folder, store, saved, cluster)
    except BaseException as error:
        if not resume and not run_folders.learning(folder):  # nothing was learnt: leave no empty run behind
            shutil.rmtree(folder, ignore_errors=True)
            if isinstance(error, KeyboardInterrupt):
                error.add_note(f"no training step had finished, and {folder} is removed; the same command begins again")
        elif (reason() or not isinstance(error, Interrupted)) and "resume=" not in str(error):  # else it was told
            error.add_note(resumed())
        raise


def _how_to_go_on(store: CheckpointStore, folder: Path) -> str:
    """Empty: without a checkpoint there is nothing to go on from."""
    again = command_line("train", f"resume={folder}")
    return f"the last checkpoint is of step {steps[-1]}; to go on from it: {again}" if (steps := store.steps()) else ""


def fewer_collections() -> None:
    """A step's trajectories are many objects without cycles; looking through all of them again and again costs a third
    of the driver's time at 262,144 a step (benchmarks/_pipeline/control.py)."""
    gc.freeze()
    gc.set_threshold(100_000, 50, 50)


def _run(
    conf: Config,
    problems: Problems,
    folder: Path,
    store: CheckpointStore,
    saved: tuple[Path, dict[str, Any]] | None,
    cluster: Cluster,
) -> None:
    fewer_collections()
    path = _model(conf, folder, cluster)
    tokenizer = load_tokenizer(path, conf.model)
    control = control_tokens(tokenizer, conf.model, path)
    encode = functools.partial(generation_prompt, tokenizer, conf=conf.model)
    stream = PromptStream(problems.training, encode, conf.data, conf.run.seed)
    limit = conf.data.max_prompt_tokens
    validation, _ = as_prompts(problems.validation, encode, limit)
    evaluation, too_long = as_prompts(problems.evaluation, encode, limit)
    run_folders.add(folder, {"model": path, "evaluation_too_long": too_long})

    driver = Spans()
    parts = start_all(
        cluster,
        conf,
        path,
        control,
        conf.rollout.temperature,
        updates=conf.run.steps * conf.algorithm.optimizer_steps,
        longest=conf.data.max_prompt_tokens + conf.rollout.max_response_tokens,
        spans=driver,
    )
    learner, sampler, grader = parts.learner, parts.sampler, parts.grader
    step, state = _begin(folder, saved, learner, stream)
    actors = {"rollout": sampler.workers, "reward": grader.actors, "learner": learner.ranks}
    timeline = Timeline(folder / "timeline.json", actors, driver)
    decode = functools.partial(decode_response, tokenizer, ends=control.ends)
    samples, recorded = conf.run.samples_per_step, read_config(folder)
    modes = modes_of(conf.model.modes)
    workers = Workers(sampler.workers, graders=grader.actors)
    workers.ask()  # read after the first step: a worker that is killed then has been seen
    others = (timeline.failures, workers.failures)
    tracker = Tracker(folder, conf.tracker, conf.run.steps, step, decode, samples, recorded, others, modes)
    with _reported(tracker, timeline, conf, folder):
        for note in problems.notes:
            tracker.note(note)
        unjudged = UnjudgedLog(conf.reward, tracker.note, tracker.files, step)
        evaluator = Evaluator(conf, folder, sampler, grader, evaluation, tracker, unjudged)
        if not saved:
            for doubt in doubts(evaluator.run("warmup"), has_goals(asdict(conf))):
                tracker.note(doubt)
        export = functools.partial(export_model, learner, tokenizer, conf.model)
        validator = Validator(conf, validation, sampler, grader, tracker, unjudged, export, folder, state)
        observers = [
            tracker,
            unjudged,
            Recorder(folder, conf, learner, export, control, path),
            UnjudgedLimit(conf.reward, conf.run.steps - step, folder / UNJUDGED),
            LogprobCheck(sampler, learner, validation or evaluation, conf),
            validator,
        ]
        batches = BatchQueue(conf, stream, sampler, grader, state.get("asked", []), driver)
        run_checkpoints = RunCheckpoints(store, conf.run, learner, [batches, validator])
        with saving("the step that is being learnt ends, then a checkpoint and the report are written"):
            try:
                watched = Observers(timeline, observers, workers, modes)
                train(conf, batches, learner, parts.weight_sync, run_checkpoints, watched, step)
            except Interrupted:
                _save_whole_steps(store, learner, sampler, tracker)
                raise
        with waiting("exporting the model"):
            export(folder / "model")
        evaluator.run("final")
        if stream.counts["too_long"]:
            tracker.note(f"{stream.counts['too_long']} prompts were dropped as longer than {limit} tokens")


def _begin(
    folder: Path, saved: tuple[Path, dict[str, Any]] | None, learner: Learner, stream: PromptStream
) -> tuple[int, dict[str, Any]]:
    """Finished steps and state: those of the checkpoint, which learner and stream go on from; or 0 and none."""
    if saved is None:  # a run that was stopped before its first checkpoint begins anew
        for name in ("metrics.jsonl", "samples.jsonl", "samples.txt", "bad_steps.jsonl", "timeline.json", UNJUDGED):
            (folder / name).unlink(missing_ok=True)
        return 0, {}
    checkpoint, state = saved
    with waiting(f"loading the checkpoint of step {state['step']}"):
        try:
            learner.load(str(checkpoint))
        except BadInput as error:  # its manifest, if it has one, fits
            again = command_line("train", f"resume={folder}")
            raise RunError(f"{error}; to go on from the checkpoint before, remove {checkpoint}: {again}") from error
    stream.restore(state["prompts"])
    return state["step"], state


@contextlib.contextmanager
def _reported(tracker: Tracker, timeline: Timeline, conf: Config, folder: Path) -> Iterator[None]:
    """Whatever ends the body, the run is closed and its report written; after a second signal it is only closed."""
    try:
        yield
    except EndedAtOnce as error:
        tracker.close(error)
        raise
    except BaseException as error:
        with contextlib.suppress(Exception):  # re-raise the original error, not one from writing the report
            _close(tracker, timeline, conf, folder, error)
        raise
    _close(tracker, timeline, conf, folder)


def _save_whole_steps(store: CheckpointStore, learner: Learner, sampler: Sampler, tracker: Tracker) -> None:
    """After an interruption: a checkpoint of the steps that are whole. What was being sampled is given up; a resumed
    run asks for it again."""
    sampler.abort_all()
    with waiting("saving the checkpoint"):
        store.save_noted(learner)
    if steps := store.steps():
        again = command_line("train", f"resume={store.folder.parent}")
        tracker.note(f"the checkpoint of step {steps[-1]} is saved; to go on from it: {again}")


def _close(
    tracker: Tracker, timeline: Timeline, conf: Config, folder: Path, error: BaseException | None = None
) -> None:
    """error: what ended the run."""
    if worked := timeline.close():
        tracker.note(worked)
    tracker.close(error)
    run_folders.ended(folder)
    if conf.tracker.report and (folder / "metrics.jsonl").stat().st_size:
        with waiting("writing the report"):
            written = write_report(folder)
        print(f"report: {written}", flush=True)


def _model(conf: Config, folder: Path, cluster: Cluster) -> str:
    """The folder (or hub id) that sampler and learner load: given, warmed up, or with control tokens added."""
    if conf.warmup is not None:
        warmed = warm_up(conf, cluster)
        for name in (*WARM_UP_LOGS, WARM_UP_FACTS):
            if (warmed / name).is_file():
                shutil.copyfile(warmed / name, folder / name)
        return str(warmed)
    if (folder / "base" / "config.json").is_file():  # a resumed run
        return str(folder / "base")
    with waiting("loading the tokenizer and preparing the model"):
        return prepared_model(conf.model, folder / "base")


def export_model(learner: Learner, tokenizer: Any, conf: ModelConf, target: Path) -> None:
    """A Hugging Face folder (weights, config, tokenizer) that transformers and `vllm serve` load."""
    target.mkdir(parents=True, exist_ok=True)
    learner.export(str(target))
    save_tokenizer(tokenizer, target, conf)
