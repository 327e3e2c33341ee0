"""Signatures in the CUDA wheels of torch and vLLM, read from their Python sources without installing them.

    pip download --no-deps torch==2.13.0 vllm==0.32.0      (with no folder or index that has a +cpu wheel)
    python -m tests.helpers.cuda_signatures torch-*.whl vllm-*.whl

writes tests/cuda_signatures.json: {"torch 2.13.0+cu130": {"torch.cuda.synchronize": ["device=..."], ...}, ...}: for
each name in `NAMES` the parameters of its definition, or of its overloads; for a class those of its `__init__`, or its
fields. "module.*": all of the module's `__all__` that is written in Python. With the name of a package instead of
wheels it prints the signatures of the installed one.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
import json
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

LIST = Path(__file__).resolve().parent.parent / "cuda_signatures.json"
PACKED, NCCL = "vllm.distributed.weight_transfer.packed_tensor", "vllm.distributed.weight_transfer.nccl_common"
PYNCCL = "vllm.distributed.device_communicators.pynccl.PyNcclCommunicator"
NAMES = {
    "torch": [
        "torch.cuda.*",
        *(f"torch.cuda.Event.{name}" for name in ("record", "synchronize", "elapsed_time")),
        *(f"torch.cuda.Stream.{name}" for name in ("synchronize", "wait_stream")),
        "torch.accelerator.synchronize",
        "torch.addmm",
        "torch.mm",
        "torch.nn.attention.activate_flash_attention_impl",
        "torch.nn.attention.varlen.varlen_attn",
        "torch.use_deterministic_algorithms",
    ],
    "vllm": [
        *(f"{PACKED}.{name}" for name in (
            "packed_nccl_broadcast_producer", "packed_nccl_broadcast_consumer", "packed_ipc_producer",
            "packed_ipc_consumer", "PackedBufferImporter", "PackedBufferImporter.close", "PackedIpcChunk",
        )),
        f"{NCCL}.stateless_init_process_group",
        f"{PYNCCL}.destroy",
        "vllm.v1.engine.llm_engine.LLMEngine.sleep", "vllm.v1.engine.llm_engine.LLMEngine.wake_up",
        "vllm.engine.arg_utils.EngineArgs",
        "vllm.utils.torch_utils.current_stream",
    ],
}  # fmt: skip
IN_C = dict.fromkeys(
    ["torch.addmm", "torch.mm"], "torch/_C/_VariableFunctions.pyi"
)  # the declarations of what is written in C++

Read = Callable[[str], str | None]  # the text of a file of the wheel, None where there is none


def signatures(names: list[str], read: Read) -> dict[str, list[str]]:
    """The parameters of each name's definition; LookupError for one that has none."""
    found: dict[str, list[str]] = {}
    for name in names:
        if name.endswith(".*"):
            every = [f"{name[:-1]}{one}" for one in _public(name[:-2], read)]
            found |= {one: [_written(node) for node in nodes] for one in every if (nodes := _looked_up(one, read))}
        else:
            found[name] = _parameters(name, read)
    return found


def _public(module: str, read: Read) -> list[str]:
    text = next(filter(None, map(read, _files(module.split(".")))), "")
    (names,) = [
        node.value
        for node in ast.parse(text).body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    ]
    return sorted(ast.literal_eval(names))


def _parameters(name: str, read: Read) -> list[str]:
    if name in IN_C:
        found = _defined(ast.parse(read(IN_C[name]) or ""), name.rpartition(".")[2])
    else:
        found = _looked_up(name, read)
    if not found:
        raise LookupError(f"{name} is not defined")
    return [_written(node) for node in found]


def _looked_up(name: str, read: Read, further: int = 2) -> list[ast.stmt]:
    """Definitions in the longest prefix of the name that is a module, or where that imports it from."""
    parts = name.split(".")
    for end in range(len(parts) - 1, 0, -1):
        module, rest = parts[:end], parts[end:]
        text = next(filter(None, map(read, _files(module))), None)
        if text is None:
            continue
        tree = _parsed(text)
        found = _defined(tree, rest[0])
        for inner in rest[1:]:
            found = [one for node in found for one in _defined(node, inner)]
        if found:
            return found
        for source in _sources(tree, module, rest[0]) if further else ():
            if found := _looked_up(".".join([source, *rest]), read, further - 1):
                return found
        return []
    return []


@functools.cache
def _parsed(text: str) -> ast.Module:
    return ast.parse(text)


def _files(module: list[str]) -> list[str]:
    return ["/".join(module) + "/__init__.py", "/".join(module) + ".py"]


def _sources(tree: ast.Module, module: list[str], name: str) -> Iterator[str]:
    """Modules that `name` comes from, or may come from (star)."""
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and any(one.name in (name, "*") for one in node.names):
            base = module[: len(module) - node.level + 1] if node.level else []
            yield ".".join([*base, *([node.module] if node.module else [])])
        elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:  # name = submodule.name
            yield ".".join([*module, ast.unparse(node.value).rpartition(".")[0]])


def _defined(tree: ast.AST, name: str) -> list[ast.stmt]:
    """Definitions (overloads too) in the body of a module or class."""
    body: list[ast.stmt] = getattr(tree, "body", [])
    return [node for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name]


def _written(node: ast.stmt) -> str:
    """Parameters without annotations, each default as `...`; of a class those of its __init__, or its fields."""
    if isinstance(node, ast.ClassDef):
        made = [one for one in node.body if isinstance(one, ast.FunctionDef) and one.name == "__init__"]
        if not made:
            fields = [one for one in node.body if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name)]
            plain = [one for one in fields if "InitVar" not in ast.unparse(one.annotation)]
            return ", ".join(f"{ast.unparse(one.target)}{'' if one.value is None else '=...'}" for one in plain)
        node = made[0]
    assert isinstance(node, ast.FunctionDef)
    arguments = node.args
    positional = [*arguments.posonlyargs, *arguments.args]
    if positional and positional[0].arg in ("self", "cls"):
        positional = positional[1:]
    without = len(positional) - len(arguments.defaults)
    words = [one.arg + ("=..." if at >= without else "") for at, one in enumerate(positional)]
    if arguments.vararg:
        words.append(f"*{arguments.vararg.arg}")
    elif arguments.kwonlyargs:
        words.append("*")
    for one, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        words.append(one.arg + ("" if default is None else "=..."))
    if arguments.kwarg:
        words.append(f"**{arguments.kwarg.arg}")
    return ", ".join(words)


def wheel(path: Path) -> tuple[str, str, dict[str, list[str]]]:
    """Name, version and signatures of a wheel. SystemExit for one without CUDA."""
    with zipfile.ZipFile(path) as archive:
        files = set(archive.namelist())

        def read(name: str) -> str | None:
            return archive.read(name).decode() if name in files else None

        name, version = path.name.split("-")[:2]
        if name == "torch":
            text = read("torch/version.py") or ""
            version = re.findall(r"__version__ = '(.+)'", text)[0]
            if "cuda: Optional[str] = None" in text:
                sys.exit(f"{path.name} is a build without CUDA")
        return name, version, signatures(NAMES[name], read)


def installed(package: str) -> dict[str, list[str]]:
    """Signatures of the installed package, read by a process of its own: `ast.parse` of Python 3.11 may raise
    "SystemError: AST constructor recursion depth mismatch" where another thread of the process parses as well
    (python/cpython issue 106905), and torch's declarations are long."""
    command = [sys.executable, "-m", "tests.helpers.cuda_signatures", package]
    root = LIST.parent.parent
    done = subprocess.run(command, cwd=root, stdout=subprocess.PIPE, text=True, check=True, timeout=600)
    found: dict[str, list[str]] = json.loads(done.stdout)
    return found


def _installed(package: str) -> dict[str, list[str]]:
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        sys.exit(f"{package} is not installed")
    site = Path(found.origin).parent.parent

    def read(name: str) -> str | None:
        return (site / name).read_text() if (site / name).is_file() else None

    return signatures(NAMES[package], read)


def _as_lines(found: dict[str, dict[str, list[str]]]) -> str:
    """JSON with a line for each name."""
    parts = []
    for package, known in found.items():
        lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(forms)}" for name, forms in known.items())
        parts.append(f" {json.dumps(package)}: {{\n{lines}\n }}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def main(paths: list[str]) -> None:
    if len(paths) == 1 and paths[0] in NAMES:
        print(json.dumps(_installed(paths[0])))
        return
    found = {}
    for path in paths:
        name, version, known = wheel(Path(path))
        found[f"{name} {version}"] = known
    LIST.write_text(_as_lines(found))
    print(f"{LIST.name}: {', '.join(f'{len(known)} of {name}' for name, known in found.items())}")


if __name__ == "__main__":
    main(sys.argv[1:])
