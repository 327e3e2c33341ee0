"""Used as a Ray job: `ray job submit --working-dir . -- python3 -m orchestrator.train` against a real head.

The head is started as another user of the machine would: its PATH leads to the system's Python, not to the project's
environment, and it has two CPUs.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from orchestrator.commands import interpreter
from orchestrator.dashboards.files import Places
from orchestrator.dashboards.prometheus import DISCOVERY
from orchestrator.tracking.chrome_trace import read as read_trace
from orchestrator.training import run_root
from tests.helpers.launched import Watched
from tests.helpers.programs import program
from tests.helpers.prometheus import scraping
from tests.helpers.runs import checkpoints, records, steps

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
RAY = str(BIN / "ray")
NOTE = Path(".cache") / "thinkless" / "interpreter"  # below the home folder: what `make setup` writes


def free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Watched, str]]:
    """A head in the foreground, so that ending it ends all of it; and the address that takes jobs."""
    port, dashboard, client, agent = free_ports(4)
    temporary = tempfile.mkdtemp(prefix="ray-", dir="/tmp" if os.path.isdir("/tmp") else None)  # sockets: short paths
    path = os.pathsep.join(p for p in os.environ["PATH"].split(os.pathsep) if Path(p) != BIN and ".venv" not in p)
    arguments = [
        "start", "--head", "--block", "--num-cpus=2", f"--port={port}", f"--dashboard-port={dashboard}",
        f"--ray-client-server-port={client}", f"--dashboard-agent-listen-port={agent}", f"--temp-dir={temporary}",
        "--object-store-memory=200000000", "--disable-usage-stats", "--include-dashboard=true",
    ]  # fmt: skip
    home = tmp_path_factory.mktemp("home")
    (home / NOTE).parent.mkdir(parents=True)
    (home / NOTE).write_text(sys.executable + "\n")
    link = Path(temporary) / "env"  # Ray's own workers do not come up under a path with a space (docs/install.md)
    link.symlink_to(sys.prefix)
    run = Watched(
        arguments,
        tmp_path_factory.mktemp("head"),
        {"PATH": path, "HOME": str(home), "XDG_CACHE_HOME": str(home / ".cache"), "RAY_JOB_STOP_WAIT_TIME_S": "300"},
        program=[str(link / "bin" / "python"), "-m", "ray.scripts.scripts"],
        outlives_tests=True,
    )
    try:
        address = f"http://127.0.0.1:{dashboard}"
        run.until(lambda: _answers(dashboard) and "Ray runtime started" in run.out, "the head is up")
        yield run, address
    finally:
        run.kill()
        there = run.left()
        shutil.rmtree(temporary, ignore_errors=True)
        assert not there, there


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


@dataclass(frozen=True)
class Stopped:
    """A job that was stopped, and one that went on from the last checkpoint but one, as if the newest were lost."""

    folder: Path  # of the run
    first: Watched
    before: list[dict[str, Any]]  # records of the first job
    checkpoints: list[int]  # that it left
    again: Watched
    left: list[list[int]]  # samplers and learner ranks that were there after each of the two


@pytest.fixture(scope="module")
def job(head: tuple[Watched, str], tiny: list[str], tmp_path_factory: pytest.TempPathFactory) -> Stopped:
    """Submitted from the checkout; whichever `python3` the head finds, the actors run the project's."""
    (run, address), where = head, tmp_path_factory.mktemp("job")
    folder, left = where / "runs" / "job", []
    entry = ["python3", "-m", "orchestrator.train", *tiny, "run.steps=100000", f"run.root={where / 'runs'}"]
    entry += ["run.name=job", "run.save_every=1", "evaluate.questions=8", "validation.size=8"]
    entry[entry.index("evaluate.every=0")] = "evaluate.every=2"
    submit = ["job", "submit", f"--address={address}", "--working-dir", str(ROOT)]
    first = Watched([*submit, "--submission-id=first", "--", *entry], where / "first", program=[RAY])
    first.until(lambda: len(steps(folder)) >= 2, "some steps")
    stop = Watched(["job", "stop", f"--address={address}", "first"], where / "stop", program=[RAY])
    assert stop.wait().returncode == 0, stop.out + stop.err
    first.wait()
    left.append(run.titled("ray::RolloutWorker") + run.titled("ray::LearnerWorker"))
    before, saved = records(folder), checkpoints(folder)

    shutil.rmtree(folder / "checkpoints" / f"step_{saved[-1]:06d}")
    entry = ["python3", "-m", "orchestrator.train", f"resume={folder}", f"run.steps={saved[-1] + 1}"]
    again = Watched([*submit, "--", *entry], where / "again", program=[RAY]).wait()
    left.append(run.titled("ray::RolloutWorker") + run.titled("ray::LearnerWorker"))
    assert again.returncode == 0, again.out[-6000:] + again.err[-3000:]
    return Stopped(folder, first, before, saved, again, left)


def test_a_stopped_job_saves_its_steps(job: Stopped) -> None:
    """`ray job stop` sends SIGTERM: its steps are saved, and the command to resume is printed, before Ray kills it."""
    done = len(job.before)
    assert job.checkpoints == [done - 1, done]
    assert f"the checkpoint of step {done} is saved; to go on from it: " in job.first.out, job.first.out[-6000:]
    assert f"train resume={job.folder}" in job.first.out and f"report: {job.folder / 'report.html'}" in job.first.out


def test_a_job_frees_its_resources(job: Stopped) -> None:
    assert job.left == [[], []]


# ---- going on ----

SAME = ["reward/mean", "loss/total", "loss/control", "tokens/mean", "think_rate/all", "grad_norm", "kl", "entropy"]


def test_a_resumed_run_has_each_step_once(job: Stopped) -> None:
    done = len(job.before)
    assert f"going on from step {done - 1}" in job.again.out
    assert steps(job.folder) == [*range(1, done + 2)]
    rows = [json.loads(line) for line in (job.folder / "metrics.jsonl").read_text().splitlines()]
    validated = [row["step"] for row in rows if "seconds/step" not in row]
    assert validated == [*range(0, done + 2, 2)]
    headers = [line for line in (job.folder / "samples.txt").read_text().splitlines() if line.startswith("--- step")]
    counts = Counter(int(header.split()[2].rstrip(",")) for header in headers)
    counts.pop(0, None)  # of the model that training begins with
    assert counts == dict.fromkeys(range(1, done + 2), 2)


def test_a_resumed_run_appends_to_the_same_timeline(job: Stopped) -> None:
    """With the time of the step that was lost, which it took as well."""
    found, done = read_trace(job.folder / "timeline.json"), len(job.before)
    assert found is not None
    assert [step for step, _, _ in found.steps] == [*range(1, done + 1), done, done + 1]


def test_a_repeated_step_has_the_same_figures(job: Stopped) -> None:
    """A step done twice: the same prompts, seeds, weights and optimizer state give the same figures. (Several steps, to
    the last bit: test_faults.)"""
    before, again = job.before[-1], records(job.folder)[len(job.before) - 1]
    assert before["step"] == again["step"] and "reward/mean" in before
    for key in SAME:
        assert again.get(key) == pytest.approx(before.get(key), rel=1e-5, abs=1e-6), key


def test_a_resumed_run_continues_with_the_next_prompts(job: Stopped) -> None:
    last = len(job.before) + 1
    state = json.loads((job.folder / "checkpoints" / f"step_{last:06d}" / "state.json").read_text())
    assert state["step"] == last and state["prompts"]["position"] == 4 * last
    assert len(json.loads((job.folder / "provenance.json").read_text())["sessions"]) == 2
    names = {path.name for path in job.folder.iterdir()}
    assert names >= {"config.yaml", "provenance.json", "samples.txt", "checkpoints", "best", "model", "report.html"}
    assert (job.folder / "model" / "config.json").is_file() and f"run folder: {job.folder}" in job.again.out


# ---- a job that fails ----


def test_a_job_that_fails_says_why(head: tuple[Watched, str], tmp_path: Path) -> None:
    _, address = head
    entry = ["python3", "-m", "orchestrator.train", "experiment=quikstart"]
    job = Watched(
        ["job", "submit", f"--address={address}", "--working-dir", str(ROOT), "--", *entry], tmp_path, program=[RAY]
    )
    assert job.wait().returncode != 0
    assert "thinkless: unknown experiment 'quikstart'; did you mean experiment=quickstart?" in job.out + job.err


# ---- where a job writes, and what runs it ----


def test_inside_a_job_a_relative_root_is_in_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job's working directory is Ray's and goes away with it."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)
    assert run_root.root("runs") == tmp_path / "runs"
    assert run_root.root("~/runs") == tmp_path / "home" / "runs"
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    assert run_root.root("runs") == tmp_path / "home" / "thinkless" / "runs"
    assert run_root.root(str(tmp_path / "abs")) == tmp_path / "abs"


def python(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A Python that has none of the packages: this one, without its site-packages."""
    return subprocess.run(
        [sys.executable, "-S", "-E", *arguments],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_a_foreign_python_hands_over_to_the_projects_own(tmp_path: Path) -> None:
    stand_in = tmp_path / "python"
    stand_in.write_text('#!/bin/sh\necho "ran: $@"\n')
    stand_in.chmod(0o755)
    code = "import sys; sys.path.insert(0, '.'); sys.argv = ['x', 'a=1', 'b=x y']; "
    code += "from orchestrator.commands.interpreter import ensure_interpreter; ensure_interpreter('orchestrator.train')"
    done = python("-c", code, THINKLESS_PYTHON=str(stand_in), HOME=str(tmp_path))
    assert (done.returncode, done.stdout) == (0, "ran: -m orchestrator.train a=1 b=x y\n"), done.stderr


def test_candidates_are_the_configured_own_and_recorded_interpreters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THINKLESS_PYTHON", "/configured")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "thinkless").mkdir()
    (tmp_path / "thinkless" / "interpreter").write_text("/recorded\n")
    assert interpreter.candidates() == ["/configured", str(ROOT / ".venv/bin/python"), "/recorded"]
    monkeypatch.delenv("THINKLESS_PYTHON")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "none"))
    assert interpreter.candidates() == [str(ROOT / ".venv/bin/python")]


def test_without_a_suitable_python_the_error_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interpreter, "NEEDED", ("no_such_package",))
    monkeypatch.setattr(interpreter, "candidates", lambda: [sys.executable, str(tmp_path / "gone")])
    with pytest.raises(SystemExit) as ended:
        interpreter.ensure_interpreter("orchestrator.train")
    message = str(ended.value.code)
    assert message.startswith("thinkless: ") and "no_such_package" in message and "make setup" in message
    assert "\n" not in message


@pytest.mark.heavy
def test_the_projects_python_is_kept() -> None:
    interpreter.ensure_interpreter("orchestrator.train")  # returns


# ---- its figures ----


def test_prometheus_finds_the_nodes_of_a_head(head: tuple[Watched, str], tmp_path: Path) -> None:
    """By the file in Ray's temporary folder, and by the address where the head serves the same; both hold for the
    configuration that `thinkless dashboards` writes. Beside it Ray writes the dashboards of its Metrics tab."""
    (run, address), path = head, program("prometheus")
    temporary = Path(next(one for one in run.arguments if one.startswith("--temp-dir=")).partition("=")[2])
    discoveries = [str(temporary / Path(DISCOVERY).name), f"{address}/api/prometheus/sd"]
    for number, discovery in enumerate(discoveries):
        folder = tmp_path / str(number)
        folder.mkdir()
        (port,) = free_ports(1)
        with scraping(path, folder, port, discovery) as prometheus:
            assert prometheus is not None
            query = functools.partial(prometheus.query, 'up{job="ray"} == 1')
            run.until(query, "Prometheus scrapes the head")
    rays = temporary / Path(Places().ray_folder).relative_to(Path(DISCOVERY).parent)
    assert any(rays.glob("*.json"))
