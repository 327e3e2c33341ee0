"""The doctor: what it finds on this host, what dead processes leave, and a real Ray cluster of two nodes."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.commands.cli import main
from orchestrator.doctor import machine, rays
from orchestrator.doctor.access import access, data_fault, local, model_fault
from orchestrator.doctor.findings import Finding, within
from orchestrator.doctor.network import Receiver, default_address, interfaces, send
from orchestrator.doctor.software import different, driver, gpus
from rollout.base.network import free_ports
from tests.helpers.launched import Watched, thinkless
from tests.orchestrator.test_job import RAY

OPEN = {"RAY_AUTH_MODE": "disabled"}  # a token that this machine may have is nothing to these tests
OLD = 1_000_000_000.0  # seconds since the epoch: long before any test


@pytest.fixture
def called(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """`thinkless doctor --json` in this process: (exit code, its findings)."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> tuple[int, dict[str, Any]]:
        code = 0
        try:
            with pytest.raises(SystemExit) as ended:
                main(["doctor", "--json", *arguments])
            code = int(ended.value.code or 0)
        finally:
            seen = capsys.readouterr()
        return code, json.loads(seen.out)

    return call


def texts(found: Iterator[Finding], level: str) -> list[str]:
    return [one.text for one in found if one.level == level]


# ---------------------------------------------------------------- one host


def test_a_check_that_hangs_is_a_problem_and_the_next_goes_on() -> None:
    def hanging() -> Iterator[Finding]:
        yield Finding("seen")
        time.sleep(60)

    first, second = within(0.2, "the disk", hanging)
    assert (
        first.text == "seen"
        and second.level == "PROBLEM"
        and "checking the disk did not end within 0.2 s" in second.text
    )

    def failing() -> Iterator[Finding]:
        yield Finding("seen")
        raise KeyError("a fault of ours")

    with pytest.raises(KeyError):
        list(within(5.0, "it", failing))


def test_a_driver_is_compared_with_the_wheels() -> None:
    assert driver("13.0", "580.65.06").level == "ok"
    old = driver("13.0", "550.54.15")
    assert old.level == "PROBLEM" and "needs 580 or later" in old.text
    assert driver("12.8", "550.54.15").level == "ok" and driver("99.0", "900.1").level == "note"


def test_memory_that_others_hold_on_a_gpu_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'NVIDIA H100 80GB HBM3, 81559 MiB, 580.65.06, 40960 MiB'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    found = list(gpus())
    assert "GPU: NVIDIA H100 80GB HBM3, 81559 MiB, 580.65.06" in texts(iter(found), "ok")
    assert any("40.0 GiB of that GPU are in use" in text for text in texts(iter(found), "note"))


def test_versions_that_the_lock_does_not_have_are_named() -> None:
    lock = "torch==2.13.0+cpu \\\n    --hash=sha256:0\nvllm-cpu==0.32.0 \\\nhydra-core==1.3.8\n"
    assert different({"torch": "2.13.0+cpu", "vllm": "0.32.0+cpu", "hydra": "1.3.8"}, lock) == []
    assert different({"torch": "2.12.1", "numpy": "1.0"}, lock) == ["torch 2.13.0+cpu (installed: 2.12.1)"]


@pytest.mark.parametrize(
    ("soft", "hard", "level", "words"),
    [
        (1024, 2048, "PROBLEM", "raise the limit"),
        (1024, 1_048_576, "note", "ulimit -n 65536"),
        (20_000, 20_000, "note", "enough here"),
        (65_536, -1, "ok", "open files: 65,536 (at most no limit)"),
    ],
)
def test_limits_of_open_files(soft: int, hard: int, level: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.resource, "getrlimit", lambda which: (soft, hard))
    monkeypatch.setattr(machine, "processes", lambda: (500, "--pids-limit"))
    files, processes = machine.limits()
    assert files.level == level and words in files.text
    assert processes.level == "PROBLEM" and "500 processes" in processes.text and "--pids-limit" in processes.text


def test_dead_sessions_are_found_and_living_ones_are_not(tmp_path: Path) -> None:
    folder = tmp_path / "ray"
    names = [f"session_2026-01-0{n}_00-00-00_000000_{n}" for n in (1, 2, 3)]
    for name in names:
        (folder / name / "logs").mkdir(parents=True)
        (folder / name / "logs" / "gcs.out").write_bytes(b"x" * 100_000)
    (folder / "session_latest").symlink_to(folder / names[1])
    for name in names[:2]:
        os.utime(folder / name, (OLD, OLD))
    with pytest.MonkeyPatch.context() as patched:  # the second one's raylet lives
        patched.setattr(rays, "_command_lines", lambda: iter([f"raylet --session-name={names[1]}"]))
        assert rays.dead_sessions(folder) == [folder / names[0]]
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("RAY_TMPDIR", str(tmp_path))
        (note,) = [text for text in texts(rays.leftovers(), "note") if "session(s)" in text]
    assert "2 session(s) of Rays that have ended" in note and f"rm -r {folder / names[0]}" in note
    assert names[2] not in note  # just made: it may be starting


def test_segments_that_somebody_holds_are_not_dead(tmp_path: Path) -> None:
    dead, opened = tmp_path / "psm_dead", tmp_path / "psm_opened"
    for path in (dead, opened):
        path.write_bytes(b"x" * 2**21)
        os.utime(path, (OLD, OLD))
    (tmp_path / "psm_new").write_bytes(b"x" * 2**21)
    with opened.open("rb"):
        assert [path for path, _ in rays.dead_segments(tmp_path)] == [dead]
    assert {path for path, _ in rays.dead_segments(tmp_path)} == {dead, opened}


def test_the_interface_is_chosen_as_runs_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NCCL_SOCKET_IFNAME", raising=False)
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    (first, *_) = interfaces("lo")
    assert first.level == "ok" and "takes lo (127.0.0.1), as cluster.network_interface says" in first.text
    (wrong,) = texts(interfaces("eth77"), "PROBLEM")
    assert (
        wrong.startswith("cluster.network_interface=eth77: this host has no such interface")
        and "lo (127.0.0.1)" in wrong
    )
    (chosen, *_) = interfaces(None)
    assert "default route" in chosen.text or chosen.level == "note"
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", "=ib9")
    assert any("NCCL_SOCKET_IFNAME==ib9: this host has no such" in text for text in texts(interfaces("lo"), "PROBLEM"))


def test_a_connection_is_measured_or_refused() -> None:
    assert send("127.0.0.1", Receiver("127.0.0.1").port, 4) > 0
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        with pytest.raises(OSError):
            send("127.0.0.1", nobody.getsockname()[1], 1)


def test_model_and_data_that_cannot_be_read_say_why(tmp_path: Path) -> None:
    model = tmp_path / "model"
    assert model_fault(str(model)) == "there is no such folder"
    model.mkdir()
    assert "config.json" in (model_fault(str(model)) or "")
    (model / "config.json").write_text("{}")
    assert "no weights" in (model_fault(str(model)) or "")
    (model / "model.safetensors").write_bytes(b"0")
    assert model_fault(str(model)) is None
    (model / "more.safetensors").symlink_to(tmp_path / "gone")
    assert model_fault(str(model)) == "more.safetensors cannot be read"
    assert data_fault(str(tmp_path / "*.jsonl")) == "there is no such file"
    (tmp_path / "rows.jsonl").write_text("{}\n")
    assert data_fault(str(tmp_path / "*.jsonl")) is None
    (tmp_path / "empty").mkdir()
    assert data_fault(str(tmp_path / "empty")) == "it holds no file"
    assert local("data/rows.jsonl") and not local("openai/gsm8k") and not local("s3://bucket/rows.jsonl")
    assert [one.level for one in access("openai/gsm8k", str(tmp_path / "rows.jsonl"))] == ["note", "ok"]


def test_the_command_is_quick_json_and_fails_for_problems_alone(
    called: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    code, found = called()
    assert code == 0 and found["problems"] == 0
    areas = {one["area"] for one in found["findings"]}
    assert {"packages", "limits", "clock", "GPUs", "leftovers", "network", "loopback"} <= areas
    assert {one["level"] for one in found["findings"]} <= {"ok", "note"}
    code, found = called(f"model.path={tmp_path / 'nothing'}")
    (one,) = [one for one in found["findings"] if one["level"] == "PROBLEM"]
    assert code == 1 and found["problems"] == 1 and "there is no such folder" in one["text"]


# ---------------------------------------------------------------- two nodes of a real Ray


@pytest.fixture(scope="module")
def two_nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A head and a second node on this host; the head's address."""
    port, dashboard, client, agent, other = free_ports(5, "127.0.0.1")
    short = Path("/tmp") if os.path.isdir("/tmp") else tmp_path_factory.mktemp("ray")
    temporary = short / f"rd-{os.getpid()}"
    common = ["--block", "--object-store-memory=80000000", "--disable-usage-stats", "--num-cpus=1"]
    head = [
        "start", "--head", f"--port={port}", f"--dashboard-port={dashboard}", f"--ray-client-server-port={client}",
        f"--dashboard-agent-listen-port={agent}", f"--temp-dir={temporary}", "--include-dashboard=false", *common,
    ]  # fmt: skip
    folder = tmp_path_factory.mktemp("nodes")
    started = [Watched(head, folder, environment=OPEN, program=[RAY], outlives_tests=True)]
    try:
        started[0].until(lambda: "Ray runtime started" in started[0].out, "the head is up")
        address = f"{default_address() or '127.0.0.1'}:{port}"
        joining = ["start", f"--address={address}", f"--dashboard-agent-listen-port={other}", *common]
        started.append(Watched(joining, folder, environment=OPEN, program=[RAY], outlives_tests=True))
        started[1].until(lambda: "Ray runtime started" in started[1].out, "the second node is up")
        yield address
    finally:
        for one in reversed(started):
            one.kill()


def asked(folder: Path, environment: dict[str, str], *arguments: str) -> tuple[int | None, list[dict[str, str]]]:
    """(exit code, what it found of the cluster)."""
    done = thinkless("doctor", "--json", *arguments, folder=folder, environment={**OPEN, **environment})
    return done.returncode, [one for one in json.loads(done.out)["findings"] if one["area"] == "cluster"]


@pytest.mark.heavy
def test_every_node_of_a_cluster_is_asked_and_measured(two_nodes: str, tiny_model: Path, tmp_path: Path) -> None:
    script = tmp_path / "leaves_an_actor.py"  # of a driver that has ended
    script.write_text(
        "import ray\n"
        f"ray.init({two_nodes!r})\n"
        "class Forgotten:\n    def ready(self): pass\n"
        "actor = ray.remote(Forgotten).options(lifetime='detached', num_cpus=0).remote()\n"
        "ray.get(actor.ready.remote())\n"
    )
    left = subprocess.run([sys.executable, str(script)], env={**os.environ, **OPEN}, capture_output=True, timeout=300)
    assert left.returncode == 0, left.stderr
    code, found = asked(tmp_path, {}, "--address", two_nodes, f"model.path={tiny_model}")
    lines = [one["text"] for one in found]
    assert code == 0, lines
    assert any("the cluster has 2 node(s), 2 CPUs" in line for line in lines)
    assert sum("traffic between hosts takes" in line for line in lines) == 2
    for words in (
        "1 actor(s) of runs that have ended are alive (Forgotten)", "can be read on every node",
        "clocks differ by at most", "TCP between nodes:", "gloo between 2 processes: an all-reduce",
    ):  # fmt: skip
        assert any(words in line for line in lines), (words, lines)


@pytest.mark.heavy
def test_what_is_wrong_on_a_node_is_a_problem_with_its_remedy(two_nodes: str, tmp_path: Path) -> None:
    code, found = asked(tmp_path, {"RAY_ADDRESS": two_nodes}, "cluster.network_interface=eth77")
    wrong = [one["text"] for one in found if one["level"] == "PROBLEM"]
    assert code == 1 and len(wrong) == 2
    assert all("cluster.network_interface=eth77" in line and "no actor of ours starts there" in line for line in wrong)


def test_the_documented_ports_of_a_second_head_are_free_of_rays_own() -> None:
    """Ray's workers take those from 10002 to 19999, and refuse a head whose ports lie there."""
    from ray._private.parameter import RayParams

    documented = (Path(__file__).parents[2] / "docs" / "cluster.md").read_text()
    (command,) = re.findall(r"ray start --head (--port=\d+ --dashboard-port.*)", documented)
    ports: dict[str, Any] = {
        name.replace("-", "_"): int(port) for name, port in re.findall(r"--([a-z-]+)=(\d+)", command)
    }
    ports |= {"min_worker_port": 10002, "max_worker_port": 19999}
    RayParams(gcs_server_port=ports.pop("port"), **ports).update_pre_selected_port()
