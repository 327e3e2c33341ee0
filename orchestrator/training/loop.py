"""The algorithm: one step of training on one screen. Telemetry, retries and placement live in the parts it calls.

In: the parts. Out: the number of finished steps; everything else is in the run folder. Must not know: Ray, vLLM,
DeepSpeed.

Who waits for whom: this loop waits for the oldest batch of trajectories, then for its verdicts, then for the learner.
Meanwhile the samplers work on the batches that were asked for ahead (`orchestrator.training.batch_queue`: at most
`run.max_staleness`), and take new weights between two of their steps; reward actors grade what is sampled.
"""

from __future__ import annotations

import time
from typing import Any

from conf.schema import Config
from learner.data.pack import pack
from learner.learner import Learner
from learner.objective import optimizer_steps
from orchestrator.base.interrupt import held
from orchestrator.cluster.handles import wait_all
from orchestrator.replay.recorder import Recorder
from orchestrator.tracking.metrics import Timings, summarize
from orchestrator.tracking.timeline import Timeline
from orchestrator.tracking.tracker import Tracker
from orchestrator.training.batch_queue import BatchQueue
from orchestrator.training.checkpoint import Store
from orchestrator.training.dynamic_sampling import DynamicSampling
from orchestrator.training.evaluation import Validator
from orchestrator.training.logprob_check import LogprobCheck
from orchestrator.training.unjudged import Unjudged
from reward.grader import Grader
from rollout.data.stream import PromptStream
from rollout.sampler import Sampler


def train(
    conf: Config,
    prompts: PromptStream,
    sampler: Sampler,
    grader: Grader,
    learner: Learner,
    store: Store,
    tracker: Tracker,
    unjudged: Unjudged,
    validator: Validator,
    logprob_check: LogprobCheck,
    recorder: Recorder,
    timeline: Timeline,
    step: int,
    asked: list[dict[str, Any]],
) -> int:
    """Train from `step` finished steps to `conf.run.steps`; version = number of finished steps.

    asked: where the batches began that were in flight when the checkpoint was saved.
    """
    run, rollout = conf.run, conf.rollout
    batch_queue, dynamic_sampling = (
        BatchQueue(conf, prompts, sampler, grader, asked),
        DynamicSampling(rollout, prompts, sampler, grader),
    )

    def state() -> dict[str, Any]:
        return {**batch_queue.state(), "best": validator.best, "validated": validator.done}

    store.note(step, state())
    pushes = sampler.load(learner.publish(step), step)
    wait_all(pushes)
    logprob_check.check(step)
    validator.validate(step)
    store.note(step, state())
    while step < run.steps:
        begin, timings = time.monotonic(), Timings(timeline.driver)
        batch_queue.ask(step)
        verdicts = batch_queue.next()
        with timings.of("rollout"):
            trajectories = verdicts.batch.wait()  # y_1..y_G ~ mu(.|x)
        timings.sampled(verdicts.batch)
        with timings.of("reward"):
            groups = grader.score(verdicts)  # r_i = R(x, y_i)
        timings.graded(verdicts)
        filled = dynamic_sampling.fill(groups, step, timings)
        staleness = batch_queue.measure([t for group in filled.learnt for t in group.trajectories], step)
        with timings.of("learner"):
            # A_i = r_i - mean r, and w_t
            steps = optimizer_steps(filled.learnt, conf.algorithm, rollout.max_response_tokens)
            batches = [
                pack(sequences, totals, conf.learner.max_tokens, learner.shares, learner.cost)
                for sequences, totals in steps
            ]
        with held():  # an interruption waits until the step is whole
            with timings.of("learner"):
                report = learner.update(batches, conf.algorithm)  # theta <- theta - lr * grad L(theta)
            step += 1
            with timings.of("push"):
                wait_all(pushes)  # of the step before
                pushes = sampler.load(learner.publish(step), step)  # mu <- pi_theta
                if run.max_staleness == 0:
                    wait_all(pushes)

            timings.step = time.monotonic() - begin
            figures = summarize(filled, report, timings, staleness) | timeline.step(step, timings.step)
            tracker.log(step, figures)
            recorder.record(step, trajectories, filled, report, figures)
            tracker.show(step, filled.judged)
            tracker.bad_steps(step, report, conf.learner.max_bad_steps)
            unjudged.check(step, filled.judged)
            store.note(step, state())
        if run.logprob_check_every and step % run.logprob_check_every == 0:
            logprob_check.check(step)
        validator.validate(step)
        store.note(step, state())
        if step == run.steps or (run.save_every and step % run.save_every == 0):
            store.save(step, learner, state())
    wait_all(pushes)
    return step
