"""Offloaded tensors: the memory is freed, nothing reads it meanwhile, and training continues bit for bit."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from conf.schema import AlgorithmConf, Dtype, LearnerConf, LoraConf, ModelConf
from learner.offload import Offloader, TensorsOffloaded
from tests.helpers.learner_ranks import Ranks, awake_bytes, call_worker, left_by_others, train_batch
from tests.helpers.seldom import seldom

ALGORITHM = AlgorithmConf(optimizer_steps=1, kl=0.1, alpha=0.5)
FLOAT, BFLOAT = ModelConf(), ModelConf(dtype=Dtype.bfloat16)
ADAPTED = ModelConf(lora=LoraConf(rank=4))
LAYOUTS = [
    *((count, stage, FLOAT) for count, stage in ((1, 0), (2, 2), (2, 3))),
    (2, 1, BFLOAT),
    (1, 0, ADAPTED),
]


batch = partial(train_batch, algorithm=ALGORITHM, max_tokens=120)


def logprobs(ranks: Ranks, count: int) -> list[list[bytes]]:
    answers = ranks.ask([(call_worker, ("logprobs", share, 1.0)) for share in batch(7, count).ranks])
    return [[values.tobytes() for values in answer] for answer in answers]


def course(ranks: Ranks, count: int, others: list[int] | None) -> list[Any]:
    """Two updates; after each the weights are published, and (others: bytes of tensors that are none of
    this learner's) in between the tensors rest in every order."""
    seen: list[Any] = []
    for seed in (1, 2):
        reports = ranks.scatter("update", [batch(seed, count)], ALGORITHM)
        seen.append([(report.loss, report.grad_norm, report.kl, report.entropy) for report in reports])
        if others:
            before = ranks.each(awake_bytes)
            optimizer = ranks.call("offload", "optimizer")
            assert all(size > 0 for size in optimizer)
            if seed == 2:  # as when it publishes after an evaluation: all offloaded, then only the weights reloaded
                ranks.call("offload", "all")
                assert ranks.call("offload", "optimizer") == optimizer
        seen.append(ranks.digests())
        seen.append(logprobs(ranks, count))
        if others:
            everything = ranks.call("offload", "all")
            left = ranks.each(awake_bytes)
            for total, one, after, had, old in zip(everything, optimizer, left, before, others, strict=True):
                assert total > one and after - old < 0.02 * (had - old), f"{after - old} of {had - old} bytes are left"
            if seed != 2:
                ranks.call("reload")
    return seen


@pytest.mark.parametrize(
    ("count", "stage", "model"),
    [seldom(*one) if one in LAYOUTS[:2] else one for one in LAYOUTS],
    ids=[f"{c}-{s}-{m.dtype.value}{'-adapters' if m.lora.rank else ''}" for c, s, m in LAYOUTS],
)
def test_offloading_between_updates_changes_no_bit(
    groups_of_ranks: dict[int, Ranks], models: dict[str, str], count: int, stage: int, model: ModelConf
) -> None:
    ranks = groups_of_ranks[count]
    conf = LearnerConf(lr=0.01, logprob_chunk=16, ranks=count, zero_stage=stage)
    reference = models["untied"] if model.lora.rank else models["untied-reference"]
    ranks.start(conf, models["untied"], reference, model=model)
    seen = [course(ranks, count, None)]
    others = ranks.each(left_by_others)
    ranks.start(conf, models["untied"], reference, model=model)
    seen.append(course(ranks, count, others))
    assert seen[0] == seen[1]
    assert len({str(one) for one in seen[0]}) == len(seen[0])  # something was learnt in between

    # use while it is offloaded is an error on every rank, and harms nothing
    with pytest.raises(TensorsOffloaded, match=r"a forward pass needs the learner's weights while all of it is offl"):
        logprobs(ranks, count)
    for method in ("save", "export"):
        with pytest.raises(TensorsOffloaded, match=r"is offloaded to the host: call reload\(\) first$"):
            ranks.call(method, "nowhere")
    ranks.call("offload", "optimizer")
    with pytest.raises(TensorsOffloaded, match=r"everything while its optimizer is offloaded"):
        ranks.scatter("update", [batch(4, count)], replace(ALGORITHM, kl=0))
    ranks.call("reload")
    assert all(np.isfinite(report.loss) for report in ranks.scatter("update", [batch(4, count)], ALGORITHM))


def test_views_and_aliases_survive_offloading() -> None:
    """One storage under many names: put down once, and still one when it is back."""
    module = torch.nn.Linear(4, 4, bias=False)
    flat = torch.arange(32.0)
    module.weight.data = flat[:16].view(4, 4)
    module.weight.grad = flat[16:].view(4, 4)
    other = torch.full((5,), 7.0)
    offloader = Offloader(torch.device("cpu"), module, [{"part": [flat[3:9]], "other": (other,)}])
    want = flat.clone()
    assert offloader.offload("optimizer") == 5 * 4  # gradient and weight share a storage: it stays for the weight
    assert other.untyped_storage().nbytes() == 0 and torch.equal(flat, want)
    assert offloader.offload("all") == (32 + 5) * 4 and flat.untyped_storage().nbytes() == 0
    offloader.reload()
    offloader.reload()
    assert torch.equal(flat, want) and torch.equal(other, torch.full((5,), 7.0))
    module.weight.data[0, 0] = -1.0
    assert flat[0] == -1.0 and offloader.bytes == 0


def test_borrowed_memory_is_copied() -> None:
    """As of a model's mapped file; the lender's is not touched, and two views of it stay two views of one memory."""
    module, lent = torch.nn.Linear(2, 2, bias=False), np.arange(6, dtype=np.float32)
    module.weight.data = torch.from_numpy(lent)[:4].view(2, 2)
    flat = torch.from_numpy(lent)
    flat.set_(module.weight.data.untyped_storage(), 2, (4,), (1,))
    offloader = Offloader(torch.device("cpu"), module, [[flat]])
    assert offloader.offload("all") == 24
    offloader.reload()
    module.weight.data[1, 1] = 9.0
    assert module.weight.tolist() == [[0, 1], [2, 9]] and flat.tolist() == [2, 9, 4, 5]
    assert lent.tolist() == [0, 1, 2, 3, 4, 5]


def test_only_optimizer_and_all_can_be_offloaded() -> None:
    with pytest.raises(ValueError, match='must be "optimizer" or "all", got \'weights\''):
        Offloader(torch.device("cpu"), torch.nn.Linear(2, 2)).offload("weights")  # type: ignore[arg-type]
