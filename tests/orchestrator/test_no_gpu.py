"""device=gpu is refused where torch or vLLM cannot use one, before anything starts, with the wheel that is needed."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from conf.compose import composed
from conf.schema import ClusterConf, Config, Device, LearnerConf, ModelConf, RolloutConf
from learner.worker import LearnerWorker
from orchestrator.commands import preflight, train, warmup
from rollout.base.errors import BadInput
from rollout.base.gpu import refuse_no_gpu, torch_build
from rollout.engine import Engine
from rollout.vllm_models import refuse_cpu_vllm

without_cuda = pytest.mark.skipif(torch.version.cuda is not None, reason="torch is a CUDA build")
WHEEL = rf"\.device=gpu: torch {torch.__version__.replace('+', '.')} on .* is a build without CUDA .* CUDA wheel "
WHEEL += rf"torch=={torch.__version__.partition('+')[0]}.*requirements-gpu\.lock"


def test_torchs_build_is_known_without_importing_it() -> None:
    code = (
        "import json, sys; from rollout.base.gpu import torch_build; print(json.dumps([*torch_build(), 'torch' in "
        "sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [torch.__version__, torch.version.cuda, False]
    assert torch_build() == (torch.__version__, torch.version.cuda)


@without_cuda
def test_a_cpu_build_is_refused_in_one_line_with_the_wheel(tmp_path: Path) -> None:
    for refuse in (
        lambda: refuse_no_gpu("rollout.device"),
        lambda: LearnerWorker(LearnerConf(device=Device.gpu), ModelConf(), str(tmp_path), 0, 1.0, 1),
        lambda: Engine(RolloutConf(device=Device.gpu), ModelConf(), str(tmp_path), [1]),
    ):
        with pytest.raises(BadInput, match=WHEEL) as refused:
            refuse()
        assert "\n" not in str(refused.value)


def test_a_cuda_build_that_sees_no_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(BadInput, match=r"^learner\.device=gpu: torch .* sees no GPU on .*CUDA_VISIBLE_DEVICES=''.*smi"):
        refuse_no_gpu("learner.device")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    refuse_no_gpu("learner.device")


@without_cuda
@pytest.mark.parametrize(
    ("gpu", "command"),
    [("rollout", "train"), ("learner", "train"), ("learner", "warmup"), ("rollout", "evaluate")],
)
def test_a_command_is_refused_before_it_starts_anything(
    gpu: str, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only for what the command starts, and only where this host's torch is the one that would be used."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    conf = replace(Config(), **{gpu: replace(getattr(Config(), gpu), device=Device.gpu)})
    with pytest.raises(BadInput, match=gpu + WHEEL):
        preflight.refuse_no_gpu(conf, command)
    if command != "train":
        preflight.refuse_no_gpu(conf, {"warmup": "evaluate", "evaluate": "warmup"}[command])
    preflight.refuse_no_gpu(replace(conf, cluster=ClusterConf(address="10.0.0.7:6379")), command)
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    preflight.refuse_no_gpu(conf, command)


@without_cuda
@pytest.mark.parametrize("command", ["train", "warmup"])
def test_it_is_the_first_thing_that_a_command_checks(command: str, tmp_path: Path) -> None:
    """Not after data and model have been looked for."""
    arguments = ["experiment=one_gpu", "data.path=/nowhere", "model.path=/nowhere", f"run.root={tmp_path}"]
    start: dict[str, Callable[[Config], object]] = {
        "train": train.command,
        "warmup": functools.partial(warmup.command, arguments=arguments),
    }
    with pytest.raises(BadInput, match=WHEEL):
        start[command](composed(arguments))
    assert not list(tmp_path.iterdir())


@pytest.mark.heavy
@without_cuda
def test_vllms_cpu_build_is_refused() -> None:
    """It would sample on the CPU without a word."""
    with pytest.raises(BadInput, match=r"^rollout\.device=gpu: vllm [\d.]+\S* runs on cpu here: .*wheel vllm==[\d.]+ "):
        refuse_cpu_vllm()
