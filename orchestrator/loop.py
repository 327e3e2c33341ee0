"""The algorithm: one step of training on one screen. Telemetry, retries and placement live in the parts it calls.

In: the parts. Out: the number of finished steps; everything else is in the run folder. Must not know: Ray, vLLM,
DeepSpeed.

Who waits for whom: this loop waits for the oldest batch of trajectories, then for its verdicts, then for the learner. A
batch is consumed whole and in order, never "whoever finishes first", which would bias training towards short answers.
Calls to one rollout worker are served in order, so a batch asked for after a push is sampled with the pushed weights,
and the staleness of a batch is at most `max_staleness`.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass
from typing import Any

from conf.schema import Config
from learner.learner import Learner
from learner.objective import optimizer_steps
from learner.pack import pack
from orchestrator.agreement import Agreement
from orchestrator.checkpoint import Store
from orchestrator.handles import wait_all
from orchestrator.metrics import Timings, summarize
from orchestrator.tracker import Tracker
from orchestrator.validate import Validator
from reward.panel import Panel
from rollout.sampler import PendingBatch, Sampler
from rollout.stream import PromptStream


@dataclass(frozen=True, slots=True)
class InFlight:
    """A batch asked for and not yet learnt from, with the prompt cursor before it was taken."""

    pending: PendingBatch
    cursor: dict[str, Any]


def train(
    conf: Config,
    prompts: PromptStream,
    sampler: Sampler,
    panel: Panel,
    learner: Learner,
    store: Store,
    tracker: Tracker,
    validator: Validator,
    agreement: Agreement,
    step: int,
) -> int:
    """Train from `step` finished steps to `conf.run.steps`; version = number of finished steps."""
    run, rollout = conf.run, conf.rollout
    pushes = sampler.load(learner.publish(step))
    wait_all(pushes)
    agreement.check(step)
    validator.validate(step)
    in_flight: deque[InFlight] = deque()
    while step < run.steps:
        begin, timings = time.monotonic(), Timings()
        while len(in_flight) <= min(run.max_staleness, run.steps - step - 1):
            cursor, asked_for = prompts.state(), step + len(in_flight)
            batch = sampler.sample(prompts.take(rollout.prompts_per_step), rollout.group_size, asked_for)
            in_flight.append(InFlight(batch, cursor))

        batch = in_flight.popleft().pending
        with timings.of("rollout"):
            trajectories = batch.wait()  # y_1..y_G ~ mu(.|x)
        with timings.of("reward"):
            groups = panel.score(trajectories)  # r_i = R(x, y_i)
        with timings.of("learner"):
            # A_i = r_i - mean r, and w_t
            steps = optimizer_steps(groups, conf.algorithm, rollout.max_response_tokens)
            batches = [
                pack(sequences, totals, conf.learner.max_tokens, learner.shares, learner.cost)
                for sequences, totals in steps
            ]
            report = learner.update(batches, conf.algorithm)  # theta <- theta - lr * grad L(theta)
        step += 1
        with timings.of("push"):
            wait_all(pushes)  # of the step before, in case it failed
            pushes = sampler.load(learner.publish(step))  # mu <- pi_theta
            if run.max_staleness == 0:
                wait_all(pushes)

        timings.finish(time.monotonic() - begin, batch)
        tracker.log(step, summarize(groups, report, timings, version=step - 1))
        tracker.show(step, groups)
        tracker.bad_steps(step, report, conf.learner.max_bad_steps)
        if run.check_every and step % run.check_every == 0:
            agreement.check(step)
        validator.validate(step)
        if step == run.steps or (run.save_every and step % run.save_every == 0):
            cursor = in_flight[0].cursor if in_flight else prompts.state()
            store.save(step, learner, {"prompts": cursor, "best": validator.best})
    wait_all(pushes)
    return step
