"""The images and the cluster of containers: linted, and steps that `.ci/clean_root.py` can carry out."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from conf.check import check
from conf.compose import composed
from tests.helpers.scripts import script

ROOT = Path(__file__).parents[1]
DOCKERFILES = ["docker/Dockerfile", "docker/Dockerfile.gpu"]


@pytest.fixture(scope="module")
def clean_root() -> Any:
    return script(".ci/clean_root.py")


@pytest.mark.parametrize("file", DOCKERFILES)
def test_dockerfiles_are_linted(file: str) -> None:
    linter = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([linter, ROOT / file], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr


@pytest.mark.parametrize("file", DOCKERFILES)
def test_every_step_can_be_carried_out_in_a_clean_root(clean_root: Any, file: str) -> None:
    steps, stages = clean_root.instructions((ROOT / file).read_text()), set()
    context = {str(path) for path in clean_root.context()}
    for name, arguments in steps:
        if name == "FROM":
            image, _, alias = arguments.partition(" AS ")
            assert image in stages or image in clean_root.BASES
            stages.add(alias)
        elif name == "COPY":
            options, rest = clean_root.flags(arguments)
            if options:
                assert options[0][0] == "from" and options[0][1] in stages
            else:
                assert {source for source in rest.split()[:-1] if source != "."} <= context
    assert ("USER", "1001") in steps


def test_an_image_has_the_packages_and_nothing_else(clean_root: Any) -> None:
    context = [str(path) for path in clean_root.context()]
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    packages = ("conf/", "learner/", "orchestrator/", "reward/", "rollout/")
    assert {path for path in tracked if path.startswith(packages)} <= {*context}
    top = {path.partition("/")[0] for path in context} - {package[:-1] for package in packages}
    locks = {"requirements-cpu.lock", "requirements-gpu.lock"}
    assert top == {".ci", "LICENSE", "README.md", "pyproject.toml", *locks}
    assert not [path for path in context if path.endswith(".pyc")]


def test_an_unknown_instruction_stops_with_its_line(clean_root: Any) -> None:
    with pytest.raises(ValueError, match="not known here: ARG version=1"):
        clean_root.instructions("FROM debian\nARG version=1\n")


def test_lines_that_are_continued_are_one_step(clean_root: Any) -> None:
    text = "# first\nFROM debian AS one\nRUN --mount=type=cache,target=/x a \\\n    # why\n    && b\n"
    steps = clean_root.instructions(text)
    assert steps == [("FROM", "debian AS one"), ("RUN", "--mount=type=cache,target=/x a && b")]
    assert clean_root.flags(steps[1][1]) == ([("mount", "type=cache,target=/x")], "a && b")


def test_compose_follows_its_schema() -> None:
    linter = Path(sys.executable).with_name("check-jsonschema")
    command = [str(linter), "--builtin-schema", "vendor.compose-spec", str(ROOT / "docker" / "compose.yaml")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_compose_names_files_that_exist() -> None:
    services = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text())["services"]
    mounted = [volume for service in services.values() for volume in service["volumes"] if volume.startswith(".")]
    assert len(mounted) > 3 and all((ROOT / "docker" / volume.partition(":")[0]).exists() for volume in mounted)
    for service in ("head", "worker"):
        assert (ROOT / services[service]["build"]["dockerfile"]).is_file()


# ---- Kubernetes and Slurm ----

CLUSTER = {"rayVersion", "headGroupSpec", "workerGroupSpecs"}
JOB = {"entrypoint", "submissionMode", "backoffLimit", "shutdownAfterJobFinishes", "ttlSecondsAfterFinished"}
GROUP = {"groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template"}  # of workers


def manifests(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((ROOT / "docker" / "kuberay" / name).read_text()))


def test_manifests_have_kuberays_fields_and_the_locks_ray() -> None:
    """Names as in the reference of KubeRay's API, ray.io/v1; what pods mount is among their volumes."""
    claim, cluster = manifests("raycluster.yaml")
    (job,) = manifests("rayjob.yaml")
    assert {cluster["apiVersion"], job["apiVersion"]} == {"ray.io/v1"}
    assert (cluster["kind"], job["kind"]) == ("RayCluster", "RayJob") and claim["kind"] == "PersistentVolumeClaim"
    inner = job["spec"].pop("rayClusterSpec")
    assert job["spec"].keys() == JOB and job["spec"]["submissionMode"] in ("K8sJobMode", "HTTPMode")
    assert cluster["spec"].keys() == CLUSTER and inner.keys() <= CLUSTER
    (version,) = re.findall(r"^ray==(\S+)", (ROOT / "requirements-gpu.lock").read_text(), re.M)
    for spec in (cluster["spec"], inner):
        assert spec["rayVersion"] == version and spec["headGroupSpec"].keys() <= {"rayStartParams", "template"}
        workers = spec.get("workerGroupSpecs", [])
        assert all(group.keys() == GROUP for group in workers)
        for group in (spec["headGroupSpec"], *workers):
            assert all(isinstance(value, str) for value in group["rayStartParams"].values())
            pod = group["template"]["spec"]
            (container,) = pod["containers"]
            volumes = {volume["name"]: volume for volume in pod["volumes"]}
            assert {mount["name"] for mount in container["volumeMounts"]} == volumes.keys()
            assert volumes["runs"]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
            assert container["resources"]["requests"] == container["resources"]["limits"]


def test_the_manifests_commands_can_run() -> None:
    """Their settings fit together, and the pods have the GPUs that the preset takes."""
    entry = manifests("rayjob.yaml")[0]["spec"]["entrypoint"]
    assert subprocess.run(["sh", "-nc", shlex.split(entry)[2]]).returncode == 0
    (words,) = re.findall(r"thinkless train (experiment=[^;]*);", entry)
    conf = composed(words.split())
    check(conf, "train")
    assert conf.run.name is not None and f"resume={conf.run.root}/{conf.run.name};" in entry


def test_the_slurm_script_is_linted() -> None:
    linter = Path(sys.executable).with_name("shellcheck")
    done = subprocess.run([linter, ROOT / "docker" / "slurm" / "train.sbatch"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, ""), done.stdout
