"""Nonfinite numbers and malformed batches are reported by name, recorded, and never make a rank hang."""

from __future__ import annotations

import math
import os
import signal
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from conf.schema import AlgorithmConf, LearnerConf, TrackerConf
from learner.data.batch import MicroBatch, TrainBatch
from learner.learner import Learner
from learner.metrics.report import StepReport
from orchestrator.tracking.tracker import Tracker
from tests.helpers import naive
from tests.helpers.handles import PendingHandle
from tests.helpers.learner_ranks import Ranks, call_worker, train_batch
from tests.helpers.runs import read_lines

CONF = LearnerConf(lr=0.01, logprob_chunk=16, max_tokens=64)
ALGORITHM = AlgorithmConf(optimizer_steps=1, kl=0.0, alpha=0.5)


batch = partial(train_batch, algorithm=ALGORITHM)


def with_advantage(mb: MicroBatch, sequence: int, value: float) -> MicroBatch:
    """The micro-batch with another advantage for one of its sequences."""
    start = sum(mb.lengths[:sequence])
    advantages = mb.advantages.copy()
    advantages[start : start + mb.lengths[sequence]] = value
    return replace(mb, advantages=advantages)


# ------------------------------------------------------------------ non-finite numbers


@pytest.mark.parametrize(("count", "together"), [(1, 1), (2, 1), (2, 2)])
def test_the_sequences_behind_a_skipped_step_are_named(
    groups_of_ranks: dict[int, Ranks], models: dict[str, str], count: int, together: int
) -> None:
    """Exactly the poisoned sequence, from the rank (or ranks) that saw it; the good step after it names none."""
    ranks = groups_of_ranks[count]
    ranks.start(replace(CONF, ranks=count, sequence_parallel=together), models["untied"])
    whole = batch(2, count // together)
    *others, mine = whole.ranks
    index = next(i for i, mb in enumerate(mine) if len(mb.lengths) > 1)
    poisoned = (*mine[:index], with_advantage(mine[index], 1, math.nan), *mine[index + 1 :])
    reports = ranks.scatter("update", [replace(whole, ranks=(*others, poisoned))], ALGORITHM)
    start = mine[index].lengths[0]
    want = mine[index].token_ids[start : start + mine[index].lengths[1]]
    found = [one for report in reports for one in report.nonfinite if one.reason != "step"]
    assert found and all(np.array_equal(one.token_ids, want) and one.reason == "loss" for one in found)
    assert {one.rank for one in found} <= set(range(count)) and all(one.update == 0 for one in found)
    assert all(math.isnan(one.advantage) for one in found)
    again = ranks.scatter("update", [batch(3, count // together)], ALGORITHM)
    assert all(not report.nonfinite and report.skipped == 0 for report in again)


@pytest.mark.parametrize(("count", "together"), [(1, 1), (2, 1), (2, 2)])
def test_gradient_norms_are_split_by_control_and_other_tokens(
    groups_of_ranks: dict[int, Ranks], models: dict[str, str], count: int, together: int
) -> None:
    """Norms of dL/dh at the positions before control tokens and before all others, against a plain float64 pass."""
    import torch

    ranks = groups_of_ranks[count]
    ranks.start(replace(CONF, ranks=count, sequence_parallel=together), models["untied"], temperature=0.6)
    reports = ranks.scatter("update", [batch(5, count // together)], ALGORITHM)
    model, sums = naive.load(models["untied"]), {True: 0.0, False: 0.0}
    for item in naive.weighted(naive.some_groups(5), ALGORITHM):
        prompt, tokens = item.trajectory.prompt.token_ids, item.trajectory.token_ids
        ids = torch.tensor(np.concatenate([prompt, tokens]).astype(np.int64))
        hidden = model.model(input_ids=ids[None], use_cache=False).last_hidden_state[0]
        hidden.retain_grad()
        logprobs = torch.log_softmax(model.lm_head(hidden) / 0.6, -1)
        at = torch.arange(len(prompt), len(ids))
        chosen = logprobs[at - 1, ids[at]]
        loss = -(torch.as_tensor(item.weights).double() * item.advantage * chosen).sum()  # on-policy: ratio 1
        loss.backward()
        squares = hidden.grad.pow(2).sum(-1)
        for t, position in enumerate(at - 1):
            sums[t == 0] += float(squares[position])
    for report in reports:
        assert report.grad_norm_control == pytest.approx(math.sqrt(sums[True]), rel=1e-4)
        assert report.grad_norm_response == pytest.approx(math.sqrt(sums[False]), rel=1e-4)


def test_bad_steps_are_recorded_and_end_the_run(
    groups_of_ranks: dict[int, Ranks], models: dict[str, str], tmp_path: Path
) -> None:
    ranks = groups_of_ranks[1]
    ranks.start(replace(CONF, max_bad_steps=2), models["untied"])
    whole = batch(2, 1)
    first, *rest = whole.ranks[0]
    bad = replace(whole, ranks=((with_advantage(first, 0, math.inf), *rest),))
    tracker = Tracker(tmp_path, TrackerConf(console=False, gauges=False), 10, 0, lambda ids: f"{len(ids)} tokens", 0)

    def step(number: int, given: TrainBatch) -> StepReport:
        report: StepReport = ranks.scatter("update", [given], ALGORITHM)[0]
        tracker.bad_steps(number, report)
        Learner([], replace(CONF, max_bad_steps=2)).stop_if_diverged(report)
        return report

    step(1, bad)
    step(2, whole)
    step(3, bad)
    with pytest.raises(FloatingPointError, match=r"2 optimizer steps in a row .* bad_steps\.jsonl"):
        step(4, bad)
    tracker.close()
    lines = read_lines(tmp_path / "bad_steps.jsonl")
    assert [line["step"] for line in lines] == [1, 3, 4] and {line["reason"] for line in lines} == {"loss"}
    length = first.lengths[0]
    assert lines[0]["text"] == f"{length} tokens" and lines[0]["token_ids"] == first.token_ids[:length].tolist()


# ------------------------------------------------------------------ batches that do not fit


def test_a_malformed_batch_is_rejected_before_any_rank_is_called() -> None:
    ranks = [PendingHandle(), PendingHandle()]
    learner = Learner(ranks, replace(CONF, ranks=2))
    learner.vocabulary = int(max(mb.token_ids.max() for share in batch(1, 2).ranks for mb in share)) + 1
    whole = batch(1, 2)
    one, two = whole.ranks
    uneven = replace(whole, ranks=(one, two[:-1]))
    with pytest.raises(ValueError, match=r"same number of micro-batches on each of 2 ranks, got \[\d+, \d+\]"):
        learner.apply([uneven], ALGORITHM)
    with pytest.raises(ValueError, match="same number of micro-batches on each of 2 ranks"):
        learner.apply([replace(whole, ranks=(one,))], ALGORITHM)
    learner.vocabulary -= 1
    with pytest.raises(ValueError, match=r"token id \d+, but the model's output head has \d+ rows"):
        learner.apply([whole], ALGORITHM)
    learner.vocabulary = None
    short = replace(one[0], weights=one[0].weights[:-1])
    with pytest.raises(ValueError, match=r"micro-batch 0 of rank 0: its arrays have not the length"):
        learner.apply([replace(whole, ranks=((short, *one[1:]), two))], ALGORITHM)
    learner.conf = replace(learner.conf, max_tokens=8)
    with pytest.raises(ValueError, match=r"has \d+ tokens, more than learner\.max_tokens=8"):
        learner.apply([whole], ALGORITHM)
    assert learner.apply([replace(whole, sequences=0)], ALGORITHM) is None  # nothing to learn


def test_different_numbers_of_micro_batches_are_an_error_on_every_rank(
    groups_of_ranks: dict[int, Ranks], models: dict[str, str]
) -> None:
    """Were they to begin, one would wait in a gather for what the other never sends."""
    ranks = groups_of_ranks[2]
    ranks.start(replace(CONF, ranks=2, zero_stage=3), models["untied"])
    one, two = batch(1, 2).ranks
    for pipe, share in zip(ranks.pipes, (one, two[:-1]), strict=True):
        pipe.send((call_worker, ("update", [share], ALGORITHM)))
    answers = [pipe.recv() for pipe in ranks.pipes if pipe.poll(60)]
    assert len(answers) == 2
    for answer in answers:
        assert isinstance(answer, ValueError) and "disagree on the update's micro-batches" in str(answer)
    assert ranks.scatter("update", [batch(1, 2)], ALGORITHM)[0].updates == 1  # and go on


# ------------------------------------------------------------------ a rank that does not answer


@pytest.mark.heavy
def test_a_rank_that_times_out_says_who_waited() -> None:
    """One rank alone in a collective call, and one whose neighbour is killed."""
    import tempfile

    from conf.schema import ModelConf, RandomModelConf
    from learner.model.prepare_model import random_model

    shape = RandomModelConf(hidden_size=32, layers=1, heads=4, kv_heads=2, ffn_size=48)
    path = random_model(Path(tempfile.mkdtemp()) / "model", shape, ModelConf(), 3)
    ranks = Ranks(2)
    try:
        ranks.start(replace(CONF, ranks=2, timeout_s=5.0), path)
        ranks.pipes[0].send((call_worker, ("update", [batch(1, 2).ranks[0]], ALGORITHM)))
        assert ranks.pipes[0].poll(90)
        answer = ranks.pipes[0].recv()
        assert isinstance(answer, TimeoutError)
        assert str(answer).startswith("learner rank 0 of 2 waited for another rank in `update`")
        assert "learner.timeout_s=5" in str(answer)
    finally:
        ranks.close()
    ranks = Ranks(2)
    try:
        ranks.start(replace(CONF, ranks=2, timeout_s=60.0), path)
        ranks.pipes[0].send((call_worker, ("update", [batch(1, 2).ranks[0]], ALGORITHM)))
        os.kill(ranks.processes[1].pid or 0, signal.SIGKILL)
        assert ranks.pipes[0].poll(55)
        answer = ranks.pipes[0].recv()
        assert isinstance(answer, TimeoutError) and "rank 0 of 2 waited for another rank" in str(answer)
    finally:
        for process in ranks.processes:
            process.kill()
