"""Graded groups -> weighted sequences, one list per optimizer step.

In: groups and the algorithm's configuration. Out: `Sequence`s with their step's `Totals`. Must not know: packing,
models.
"""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Protocol

import numpy as np

from conf.schema import AlgorithmConf, Loss
from learner.advantage import advantages
from learner.data.batch import Sequence
from learner.loss import Totals, degrpo, dr_grpo, grpo
from reward.group import Group
from rollout.trajectory import Finish, Trajectory


class Algorithm(Protocol):
    """A function of a `learner.loss` file: f32[length] for a trajectory of `length` tokens, control token included."""

    def token_weights(self, length: int, totals: Totals, conf: AlgorithmConf) -> np.ndarray: ...

    def kl_weights(self, length: int, totals: Totals, conf: AlgorithmConf) -> np.ndarray: ...


ALGORITHMS: dict[Loss, Algorithm] = {
    Loss.degrpo: degrpo,
    Loss.grpo: grpo,
    Loss.dr_grpo: dr_grpo,
}


def optimizer_steps(
    groups: list[Group], conf: AlgorithmConf, max_response_tokens: int | None = None
) -> list[tuple[list[Sequence], Totals]]:
    """The batch split by prompts into `conf.optimizer_steps` consecutive parts, each with its own totals.

    Totals count every trajectory of the part. Groups with equal rewards give no sequences (their surrogate's gradient
    is zero, and the KL term covers the other groups with the same denominators). max_response_tokens: the value of
    conf.length_constant if it is null.
    """
    conf = replace(conf, length_constant=conf.length_constant or max_response_tokens)
    parts = np.array_split(np.arange(len(groups)), conf.optimizer_steps)
    return [weighted_sequences([groups[i] for i in part], conf) for part in parts if len(part)]


def weighted_sequences(groups: list[Group], conf: AlgorithmConf) -> tuple[list[Sequence], Totals]:
    lengths = [len(t.token_ids) for group in groups for t in group.trajectories]
    asked = len(lengths) + sum(group.unjudged for group in groups)
    totals = Totals(asked, max(1, sum(lengths) - len(lengths)), max(1, sum(lengths)))
    algorithm = ALGORITHMS[conf.loss]

    @functools.cache
    def weights(length: int) -> tuple[np.ndarray, np.ndarray]:
        """Shared by all trajectories of this length, so read-only."""
        return algorithm.token_weights(length, totals, conf), algorithm.kl_weights(length, totals, conf)

    sequences = []
    for group in groups:
        if not group.informative:
            continue
        for trajectory, advantage in zip(group.trajectories, advantages(group).tolist(), strict=True):
            if conf.mask_cut_off and trajectory.finish is not Finish.STOP:
                continue
            sequences.append(_sequence(trajectory, advantage, *weights(len(trajectory.token_ids))))
    return sequences, totals


def _sequence(trajectory: Trajectory, advantage: float, weights: np.ndarray, kl_weights: np.ndarray) -> Sequence:
    return Sequence(
        token_ids=np.concatenate([trajectory.prompt.token_ids, trajectory.token_ids], dtype=np.int32),
        prompt_tokens=len(trajectory.prompt.token_ids),
        weights=weights,
        kl_weights=kl_weights,
        advantage=advantage,
        behavior_logprobs=trajectory.behavior_logprobs.astype(np.float32, copy=False),
        mode=-1.0 if trajectory.mode is None else trajectory.mode.effort,
    )
