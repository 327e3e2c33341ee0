"""The packages: which may import which, where heavy libraries are imported, and which modules stay light."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = (
    "conf",
    "rollout",
    "reward",
    "learner",
    "orchestrator",
)  # a file imports its own package and those to its left
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
NAMES = [str(path.relative_to(ROOT)) for path in FILES]

IMPORTERS = {
    "vllm": {
        "rollout/engine.py",
        "rollout/reasoning_parser.py",
        "rollout/vllm_models.py",
        "rollout/vllm_rotary.py",
        "rollout/vllm_steering.py",
        "rollout/weight_sync/vllm_receiver.py",
        "rollout/weight_sync/transport.py",
        "rollout/weight_sync/broadcast_group.py",
    },
    "sympy": {"reward/maths/compare/symbolic.py", "reward/maths/equivalence.py"},
    "deepspeed": {"learner/engine.py"},
    "peft": {"learner/model/lora.py"},
    "ray": {
        "orchestrator/cluster/ray_connection.py",
        "orchestrator/cluster/actors.py",
        "orchestrator/cluster/handles.py",
        "orchestrator/cluster/latest_weights.py",
        "orchestrator/cluster/network.py",
        "orchestrator/doctor/cluster.py",
        "orchestrator/jobs/client.py",
        "orchestrator/jobs/keys.py",
        "orchestrator/tracking/sinks/prometheus.py",
    },
    "tensorboard": {"orchestrator/tracking/sinks/tensorboard.py"},
    "wandb": {"orchestrator/tracking/sinks/wandb.py"},
    "mlflow": {"orchestrator/tracking/sinks/mlflow.py"},
    "openai": {"orchestrator/chat/session.py", "orchestrator/distill/endpoint.py"},
    "hydra": {"conf/compose.py", "conf/multirun.py", "conf/overrides.py"},
    "omegaconf": {"conf/compose.py", "conf/multirun.py"},
}

LIGHT = [
    "conf.schema",
    "conf.check",
    "conf.help",
    "orchestrator.commands.cli",
    "rollout.base.load_function",
    "rollout.mode",
    "rollout.prompt",
    "rollout.trajectory",
    "rollout.weight_sync.weights",
    "rollout.weight_sync.handshake",
    "rollout.data.stream",
    "rollout.data.problems",
    "rollout.data.dataset_rows",
    "rollout.data.files",
    "rollout.data.addresses",
    "rollout.data.layouts",
    "rollout.data.golds",
    "rollout.data.arithmetic",
    "rollout.data.pairs",
    "rollout.data.tokens",
    "rollout.sampler",
    "rollout.base.spans",
    "rollout.worker",
    "rollout.mailbox",
    "rollout.scheduler",
    "rollout.convert",
    "rollout.engine",
    "rollout.base.gpu_sharing",
    "reward.maths",
    "reward.verdict",
    "reward.group",
    "reward.reward_function",
    "reward.custom",
    "reward.grade",
    "reward.pool",
    "reward.statistics",
    "reward.worker",
    "learner.advantage",
    "learner.data.batch",
    "learner.data.pack",
    "learner.data.flops",
    "learner.metrics.efficiency",
    "learner.metrics.memory",
    "learner.metrics.memory_plan",
    "learner.objective",
    "learner.schedule",
    "learner.metrics.report",
    "learner.loss.degrpo",
    "learner.loss.dr_grpo",
    "learner.loss.grpo",
    "learner.loss.sft",
    "learner.learner",
    "orchestrator.tracking.utilization",
    "orchestrator.tracking.chrome_trace",
    "orchestrator.tracking.timeline",
    "orchestrator.tracking.metrics",
    "orchestrator.tracking.rules",
    "orchestrator.cluster.placement",
    "orchestrator.plan.estimate",
    "orchestrator.plan.simulation",
    "orchestrator.training.batch_queue",
    "orchestrator.training.dynamic_sampling",
    "orchestrator.replay.step_format",
    "orchestrator.replay.recorder",
    "orchestrator.replay.compare",
    "orchestrator.tracking.summary",
    "orchestrator.distill.likeness",
    "orchestrator.distill.choose",
    "orchestrator.distill.answers",
    "orchestrator.tracking.console",
    "orchestrator.base.errors",
    "orchestrator.training.logprob_check",
    "orchestrator.base.interrupt",
    "orchestrator.base.waiting",
    "orchestrator.base.lock",
    "orchestrator.cluster.local_rays",
    "orchestrator.commands.doctor",
    "orchestrator.doctor.probe",
    "orchestrator.jobs.working_dir",
    "orchestrator.jobs.progress",
    "orchestrator.jobs.install",
    "orchestrator.report",
    "orchestrator.commands.verify",
]
HEAVY = ("torch", "vllm", "ray", "deepspeed", "transformers", "tokenizers", "datasets", "pyarrow", "hydra", "sympy")

LONGEST = 350  # lines of a file


def imports(path: Path) -> list[tuple[int, str]]:
    """(line, absolute module) of every import statement anywhere in the file, those for type checkers included."""
    found = []
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (base, node.module) if part)
            found += [(node.lineno, f"{module}.{alias.name}") for alias in node.names]
    return found


def test_every_package_has_files() -> None:
    assert len(FILES) > 50 and {name.split("/")[0] for name in NAMES} == set(PACKAGES)


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_imports_follow_the_packages_order(path: Path) -> None:
    package = PACKAGES.index(path.relative_to(ROOT).parts[0])
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {module}"
        for line, module in imports(path)
        if module.split(".")[0] in (*PACKAGES[package + 1 :], "tests", "benchmarks")
    ]
    assert not wrong, wrong


def test_the_maths_library_imports_nothing_from_the_rest_of_the_project() -> None:
    files = [path for path in FILES if path.is_relative_to(ROOT / "reward" / "maths")]
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {module}"
        for path in files
        for line, module in imports(path)
        if module.split(".")[0] not in (*sys.stdlib_module_names, "mpmath", "sympy")
        and not module.startswith("reward.maths.")
    ]
    assert files and not wrong, wrong


def module(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def test_there_is_no_import_cycle() -> None:
    """Between files, imports inside functions included."""
    modules = {module(path) for path in FILES}
    graph = {}
    for path in FILES:
        names = [name for _, name in imports(path)]  # "package.file.function" or "package.file"
        graph[module(path)] = {n if n in modules else n.rpartition(".")[0] for n in names} & modules - {module(path)}
    while ends := [name for name, imported in graph.items() if not imported]:  # files that import no file left
        for name in ends:
            del graph[name]
        for imported in graph.values():
            imported -= set(ends)
    assert not graph, f"in circles, or importing one: {graph}"


@pytest.mark.parametrize("library", IMPORTERS)
def test_heavy_libraries_are_imported_only_in_the_named_files(library: str) -> None:
    users = {
        str(path.relative_to(ROOT))
        for path in FILES
        if any(module.split(".")[0] == library for _, module in imports(path))
    }
    assert users <= IMPORTERS[library], f"{library} is imported in {sorted(users - IMPORTERS[library])}"
    assert users, f"nothing imports {library}: remove it from this table"


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_every_module_has_a_docstring(path: Path) -> None:
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert docstring and len(docstring) > 30


def test_light_modules_import_no_heavy_library() -> None:
    """In a fresh process; one import after the other, so that the first offender is named."""
    script = (
        "import importlib, sys\n"
        f"for name in {LIGHT!r}:\n"
        "    importlib.import_module(name)\n"
        f"    loaded = [heavy for heavy in {HEAVY!r} if heavy in sys.modules]\n"
        "    assert not loaded, f'{name} loads {loaded}'\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]


def test_no_file_is_too_long() -> None:
    lines = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in zip(NAMES, FILES, strict=True)}
    longer = {name: count for name, count in lines.items() if count > LONGEST}
    assert not longer, f"longer than {LONGEST} lines: {longer}"


def tracked() -> list[Path]:
    """The repository's text files, as git knows them (or, outside a checkout, those of the folders that matter)."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True)
    if listed.returncode == 0:
        return [ROOT / name for name in listed.stdout.decode().split("\0") if name and (ROOT / name).is_file()]
    return [*FILES, *(ROOT / "tests").rglob("*.py"), ROOT / "pyproject.toml", ROOT / "Makefile"]


def test_no_file_names_a_path_of_one_machine() -> None:
    """Home folders and scratch folders of whoever wrote it work nowhere else."""
    machine = re.compile(r"/(?:work|home/\w+|root|Users/\w+|tmp/(?!ray/)\w+)/[\w.]")  # /tmp/ray: Ray's on every one
    found = []
    for path in tracked():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        if path.suffix in (".jsonl", ".html", ".js") or path == Path(__file__):
            continue
        found += [
            f"{path.relative_to(ROOT)}:{n}" for n, line in enumerate(text.splitlines(), 1) if machine.search(line)
        ]
    assert not found, found
