"""The algorithm: one step of training on one screen. Telemetry, retries and placement live in the parts it calls.

In: the parts. Out: the number of finished steps; everything else is in the run folder. Must not know: Ray, vLLM,
DeepSpeed.

Who waits for whom: this loop waits for the oldest batch and its verdicts, then for the learner, then for the weights of
the step before (at `run.max_staleness` 0: of this step). Meanwhile the samplers work on the batches in the queue and
take new weights between two of their steps; reward actors grade what is sampled.
"""

from __future__ import annotations

from conf.schema import Config
from learner.learner import Learner
from orchestrator.base.interrupt import held
from orchestrator.training.batch_queue import BatchQueue
from orchestrator.training.observers import Observers
from orchestrator.training.run_store import RunStore
from rollout.weight_sync.sync import WeightSync


def train(
    conf: Config,
    batches: BatchQueue,
    learner: Learner,
    weight_sync: WeightSync,
    store: RunStore,
    observers: Observers,
    step: int,
) -> int:
    """Train from `step` finished steps to `conf.run.steps`; the version of weights is the number of finished steps."""
    store.note(step)
    weight_sync.start(step)
    weight_sync.wait()
    observers.begin(step)
    store.note(step)
    while step < conf.run.steps:
        batch = batches.next(step)  # y_1..y_G ~ mu(.|x), r_i = R(x, y_i)
        with held():  # an interruption waits until the step is whole
            report = learner.update(batch.learnt, conf.algorithm, conf.rollout.max_response_tokens)  # theta
            step += 1
            weight_sync.start(step)  # mu <- pi_theta
            observers.step(step, batch, report)
            learner.stop_if_diverged(report)
            store.note(step)
        observers.between(step)
        store.note(step)
        store.save_if_due(step)
    weight_sync.wait()
    return step
