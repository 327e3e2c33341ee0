"""What the stages of a run (`orchestrator.training.stages`) do, and the parts that they do it with.

In: a configuration, problems, a cluster, a run folder. Out: metrics, samples, checkpoints, best and final model,
evaluation, report. Must not know: what a step does (`orchestrator.training.loop`), which stages are missing.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from conf.schema import Config, ModelConf
from conf.shell import command_line
from learner.learner import Learner
from learner.model.prepare_model import prepared_model
from orchestrator.base.errors import RunError
from orchestrator.base.files import copy_whole, replace_folder, whole_folder
from orchestrator.base.interrupt import EndedAtOnce, Interrupted, saving
from orchestrator.base.same_folder import SameFolder
from orchestrator.base.waiting import waiting
from orchestrator.cluster.cluster import Cluster
from orchestrator.cluster.parts import Parts, start_all
from orchestrator.commands.problems import Problems
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
from orchestrator.training import run_dir
from orchestrator.training.batch_queue import BatchQueue
from orchestrator.training.checkpoint import CheckpointStore
from orchestrator.training.evaluation import SO_FAR, Evaluator, Validator, validated_of
from orchestrator.training.logprob_check import LogprobCheck
from orchestrator.training.loop import train
from orchestrator.training.observers import Observers
from orchestrator.training.run_checkpoints import RunCheckpoints
from orchestrator.training.stages import UNASKED
from orchestrator.training.unjudged import FILE as UNJUDGED
from orchestrator.training.unjudged import UnjudgedLimit, UnjudgedLog
from rollout.base.errors import BadInput
from rollout.base.spans import Spans
from rollout.data.stream import PromptStream, as_prompts
from rollout.data.tokens import control_tokens, decode_response, generation_prompt, load_tokenizer, save_tokenizer
from rollout.mode import ControlTokens, modes_of
from rollout.prompt import Prompt

Saved = tuple[Path, dict[str, Any]]  # a checkpoint's folder and state
FINISH_S = 60.0  # for a checkpoint that is being written or copied when a run fails
ANEW = ("metrics.jsonl", "samples.jsonl", "samples.txt", "bad_steps.jsonl", "timeline.json", UNJUDGED)


@dataclass(frozen=True, slots=True, eq=False)
class Started:
    """All parts, when the learner stands at its checkpoint's step."""

    parts: Parts
    driver: Spans
    model: str
    control: ControlTokens
    stream: PromptStream
    validation: list[Prompt]
    evaluation: list[Prompt]
    timeline: Timeline
    workers: Workers
    tracker: Tracker
    unjudged: UnjudgedLog
    evaluator: Evaluator
    export: Callable[[Path], None]
    step: int
    state: dict[str, Any]


class Work:
    """A context: whatever ends it, the run is closed and reported; after a second signal it is only closed."""

    def __init__(
        self,
        conf: Config,
        problems: Problems,
        folder: SameFolder,
        store: CheckpointStore,
        saved: Saved | None,
        cluster: Cluster,
    ):
        self.conf, self.problems, self.same, self.folder = conf, problems, folder, folder.path
        self.store, self.saved, self.cluster = store, saved, cluster
        self._model: str | None = None
        self._one: Started | None = None
        self._learnt = self._closed = False

    def __enter__(self) -> Work:
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if self._one is None or self._closed:
            return
        if isinstance(error, EndedAtOnce):
            self._one.tracker.close(error)
        elif error is not None:
            with contextlib.suppress(Exception):  # re-raise the original error, not one from writing the report
                self._close(error)
        else:
            self._close()

    # ---- the stages

    def warm_up(self) -> None:
        self._model = _model(self.conf, self.same, self.cluster)

    def learn(self) -> None:
        one, conf = self._started(), self.conf
        learner, sampler, grader = one.parts.learner, one.parts.sampler, one.parts.grader
        (self.folder / SO_FAR).unlink(missing_ok=True)  # of a model that these steps replace
        if self.saved is None:
            for doubt in doubts(one.evaluator.run("warmup"), has_goals(asdict(conf))):
                one.tracker.note(doubt)
        validator = Validator(
            conf, one.validation, sampler, grader, one.tracker, one.unjudged, one.export, self.folder, one.state
        )
        observers = [
            one.tracker,
            one.unjudged,
            Recorder(self.folder, conf, learner, one.export, one.control, one.model),
            UnjudgedLimit(conf.reward, conf.run.steps - one.step, self.folder / UNJUDGED),
            LogprobCheck(sampler, learner, one.validation or one.evaluation, conf),
            validator,
        ]
        batches = BatchQueue(conf, one.stream, sampler, grader, one.state.get("asked", []), one.driver)
        checkpoints = RunCheckpoints(self.store, conf.run, learner, [batches, validator])
        watched = Observers(one.timeline, observers, one.workers, modes_of(conf.model.modes), self.same.check)
        with saving("the step that is being learnt ends, then a checkpoint and the report are written"):
            try:
                train(conf, batches, learner, one.parts.weight_sync, checkpoints, watched, one.step)
            except Interrupted:
                self._save_whole_steps(one)
                raise
            except EndedAtOnce:
                raise
            except BaseException:
                with contextlib.suppress(Exception):  # re-raise the original error, whatever became of a checkpoint
                    self.store.finish(FINISH_S)
                raise
        self._learnt = True
        if one.stream.counts["too_long"]:
            limit = conf.data.max_prompt_tokens
            one.tracker.note(f"{one.stream.counts['too_long']} prompts were dropped as longer than {limit} tokens")

    def export(self) -> None:
        def failed(why: str) -> RunError:
            again = command_line("train", f"resume={self.folder}")
            return RunError(f"cannot export the model to {target} ({why}): free some space, then go on: {again}")

        export, target = self._started().export, self.folder / "model"
        with waiting("exporting the model"), whole_folder(target, failed) as partial:
            export(partial)

    def evaluate(self) -> None:
        one = self._started()
        if not one.evaluation:
            run_dir.mark(self.folder, [UNASKED], self.conf.run.steps)
            return
        if not self._learnt:  # in an earlier process: the samplers have the model that training began with
            one.parts.weight_sync.start(one.step)
            one.parts.weight_sync.wait()
        one.evaluator.run("final")

    def report(self) -> None:
        self._close()

    # ---- what they do it with

    def _started(self) -> Started:
        if self._one is None:
            self._one = self._start()
            for note in self.problems.notes:
                self._one.tracker.note(note)
        return self._one

    def _start(self) -> Started:
        conf, folder, problems = self.conf, self.folder, self.problems
        fewer_collections()
        if self._model is None:  # it was warmed up in an earlier process
            self.warm_up()
        path = self._model
        assert path is not None
        tokenizer = load_tokenizer(path, conf.model)
        control = control_tokens(tokenizer, conf.model, path)
        encode = functools.partial(generation_prompt, tokenizer, conf=conf.model)
        stream = PromptStream(problems.training, encode, conf.data, conf.run.seed)
        validation, _ = as_prompts(problems.validation, encode, conf.data.max_prompt_tokens)
        evaluation, too_long = as_prompts(problems.evaluation, encode, conf.data.max_prompt_tokens)
        self.same.check()
        run_dir.add(folder, {"model": path, "evaluation_too_long": too_long})

        driver = Spans()
        parts = start_all(
            self.cluster,
            conf,
            path,
            control,
            conf.rollout.temperature,
            updates=conf.run.steps * conf.algorithm.optimizer_steps,
            longest=conf.data.max_prompt_tokens + conf.rollout.max_response_tokens,
            spans=driver,
        )
        learner, sampler, grader = parts.learner, parts.sampler, parts.grader
        self.same.check()
        step, state = self._begin(learner, stream)
        actors = {"rollout": sampler.workers, "reward": grader.actors, "learner": learner.ranks}
        timeline = Timeline(folder / "timeline.json", actors, driver)
        decode = functools.partial(decode_response, tokenizer, ends=control.ends)
        workers = Workers(sampler.workers, graders=grader.actors, learner_restarts=lambda: learner.restart_count)
        workers.ask()  # read after the first step: a worker that is killed then has been seen
        others, modes = (timeline.failures, workers.failures), modes_of(conf.model.modes)
        samples, recorded, check = conf.run.samples_per_step, read_config(folder), self.same.check
        validated = validated_of(state)
        tracker = Tracker(
            folder, conf.tracker, conf.run.steps, step, decode, samples, recorded, others, modes, check, validated
        )
        unjudged = UnjudgedLog(conf.reward, tracker.note, tracker.files, step, validated)
        evaluator = Evaluator(conf, folder, sampler, grader, evaluation, tracker, unjudged)
        export = functools.partial(export_model, learner, tokenizer, conf.model)
        return Started(
            parts, driver, path, control, stream, validation, evaluation, timeline, workers, tracker, unjudged,
            evaluator, export, step, state,
        )  # fmt: skip

    def _begin(self, learner: Learner, stream: PromptStream) -> tuple[int, dict[str, Any]]:
        """Finished steps and state: those of the checkpoint, which learner and stream go on from; or 0 and none."""
        if self.saved is None:  # a run that was stopped before its first checkpoint begins anew
            for name in ANEW:
                (self.folder / name).unlink(missing_ok=True)
            return 0, {}
        checkpoint, state = self.saved
        with waiting(f"loading the checkpoint of step {state['step']}"):
            try:
                learner.load(str(checkpoint))
            except BadInput as error:  # its manifest, if it has one, fits
                again = command_line("train", f"resume={self.folder}")
                raise RunError(f"{error}; to go on from the checkpoint before, remove {checkpoint}: {again}") from error
        stream.restore(state["prompts"])
        return state["step"], state

    def _save_whole_steps(self, one: Started) -> None:
        """After an interruption: a checkpoint of the steps that are whole. What was being sampled is given up; a
        resumed run asks for it again."""
        one.parts.sampler.abort_all()
        self.same.check()
        with waiting("saving the checkpoint"):
            self.store.save_noted(one.parts.learner)
            try:
                self.store.finish()
            except RunError as error:
                one.tracker.note(str(error))
        if steps := self.store.steps():
            again = command_line("train", f"resume={self.folder}")
            one.tracker.note(f"the checkpoint of step {steps[-1]} is saved; to go on from it: {again}")

    def _close(self, error: BaseException | None = None) -> None:
        """error: what ended the run."""
        assert self._one is not None
        self._closed = True
        if worked := self._one.timeline.close():
            self._one.tracker.note(worked)
        self._one.tracker.close(error)
        self.same.check()
        run_dir.ended(self.folder)
        if self.conf.tracker.report and run_dir.learning(self.folder):
            report(self.folder)


def report(folder: Path) -> None:
    """Write a run's report, and say where it is; or that there is nothing to report."""
    if not (folder / "metrics.jsonl").stat().st_size:
        print("no report: there is no line in metrics.jsonl", flush=True)
        return
    with waiting("writing the report"):
        written = write_report(folder)
    print(f"report: {written}", flush=True)


def fewer_collections() -> None:
    """A step's trajectories are many objects without cycles; looking through all of them again and again costs a third
    of the driver's time at 262,144 a step (benchmarks/_pipeline/control.py)."""
    gc.freeze()
    gc.set_threshold(100_000, 50, 50)


def _model(conf: Config, same: SameFolder, cluster: Cluster) -> str:
    """The folder (or hub id) that sampler and learner load: given, warmed up, or with control tokens added."""
    folder = same.path
    if conf.warmup is not None:
        warmed = warm_up(conf, cluster)
        same.check()
        for name in (*WARM_UP_LOGS, WARM_UP_FACTS):
            if (warmed / name).is_file():
                copy_whole(warmed / name, folder / name)
        return str(warmed)
    if (folder / "base" / "config.json").is_file():  # a resumed run
        return str(folder / "base")
    with waiting("loading the tokenizer and preparing the model"):
        partial = folder / ".base.partial"  # of a process that was killed: written again
        shutil.rmtree(partial, ignore_errors=True)
        if (path := prepared_model(conf.model, partial)) != str(partial):
            return path
        replace_folder(partial, folder / "base")
        return str(folder / "base")


def export_model(learner: Learner, tokenizer: Any, conf: ModelConf, target: Path) -> None:
    """A Hugging Face folder (weights, config, tokenizer) that transformers and `vllm serve` load."""
    target.mkdir(parents=True, exist_ok=True)
    learner.export(str(target))
    save_tokenizer(tokenizer, target, conf)
