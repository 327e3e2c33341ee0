"""run.deterministic: two processes with the same seed end in the same bits, and the switches reach the processes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

import rollout.engine
from conf.schema import AlgorithmConf, Device, Dtype, LearnerConf, ModelConf, RolloutConf
from rollout.base.errors import BadInput
from tests.helpers.learner_ranks import train_batch
from tests.helpers.leaving import COMING_S, process

pytestmark = pytest.mark.heavy

ALGORITHM = AlgorithmConf(optimizer_steps=1, kl=0.0)
CONF = LearnerConf(lr=0.02, logprob_chunk=16, zero_stage=1, gradient_checkpointing=True)


def learns(pipe: Any, path: str) -> None:
    """Three updates of a bfloat16 model in deterministic mode, in a process of their own."""
    import torch

    from learner.worker import LearnerWorker
    from tests.helpers.learner_ranks import _digest

    worker = LearnerWorker(CONF, ModelConf(dtype=Dtype.bfloat16), path, 0, 0.6, 10, deterministic=7)
    switches = {
        "strict": torch.are_deterministic_algorithms_enabled()
        and not torch.is_deterministic_algorithms_warn_only_enabled(),
        "cudnn": torch.backends.cudnn.deterministic and not torch.backends.cudnn.benchmark,
        "seed": torch.initial_seed(),
        **{name: os.environ.get(name) for name in ("CUBLAS_WORKSPACE_CONFIG", "NCCL_NVLS_ENABLE")},
    }
    worker.start("127.0.0.1", worker.address(None)[1], False)
    losses = []
    for seed in (1, 2, 3):
        report = worker.update([train_batch(seed, 1, ALGORITHM).ranks[0]], ALGORITHM)
        losses.append(report.grad_norm)
    pipe.send((switches, losses, _digest({"worker": worker})))
    worker.close()


def test_two_learners_end_in_the_same_bits(tiny_model: Path) -> None:
    """Every operator of an update has a deterministic kernel on the CPU: torch raises where one has not."""
    with process(learns, str(tiny_model)) as (_, one), process(learns, str(tiny_model)) as (_, other):
        assert one.poll(2 * COMING_S) and other.poll(2 * COMING_S)
        switches, losses, digest = one.recv()
        assert other.recv() == (switches, losses, digest)
    assert switches == {
        "strict": True,
        "cudnn": True,
        "seed": 7,
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
        "NCCL_NVLS_ENABLE": "0",
    }
    assert len(set(losses)) == 3 and min(losses) > 0


def test_a_gpus_sampler_is_batch_invariant(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The switch is set before vLLM is imported; on a CPU, whose engine would fail with it, it is not."""
    monkeypatch.setenv("VLLM_BATCH_INVARIANT", "")  # so that it is as before at the end, whatever the engine sets
    monkeypatch.delenv("VLLM_BATCH_INVARIANT")
    monkeypatch.setattr(rollout.engine, "refuse_no_gpu", lambda setting: None)
    for device, expected in ((Device.cpu, None), (Device.gpu, "1")):
        with pytest.raises(BadInput):  # the folder is empty; vLLM is a CPU build
            rollout.engine.Engine(RolloutConf(device=device), ModelConf(), str(tmp_path), [1], deterministic=True)
        assert os.environ.get("VLLM_BATCH_INVARIANT") == expected
