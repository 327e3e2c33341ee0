"""thinkless train: builds the parts from the configuration and runs the loop.

In: configuration. Out: a run folder (metrics, samples, checkpoints, best and final model, evaluation, report).
Must not know: what a step does (orchestrator.training.loop).
"""

from __future__ import annotations

import contextlib
import functools
import gc
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from conf.schema import Config, ModelConf, Placement
from conf.shell import command_line
from learner.data.flops import read_shape
from learner.learner import Learner
from learner.model.prepare_model import prepared_model
from learner.worker import LearnerWorker
from orchestrator.base.errors import RunError
from orchestrator.base.interrupt import EndedAtOnce, Interrupted, saving
from orchestrator.base.lock import Taken, locked
from orchestrator.base.waiting import enable, waiting
from orchestrator.cluster.cluster import Cluster, listening_on, started
from orchestrator.cluster.colocation import Colocation
from orchestrator.cluster.handles import RayHandle, wait_all
from orchestrator.cluster.latest_weights import LatestWeights
from orchestrator.commands.preflight import located, refuse_unreadable
from orchestrator.commands.problems import Problems, load_all_problems, refuse_foreign_warmup
from orchestrator.commands.warmup import warm_up
from orchestrator.replay.recorder import Recorder
from orchestrator.report import write_report
from orchestrator.tracking.summary import doubts, has_goals
from orchestrator.tracking.timeline import Timeline
from orchestrator.tracking.tracker import Tracker
from orchestrator.training import run_dir as run_folders
from orchestrator.training.checkpoint import Store
from orchestrator.training.evaluation import Evaluator, Validator
from orchestrator.training.logprob_check import LogprobCheck
from orchestrator.training.loop import train
from orchestrator.training.resume import ended, refuse_changed
from orchestrator.training.unjudged import FILE as UNJUDGED
from orchestrator.training.unjudged import Unjudged
from reward.grader import Grader
from reward.worker import RewardWorker
from rollout.base.errors import BadInput
from rollout.base.gpu_sharing import GpuSharing
from rollout.data.stream import PromptStream, as_prompts
from rollout.data.tokens import control_tokens, decode_response, generation_prompt, load_tokenizer, save_tokenizer
from rollout.engine import Engine
from rollout.request import SamplingParams
from rollout.sampler import Sampler
from rollout.weight_sync.weights import route
from rollout.worker import RolloutWorker


def command(conf: Config, prefix: str = "train", resume: Path | None = None) -> Path:
    """Run (or go on with `resume`, a run folder). Returns the run folder."""
    enable(conf.tracker.console)
    with waiting("reading the problems"):
        problems = load_all_problems(conf)
    if resume is None:
        refuse_foreign_warmup(conf)
    with waiting("checking the model"):
        refuse_unreadable(conf, "train", resume)
    conf = located(conf)
    folder = resume or run_folders.create(conf, prefix)
    try:
        with locked(run_folders.lock(folder)):
            _command(conf, problems, folder, resume is not None)
    except Taken:
        raise BadInput(f"the run {folder} {run_folders.state(folder)}: wait for its end, or end it first") from None
    return folder


def _command(conf: Config, problems: Problems, folder: Path, resume: bool) -> None:
    store = Store(folder, conf.run.keep_checkpoints)
    saved = store.latest() if resume else None
    if saved:
        if saved[1]["step"] >= conf.run.steps and ended(conf, folder):
            more = f"run.steps={conf.run.steps + max(1, conf.run.steps // 2)}"
            again = command_line("train", f"resume={folder}", more)
            raise RunError(f"{folder} has finished its {conf.run.steps} steps; to add some: {again}")
        refuse_changed(folder, conf, saved[1], problems.training)
    if not resume:
        run_folders.record(folder, conf, problems.data_hash)
    print(f"run folder: {folder}" + (f", going on from step {saved[1]['step']}" if saved else ""), flush=True)
    try:
        with Cluster(conf.cluster) as cluster:
            cluster.refuse_too_small(conf.rollout, conf.learner, conf.reward)
            if resume:  # only now: settings that were refused must not stay
                run_folders.record(folder, conf, problems.data_hash)
            _run(conf, problems, folder, store, saved, cluster)
    except BaseException as error:
        if not resume and not run_folders.learning(folder):  # nothing was learnt: leave no empty run behind
            shutil.rmtree(folder, ignore_errors=True)
        elif store.steps() and not isinstance(error, Interrupted) and "resume=" not in str(error):  # else it was told
            again = command_line("train", f"resume={folder}")
            error.add_note(f"the last checkpoint is of step {store.steps()[-1]}; to go on from it: {again}")
        raise


def fewer_collections() -> None:
    """A step's trajectories are many objects without cycles; looking through all of them again and again costs a third
    of the driver's time at 262,144 a step (benchmarks/_control.py)."""
    gc.freeze()
    gc.set_threshold(100_000, 50, 50)


def _run(
    conf: Config,
    problems: Problems,
    folder: Path,
    store: Store,
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

    rollout, learner_conf = conf.rollout, conf.learner
    updates = conf.run.steps * conf.algorithm.optimizer_steps
    cluster.reserve(rollout, learner_conf, conf.reward)
    longest = conf.data.max_prompt_tokens + rollout.max_response_tokens
    ranks = cluster.learner_ranks(
        learner_conf,
        LearnerWorker,
        [[learner_conf, conf.model, path, r, rollout.temperature, updates, longest] for r in range(learner_conf.ranks)],
    )
    shared = conf.cluster.placement is Placement.colocated
    engine = functools.partial(Engine, sleeps=shared)
    latest_weights = LatestWeights(conf.cluster.weight_sync_timeout_s) if rollout.max_restarts else None
    current, post = (latest_weights.current, latest_weights.post) if latest_weights else (None, None)
    workers = cluster.rollout_workers(
        rollout, RolloutWorker, [rollout, conf.model, path, control, conf.run.seed, current, engine]
    )
    actors = cluster.reward_actors(conf.reward, RewardWorker, [conf.reward, path, control, conf.model])
    gpu_sharing = Colocation(workers, ranks, conf.cluster.colocation_timeout_s) if shared else GpuSharing()
    shape = read_shape(path, conf.model.revision)
    learner = Learner(ranks, learner_conf, shape, wait_all, route(conf), post, gpu_sharing)
    grader = Grader(actors, conf.reward)
    sampler = Sampler(workers, SamplingParams.training(rollout), gpu_sharing)
    _start(conf, workers, ranks, actors, learner, gpu_sharing)

    step, best, asked = 0, None, []
    if saved:
        checkpoint, state = saved
        with waiting(f"loading the checkpoint of step {state['step']}"):
            learner.load(str(checkpoint))
        stream.restore(state["prompts"])
        step, best, asked = (
            state["step"],
            state["best"],
            state.get("asked", []),
        )  # older checkpoints: none beside "prompts"
    else:  # a run that was stopped before its first checkpoint begins anew
        for name in ("metrics.jsonl", "samples.jsonl", "samples.txt", "bad_steps.jsonl", "timeline.json", UNJUDGED):
            (folder / name).unlink(missing_ok=True)
    timeline = Timeline(folder / "timeline.json", {"rollout": workers, "reward": actors, "learner": ranks})

    tracker = Tracker(
        folder,
        conf.tracker,
        conf.run.steps,
        step,
        lambda token_ids: decode_response(tokenizer, token_ids, control.ends),
        conf.run.samples_per_step,
    )
    try:
        for note in problems.notes:
            tracker.note(note)
        unjudged = Unjudged(conf.reward, tracker.note, folder / UNJUDGED, step, conf.run.steps)
        evaluator = Evaluator(conf, folder, sampler, grader, evaluation, tracker, unjudged)
        if not saved:
            for doubt in doubts(evaluator.run("warmup"), has_goals(asdict(conf))):
                tracker.note(doubt)
        export = functools.partial(export_model, learner, tokenizer, conf.model)
        conf_eval = conf.evaluate
        samples = SamplingParams(
            conf_eval.temperature, conf_eval.top_p, conf_eval.max_response_tokens or rollout.max_response_tokens
        )
        validator = Validator(
            conf_eval,
            validation,
            conf.validation.samples,
            samples,
            sampler,
            grader,
            tracker,
            unjudged,
            export,
            folder,
            best,
            saved[1].get("validated", step) if saved else -1,  # older checkpoints were saved after it
        )
        logprob_check = LogprobCheck(
            sampler, learner, validation or evaluation, conf.run, learner_conf.max_tokens, conf.model.dtype
        )
        recorder = Recorder(folder, conf, learner, export, control, path)
        recorder.begin(step)
        parts = (
            stream,
            sampler,
            grader,
            learner,
            store,
            tracker,
            unjudged,
            validator,
            logprob_check,
            recorder,
            timeline,
        )
        with saving("the step that is being learnt ends, then a checkpoint and the report are written"):
            try:
                train(conf, *parts, step, asked)
            except Interrupted:
                _save_whole_steps(store, learner, sampler, tracker)
                raise
        with waiting("exporting the model"):
            export(folder / "model")
        evaluator.run("final")
        if stream.counts["too_long"]:
            tracker.note(f"{stream.counts['too_long']} prompts were dropped as longer than {limit} tokens")
    except EndedAtOnce:
        tracker.close()
        raise
    except BaseException:
        with contextlib.suppress(Exception):  # what ended the run is told, not that its report failed as well
            _close(tracker, timeline, conf, folder)
        raise
    _close(tracker, timeline, conf, folder)


def _save_whole_steps(store: Store, learner: Learner, sampler: Sampler, tracker: Tracker) -> None:
    """After an interruption: a checkpoint of the steps that are whole. What was being sampled is given up; a resumed
    run asks for it again."""
    sampler.abort_all()
    with waiting("saving the checkpoint"):
        store.save_noted(learner)
    if steps := store.steps():
        again = command_line("train", f"resume={store.folder.parent}")
        tracker.note(f"the checkpoint of step {steps[-1]} is saved; to go on from it: {again}")


def _close(tracker: Tracker, timeline: Timeline, conf: Config, folder: Path) -> None:
    if worked := timeline.close():
        tracker.note(worked)
    tracker.close()
    run_folders.ended(folder)
    if conf.tracker.report and (folder / "metrics.jsonl").stat().st_size:
        with waiting("writing the report"):
            written = write_report(folder)
        print(f"report: {written}", flush=True)


def _model(conf: Config, folder: Path, cluster: Cluster) -> str:
    """The folder (or hub id) that sampler and learner load: given, warmed up, or with control tokens added."""
    if conf.warmup is not None:
        warmed = warm_up(conf, cluster)
        shutil.copyfile(warmed / "warmup.jsonl", folder / "warmup.jsonl")
        return str(warmed)
    if (folder / "base" / "config.json").is_file():  # a resumed run
        return str(folder / "base")
    with waiting("loading the tokenizer and preparing the model"):
        return prepared_model(conf.model, folder / "base")


def _start(
    conf: Config,
    workers: list[RayHandle],
    ranks: list[RayHandle],
    actors: list[RayHandle],
    learner: Learner,
    gpu_sharing: GpuSharing,
) -> None:
    """Wait until everything is up: engines load while the learner forms its group, unless they share GPUs."""
    engines = [w.call("ready", timeout_s=conf.rollout.start_timeout_s) for w in workers]
    if isinstance(gpu_sharing, Colocation):
        with waiting("loading the vLLM engines"):
            wait_all(engines)
        gpu_sharing.begin()
    with waiting("starting the learner ranks"):
        started(ranks, "ready", conf.learner.start_timeout_s)
    with waiting("loading the learner's model"), listening_on(conf.cluster.port):
        learner.start(conf.cluster.port, reference=conf.algorithm.kl > 0)
    with waiting("starting the reward actors"):
        started(actors, "ready", conf.cluster.start_timeout_s)
    with waiting("loading the vLLM engines"):
        wait_all(engines)


def export_model(learner: Learner, tokenizer: Any, conf: ModelConf, target: Path) -> None:
    """A Hugging Face folder (weights, config, tokenizer) that transformers and `vllm serve` load."""
    target.mkdir(parents=True, exist_ok=True)
    learner.export(str(target))
    save_tokenizer(tokenizer, target, conf)
