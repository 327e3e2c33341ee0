"""An update's metrics equal loops over single tokens, for any division into micro-batches and ranks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from conf.schema import AlgorithmConf, Importance, KLEstimator, Loss, Old
from learner.data.batch import MicroBatch, TrainBatch
from learner.data.pack import pack
from learner.loss.surrogate import policy_losses
from learner.metrics.loss_metrics import LossMetrics
from learner.metrics.report import StepReport
from learner.objective import weighted_sequences
from reward.group import Group
from rollout.mode import MODES, Mode, modes_of
from tests.helpers import naive

CONFS = [
    AlgorithmConf(alpha=0.5, kl=0.1),
    AlgorithmConf(kl=0.2, clip_high=0.4, dual_clip=1.5, importance=Importance.truncate, importance_cap=1.2),
    AlgorithmConf(loss=Loss.dr_grpo, length_constant=20, importance=Importance.mask, kl_estimator=KLEstimator.k1),
    AlgorithmConf(loss=Loss.grpo, old=Old.sampler, kl_estimator=KLEstimator.k2),
]
KNOWN: Any = {"updates": 1, "skipped": 0, "seconds": 1.0, "lr": 0.1}
WATCH: Any = SimpleNamespace(squares=lambda: (9.0, 16.0))


def made_up(ids: Any, salt: int) -> Any:
    """Log-probs -7..-5 that depend on the token alone."""
    return -6.0 + np.sin(np.asarray(ids) * 0.37 + salt)


def add(sums: LossMetrics, mb: MicroBatch, conf: AlgorithmConf, own_known: bool = True, with_ref: bool = True) -> None:
    mask = torch.tensor(mb.response)
    new, own, ref = (torch.tensor(made_up(mb.token_ids, salt)) * mask for salt in range(3))
    fields = (mb.behavior_logprobs, mb.advantages, mb.weights, mb.kl_weights)
    behavior, advantages, weights, kl_weights = (torch.tensor(values).double() for values in fields)
    reference = ref if with_ref else None
    parts = policy_losses(new, own, behavior, reference, advantages, weights, kl_weights, conf)
    sums.add(mb, new, own if own_known else None, behavior, reference, -new, parts)


def together(all_sums: list[LossMetrics]) -> StepReport:
    """What all_reduce over their ranks would leave on each."""
    whole = LossMetrics(all_sums[0].conf, [], all_sums[0].modes)
    whole.tokens = sum(sums.tokens for sums in all_sums)
    whole.sums = torch.stack([sums.sums for sums in all_sums if sums.sums is not None]).sum(0)
    whole.largest = torch.stack([sums.largest for sums in all_sums if sums.largest is not None]).amax(0)
    return whole.report(WATCH, **KNOWN)


def summed(batch: TrainBatch, conf: AlgorithmConf, modes: Sequence[Mode] = MODES) -> StepReport:
    ranks = []
    for share in batch.ranks:
        sums = LossMetrics(conf, [share], modes)
        for mb in share:
            add(sums, mb, conf)
        ranks.append(sums)
    return together(ranks)


def by_hand(groups: Any, conf: AlgorithmConf, modes: Sequence[Mode]) -> dict[str, Any]:
    """The same figures, token by token."""
    sums: dict[str, float] = dict.fromkeys(
        (
            "control",
            "response",
            "kl_loss",
            *(mode.name for mode in modes),
            "entropy",
            "kl",
            "outside",
            "high",
            "low",
            "dual",
            "k3",
        ),
        0.0,
    )
    gaps, weights, tokens, count = [], [], 0, 0
    for item in naive.weighted(groups, conf):
        trajectory = item.trajectory
        tokens += len(trajectory.prompt.token_ids) + len(trajectory.token_ids)
        mode = trajectory.mode and trajectory.mode.name
        for t, token_id in enumerate(trajectory.token_ids.tolist()):
            new, own, ref = (float(made_up(token_id, salt)) for salt in range(3))
            behavior = float(trajectory.behavior_logprobs[t])
            at = torch.tensor(new, dtype=torch.float64)
            token = naive.token_loss(at, own, behavior, item.advantage, item.weights[t], conf)
            sums["control" if t == 0 else "response"] += float(token.loss)
            if mode:
                sums[mode] += float(token.loss)
            sums["kl_loss"] += conf.kl * item.kl_weights[t] * float(naive.kl_estimate(at, ref, conf))
            sums["kl"] += math.exp(ref - new) - (ref - new) - 1
            sums["entropy"] -= new
            sums["outside"] += not 0.9 <= token.ratio <= 1.1
            if token.clipped:
                sums[token.clipped] += 1
            gaps.append(abs(own - behavior))
            sums["k3"] += math.exp(own - behavior) - (own - behavior) - 1
            weights.append(token.importance)
            count += 1
    return {
        "tokens": tokens,
        "loss": sums["control"] + sums["response"] + sums["kl_loss"],
        "loss_control": sums["control"],
        "loss_response": sums["response"],
        "loss_kl": sums["kl_loss"],
        "loss_by_mode": {mode.name: sums[mode.name] for mode in modes},
        "entropy": sums["entropy"] / count,
        "kl": sums["kl"] / count,
        "ratio_outside": sums["outside"] / count,
        "clip_fraction": (sums["high"] + sums["low"] + sums["dual"]) / count,
        "clip_high": sums["high"] / count,
        "clip_low": sums["low"] / count,
        "clip_dual": sums["dual"] / count,
        "mismatch_kl": sums["k3"] / count,
        "mismatch_mean_abs": sum(gaps) / count,
        "mismatch_max_abs": max(gaps),
        "importance_mean": sum(weights) / count,
        "importance_max": max(weights),
        "importance_capped": sum(m > conf.importance_cap for m in weights) / count,
    }


def in_modes(group: Group, modes: tuple[Mode, ...]) -> Group:
    """Thinking answers in all of the modes that think, by turns."""
    thinking = modes[:0:-1]
    found = tuple(
        replace(t, mode=thinking[t.sibling % len(thinking)]) if t.mode == Mode.THINK else t for t in group.trajectories
    )
    return replace(group, trajectories=found)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    seed=st.integers(0, 10_000),
    conf=st.sampled_from(CONFS),
    room=st.integers(0, 60),
    ranks=st.integers(1, 5),
    modes=st.sampled_from([MODES, modes_of(["short", "medium", "think"])]),
)
def test_metrics_do_not_depend_on_rows_or_ranks(
    seed: int, conf: AlgorithmConf, room: int, ranks: int, modes: tuple[Mode, ...]
) -> None:
    """Idle rows count for nothing; maxima are maxima over ranks."""
    groups = [in_modes(group, modes) for group in naive.some_groups(seed)]
    sequences, totals = weighted_sequences(groups, conf)
    report = summed(pack(sequences, totals, max(map(len, sequences)) + room, ranks), conf, modes)
    for name, want in by_hand(groups, conf, modes).items():
        assert getattr(report, name) == pytest.approx(want, rel=1e-5, abs=1e-7), name
    assert (report.grad_norm_control, report.grad_norm_response, report.updates) == (3.0, 4.0, 1)


def rows(seed: int, conf: AlgorithmConf) -> list[MicroBatch]:
    sequences, totals = weighted_sequences(naive.some_groups(seed), conf)
    return list(pack(sequences, totals, 60, 1).ranks[0])


def test_tokens_without_old_log_probs_are_not_counted_in_the_mismatch() -> None:
    """Without the learner's log-probs before the batch: the mismatch is that of the tokens that have them."""
    conf = replace(CONFS[3], optimizer_steps=2)
    first, second = rows(1, conf), rows(2, conf)
    both, alone = LossMetrics(conf, [tuple(first), tuple(second)]), LossMetrics(conf, [tuple(first)])
    for mb in first:
        add(both, mb, conf)
        add(alone, mb, conf)
    for mb in second:
        add(both, mb, conf, own_known=False)
    found, want = (sums.report(WATCH, **KNOWN) for sums in (both, alone))
    for name in StepReport.__slots__:
        if name.startswith(("mismatch", "importance")):
            assert getattr(found, name) == pytest.approx(getattr(want, name)), name
    assert found.tokens > want.tokens and found.ratio_outside != want.ratio_outside


def test_without_a_reference_there_is_no_kl() -> None:
    conf = replace(CONFS[0], kl=0.0)
    sums = LossMetrics(conf, [])
    for mb in rows(1, conf):
        add(sums, mb, conf, with_ref=False)
    report = sums.report(WATCH, **KNOWN)
    assert math.isnan(report.kl) and report.loss_kl == 0 and math.isfinite(report.loss) and report.tokens == 0


def test_a_nonfinite_loss_is_reported() -> None:
    conf = CONFS[0]
    first, *others = rows(1, conf)
    sums = LossMetrics(conf, [])
    add(sums, replace(first, advantages=np.full_like(first.advantages, math.nan)), conf)
    for mb in others:
        add(sums, mb, conf)
    report = sums.report(WATCH, **KNOWN)
    assert math.isnan(report.loss) and math.isfinite(report.entropy) and math.isfinite(report.mismatch_kl)


def test_metrics_do_not_synchronize_with_the_device() -> None:
    """Between micro-batches no figure becomes a Python number: on a GPU that would wait for each of them."""
    conf, sums = CONFS[1], LossMetrics(CONFS[1], [])

    class Read(Exception):
        pass

    def refuse(self: Tensor, *args: Any) -> Any:
        raise Read

    names = ("item", "tolist", "__float__", "__bool__", "__int__", "nonzero", "cpu", "numpy")
    kept = {name: getattr(Tensor, name) for name in names}
    row = rows(1, conf)[0]
    prepared: list[Any] = []
    sums.add = lambda *args: prepared.append(args)  # type: ignore[method-assign]
    add(sums, row, conf)
    try:
        for name in names:
            setattr(Tensor, name, refuse)
        LossMetrics.add(sums, *prepared[0])
    finally:
        for name, method in kept.items():
            setattr(Tensor, name, method)
    assert sums.sums is not None and sums.sums.shape[0] > 10
