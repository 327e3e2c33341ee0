"""Every call that only a GPU would run, bound against the signatures in the CUDA wheels (tests/cuda_signatures.json).

The calls are found in our sources: all of torch.cuda and torch.accelerator, of what is imported from the modules in
`ONLY_ON_A_GPU`, and those in `METHODS`, whose objects a reader of the source must know.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

from tests.helpers import cuda_signatures
from tests.helpers.cuda_signatures import NCCL, PACKED, PYNCCL

ROOT = Path(__file__).resolve().parent.parent
FILES = [
    path
    for folder in ("conf", "rollout", "reward", "learner", "orchestrator", "benchmarks")
    for path in sorted((ROOT / folder).rglob("*.py"))
]
PREFIXES = ("torch.cuda.", "torch.accelerator.")
ONLY_ON_A_GPU = ("torch.nn.attention", "vllm.distributed.weight_transfer.packed_tensor", NCCL)
METHODS = {  # (file, as it is written there): what it is
    ("rollout/engine.py", "self.engine.sleep"): "vllm.v1.engine.llm_engine.LLMEngine.sleep",
    ("rollout/engine.py", "self.engine.wake_up"): "vllm.v1.engine.llm_engine.LLMEngine.wake_up",
    ("rollout/weight_sync/broadcast_group.py", "group.destroy"): f"{PYNCCL}.destroy",
    ("rollout/weight_sync/sender.py", "self._group.destroy"): f"{PYNCCL}.destroy",
    ("rollout/weight_sync/vllm_receiver.py", "self.group.destroy"): f"{PYNCCL}.destroy",
    ("rollout/weight_sync/transport.py", "self._importer.close"): f"{PACKED}.PackedBufferImporter.close",
    ("rollout/weight_sync/sender.py", "torch.cuda.current_stream().synchronize"): "torch.cuda.Stream.synchronize",
    ("learner/model/logprob.py", "torch.addmm"): "torch.addmm",
}
RECORDED: dict[str, dict[str, list[str]]] = json.loads(cuda_signatures.LIST.read_text())
KNOWN = {name: forms for package in RECORDED.values() for name, forms in package.items()}


class Used:
    """A name of a GPU's libraries in one of our files, and how it is called there (None: it is passed on)."""

    def __init__(self, file: str, line: int, name: str, call: ast.Call | None):
        self.file, self.line, self.name, self.call = file, line, name, call

    def __repr__(self) -> str:
        return f"{self.file}:{self.line} {self.name}"


def used(path: Path) -> Iterator[Used]:
    file, text = path.relative_to(ROOT).as_posix(), path.read_text()
    if not any(word in text for word in (*PREFIXES, *ONLY_ON_A_GPU)) and file not in {file for file, _ in METHODS}:
        return  # as for most: every process of `make test` comes by here when it collects the tests
    tree = ast.parse(text)
    imported = {
        one.asname or one.name: f"{node.module}.{one.name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith(ONLY_ON_A_GPU)
        for one in node.names
    }
    calls = {node.func: node for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute | ast.Name):
            continue
        written = ast.unparse(node)
        name = METHODS.get((file, written)) or imported.get(written)
        if name is None and written.startswith(PREFIXES) and re.fullmatch(r"[\w.]+", written):
            name = written
        if name is not None:
            yield Used(file, node.lineno, name, calls.get(node))


USED = [one for path in FILES for one in used(path)]


@pytest.mark.parametrize("one", USED, ids=repr)
def test_the_call_fits_the_cuda_wheels_signature(one: Used) -> None:
    assert one.name in KNOWN, f"add {one.name} to tests/helpers/cuda_signatures.py, and make the list again"
    if one.call is None:
        return
    given = [arg for arg in one.call.args if not isinstance(arg, ast.Starred)]
    named = {keyword.arg: None for keyword in one.call.keywords if keyword.arg is not None}
    whole = len(given) == len(one.call.args) and len(named) == len(one.call.keywords)
    problems = []
    for form in KNOWN[one.name]:
        try:
            bind = signature(form).bind if whole else signature(form).bind_partial
            bind(*given, **named)
        except TypeError as error:
            problems.append(f"({form}): {error}")
    assert len(problems) < len(KNOWN[one.name]), problems


def signature(form: str) -> inspect.Signature:
    scope: dict[str, object] = {}
    exec(f"def form({form}): ...", scope)
    return inspect.signature(scope["form"])  # type: ignore[arg-type]


def test_the_calls_are_found() -> None:
    """As many as a reader counts: a finder that finds nothing would pass."""
    found = {(one.file, one.name) for one in USED}
    for file, name in [
        ("learner/model/attention.py", "torch.nn.attention.varlen.varlen_attn"),
        ("learner/offload.py", "torch.cuda.empty_cache"),
        ("rollout/weight_sync/transport.py", f"{PACKED}.packed_ipc_consumer"),
        ("rollout/weight_sync/broadcast_group.py", f"{NCCL}.stateless_init_process_group"),
        *((file, name) for (file, _), name in METHODS.items()),
    ]:
        assert (file, name) in found


def test_a_bfloat16_product_can_be_added_to_float32() -> None:
    """The keyword that only a GPU is given, in `**given`, beside the others of the call."""
    products = [one.call for one in USED if one.name == "torch.addmm"]
    (form,) = [form for form in KNOWN["torch.addmm"] if "out_dtype" in form]
    for call in products:
        assert call is not None
        signature(form).bind(*call.args, out_dtype=None, **{one.arg: None for one in call.keywords if one.arg})
    assert products


def test_what_is_read_of_a_packed_chunk_is_there() -> None:
    fields = KNOWN[f"{PACKED}.PackedIpcChunk"][0].split(", ")
    text = (ROOT / "rollout/weight_sync/transport.py").read_text()
    read = set(re.findall(r"\bpacked\.(\w+)", text))
    assert read and read <= set(fields)


def test_the_engines_settings_are_vllms() -> None:
    """Those that only a GPU's engine is given among them."""
    given = re.findall(r'^\s+"(\w+)": |arguments\["(\w+)"\]', (ROOT / "rollout/engine.py").read_text(), re.M)
    names = {first or second for first, second in given} - {"head_dtype", "backend"}
    assert {"gpu_memory_utilization", "enable_sleep_mode"} <= names
    assert names <= set(re.findall(r"(\w+)(?:=\.\.\.)?(?:, |$)", KNOWN["vllm.engine.arg_utils.EngineArgs"][0]))


@pytest.mark.parametrize("package", ["torch", "vllm"])
def test_the_installed_packages_have_the_same_signatures(package: str) -> None:
    """In the locked versions a CPU build's Python sources are the CUDA build's. If this fails after a version moved:
    make the list again from the new wheels."""
    (recorded,) = [name for name in RECORDED if name.startswith(f"{package} ")]
    version = metadata.version(package)
    assert recorded.split()[1].partition("+")[0] == version.partition("+")[0]
    assert cuda_signatures.installed(package) == RECORDED[recorded]


def test_a_wheel_without_cuda_is_no_source(tmp_path: Path) -> None:
    path = tmp_path / "torch-9.0+cpu-cp311-cp311-linux.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("torch/version.py", "__version__ = '9.0+cpu'\ncuda: Optional[str] = None\n")
    with pytest.raises(SystemExit, match="is a build without CUDA"):
        cuda_signatures.wheel(path)
