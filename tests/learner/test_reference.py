"""The frozen reference: where its weights are, that its scores do not depend on that, and that it is never trained."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from conf.schema import AlgorithmConf, Config, LearnerConf
from learner.data.pack import pack
from learner.model.policy import Policy, load_policy
from learner.model.reference import frozen, on_device
from learner.objective import optimizer_steps
from rollout.base.gpu_sharing import GpuSharing
from tests.helpers import naive
from tests.helpers.learner_ranks import Ranks
from tests.helpers.seldom import seldom

ALGORITHM = AlgorithmConf(optimizer_steps=1, kl=0.1, alpha=0.5)
CPU = torch.device("cpu")
ELSEWHERE: Any = SimpleNamespace(type="elsewhere")  # a second device, for machines without one
gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def places(policy: nn.Module) -> list[int]:
    return [tensor.data_ptr() for tensor in (*policy.parameters(), *policy.buffers())]


def devices(policy: nn.Module) -> set[str]:
    return {tensor.device.type for tensor in (*policy.parameters(), *policy.buffers())}


@pytest.mark.parametrize("offload", [False, True])
@pytest.mark.parametrize("name", ["tied", "untied"])
def test_on_a_cpu_the_reference_is_never_moved(models: dict[str, str], name: str, offload: bool) -> None:
    policy = load_policy(models[name], "float32")
    before = places(policy)
    assert frozen(policy, CPU, offload) is policy and not any(p.requires_grad for p in policy.parameters())
    with on_device(policy, CPU):
        assert places(policy) == before
    assert places(policy) == before


@pytest.mark.parametrize("name", ["tied", "untied"])
def test_an_offloaded_reference_is_on_the_device_only_while_scoring(
    models: dict[str, str], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a whole: parameters, buffers, the head. The same memory afterwards, also after a fault."""
    copied: list[torch.Tensor] = []

    def copy(tensor: torch.Tensor, device: Any) -> torch.Tensor:
        assert device is ELSEWHERE
        copied.append(tensor.clone())
        return copied[-1]

    monkeypatch.setattr("learner.model.reference._copy", copy)
    policy = load_policy(models[name], "float32").requires_grad_(False)
    before, want = places(policy), {n: p.clone() for n, p in policy.named_parameters()}
    for fault in (False, True):
        copied.clear()
        try:
            with on_device(policy, ELSEWHERE):
                assert places(policy) == [tensor.data_ptr() for tensor in copied]
                assert not set(places(policy)) & set(before)
                embedding = policy.causal_lm.get_input_embeddings().weight
                assert (
                    (policy.head.weight.data_ptr() == embedding.data_ptr())
                    == bool(policy.tied_name)
                    == (name == "tied")
                )
                if fault:
                    raise KeyError
        except KeyError:
            assert fault
        assert places(policy) == before
    assert all(torch.equal(parameter, want[name]) for name, parameter in policy.named_parameters())


def test_references_without_weights_are_left_alone() -> None:
    for reference in (None, SimpleNamespace(layers=[])):
        with on_device(reference, ELSEWHERE):
            pass


@gpu
@pytest.mark.parametrize("name", ["tied", "untied"])
def test_on_a_gpu_an_offloaded_reference_is_in_page_locked_memory(models: dict[str, str], name: str) -> None:
    device = torch.device("cuda", 0)
    policy = frozen(load_policy(models[name], "float32"), device, offload=True)
    assert devices(policy) == {"cpu"} and all(p.is_pinned() for p in policy.parameters())
    used = torch.cuda.memory_allocated()
    with on_device(policy, device):
        assert devices(policy) == {"cuda"} and torch.cuda.memory_allocated() > used
    assert torch.cuda.memory_allocated() == used and all(p.is_pinned() for p in policy.parameters())
    kept = frozen(load_policy(models[name], "float32"), device, offload=False)
    with on_device(kept, device):
        assert devices(kept) == {"cuda"}


@pytest.mark.parametrize(("count", "stage"), [(1, 0), seldom(2, 2), (2, 3)])
def test_the_reference_is_never_trained(
    groups_of_ranks: dict[int, Ranks], models: dict[str, str], count: int, stage: int
) -> None:
    """After updates that moved the policy: the weights of the start. Offloaded or not, the reports are the same."""
    ranks, reports = groups_of_ranks[count], []
    for offload in (False, True):
        conf = LearnerConf(lr=0.01, ranks=count, zero_stage=stage, logprob_chunk=16, offload_reference=offload)
        ranks.start(conf, models["untied"], models["untied"])  # the policy itself, as a run has it
        before = ranks.digests()
        for seed in (1, 2):
            sequences, totals = optimizer_steps(naive.some_groups(seed), ALGORITHM)[0]
            reports.append(ranks.scatter("update", [pack(sequences, totals, 60, count)], ALGORITHM)[0])
        assert ranks.digests() != before
        for shared, change, trainable in ranks.each(_look, models["untied"]):
            assert shared == 0 and change == 0.0 and not trainable
    first, second, *offloaded = [replace(report, seconds=0.0, memory=None) for report in reports]
    assert first.kl == pytest.approx(0, abs=1e-12) and second.kl > 1e-6
    assert repr([first, second]) == repr(offloaded)


def _look(state: dict[str, Any], folder: str) -> tuple[int, float, bool]:
    """(tensors that reference and policy or optimizer share, the reference's largest change, is any trainable)."""
    worker = state["worker"]
    reference: Policy = worker.reference
    mine = {id(p) for p in reference.parameters()}
    theirs = [p for group in worker.engine.optimizer.param_groups for p in group["params"]]
    shared = sum(id(p) in mine for p in (*theirs, *worker.engine.policy.parameters()))
    start = dict(load_policy(folder, "float32").named_parameters())
    change = max(float((p - start[name]).abs().max()) for name, p in reference.named_parameters())
    return shared, change, any(p.requires_grad for p in reference.parameters())


@pytest.mark.parametrize("kl", [0.0, 0.001])
def test_a_reference_is_loaded_only_for_a_kl_term(kl: float, monkeypatch: pytest.MonkeyPatch) -> None:
    from orchestrator.cluster import parts

    started: list[bool] = []
    monkeypatch.setattr(parts, "started", lambda *args: None)
    start = lambda port, reference: started.append(reference)  # noqa: E731
    learner: Any = SimpleNamespace(ranks=[], conf=LearnerConf(), start=start, gpu_sharing=GpuSharing())
    parts.start_learner(learner, Config(algorithm=AlgorithmConf(kl=kl)))
    assert started == [kl > 0]
