"""The algorithm: one step of training on one screen. Telemetry, retries and placement live in the parts it calls.

In: the parts. Out: the number of finished steps; everything else is in the run folder. Must not know: Ray, vLLM,
DeepSpeed.

Who waits for whom: this loop waits for the oldest batch and its verdicts, then for the learner, then for the previous
step's weight sync (this step's, if it is synchronous). Meanwhile the samplers work on the batches in the queue and
load new weights between two engine steps; reward actors grade what is sampled.
"""

from __future__ import annotations

from conf.schema import Config
from learner.learner import Learner
from orchestrator.base.interrupt import defer_signals
from orchestrator.training.batch_queue import BatchQueue
from orchestrator.training.observers import Observers
from orchestrator.training.run_checkpoints import RunCheckpoints
from rollout.weight_sync.sync import WeightSync


def train(
    conf: Config,
    batches: BatchQueue,
    learner: Learner,
    weight_sync: WeightSync,
    checkpoints: RunCheckpoints,
    observers: Observers,
    step: int,
) -> int:
    """Train from `step` finished steps to `conf.run.steps`; the weights' version is the number of finished steps.

    pi_theta is the learner's policy, mu the samplers'. `checkpoints.mark_complete`: what an interruption would save;
    observers change it too (the best model, the last validated step).
    """
    checkpoints.mark_complete(step)
    weight_sync.start(step)
    weight_sync.wait()
    observers.begin(step)
    checkpoints.mark_complete(step)
    while step < conf.run.steps:
        batch = batches.next(step)  # y_1..y_G ~ mu(.|x), r_i = R(x, y_i)
        checkpoints.collect()  # written meanwhile
        with defer_signals():  # Ctrl-C is deferred until the step is complete
            # advantages (learner/advantage.py), loss (learner/loss/surrogate.py), optimizer steps
            report = learner.update(batch.learnt, conf.algorithm, conf.rollout.max_response_tokens)
            step += 1
            weight_sync.start(step)  # mu <- pi_theta
            learner.keep_state()  # for ranks that take the place of lost ones
            observers.step(step, batch, report)
            learner.stop_if_diverged(report)
            checkpoints.mark_complete(step)
        observers.after_step(step)
        checkpoints.mark_complete(step)
        checkpoints.save_if_due(step)
    weight_sync.wait()
    return step
