"""Used as a Ray job: `ray job submit --working-dir . -- python3 -m orchestrator.train` against a real head.

The head is started as another user of the machine would: its PATH leads to the system's Python, not to the project's
environment, and it has two CPUs.
"""

from __future__ import annotations

import functools
import json
import os
import re
import secrets
import shutil
import signal
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
import requests

from benchmarks._distill.chat_server import ChatServer, serving
from orchestrator.base import source
from orchestrator.base.errors import RunError
from orchestrator.base.lock import holder
from orchestrator.commands import interpreter
from orchestrator.dashboards.files import Places
from orchestrator.dashboards.prometheus import DISCOVERY
from orchestrator.jobs.client import Client, connect
from orchestrator.jobs.job import HeadGone, NameTaken
from orchestrator.sweeps.members import finished
from orchestrator.sweeps.state import load
from orchestrator.tracking.chrome_trace import read as read_trace
from orchestrator.training import run_dir, run_root
from rollout.base.errors import BadInput
from rollout.base.network import free_ports
from tests.helpers.launched import Watched, one_line_error, thinkless
from tests.helpers.programs import program
from tests.helpers.prometheus import scraping
from tests.helpers.runs import checkpoints, read_lines, records, steps

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
RAY = str(BIN / "ray")
TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0123456789abcdef0123456789abcdef"}
NOTE = Path(".cache") / "thinkless" / "interpreter"  # below the home folder: what `make setup` writes


@dataclass(frozen=True)
class Head:
    run: Watched
    address: str  # that takes jobs
    gcs: str  # of the head itself, which nodes and drivers join
    home: Path  # of its user, with Ray's token

    def ask(self, what: str) -> list[dict[str, Any]]:
        """Ray's state: "actors", "placement_groups"."""
        answer = requests.get(
            f"{self.address}/api/v0/{what}",
            headers={"Authorization": f"Bearer {TOKEN['RAY_AUTH_TOKEN']}"},
            timeout=60,
        )
        found: list[dict[str, Any]] = answer.json()["data"]["result"]["result"]
        return found


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    """A head in the foreground, so that ending it ends all of it. It wants a token."""
    port, dashboard, client, agent = free_ports(4, "127.0.0.1")
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
    (home / ".ray").mkdir()
    (home / ".ray" / "auth_token").write_text(TOKEN["RAY_AUTH_TOKEN"])
    link = Path(temporary) / "env"  # Ray's own workers do not come up under a path with a space (docs/install.md)
    link.symlink_to(sys.prefix)
    run = Watched(
        arguments,
        tmp_path_factory.mktemp("head"),
        {
            "PATH": path,
            "HOME": str(home),
            "XDG_CACHE_HOME": str(home / ".cache"),
            "RAY_JOB_STOP_WAIT_TIME_S": "300",
            **TOKEN,
        },
        program=[str(link / "bin" / "python"), "-m", "ray.scripts.scripts"],
        outlives_tests=True,
    )
    try:
        address = f"http://127.0.0.1:{dashboard}"
        run.until(lambda: _answers(dashboard) and "Ray runtime started" in run.out, "the head is up")
        yield Head(run, address, f"127.0.0.1:{port}", home)
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
    left: list[list[str]]  # actors, placement groups and shared memory that were there after each of the two


@pytest.fixture(scope="module")
def job(head: Head, tiny: list[str], tmp_path_factory: pytest.TempPathFactory) -> Stopped:
    """Submitted from the checkout by Ray's own command, resumed by ours from another folder; whichever `python3` the
    head finds, the actors run the project's."""
    where, address = tmp_path_factory.mktemp("job"), head.address
    folder, left = where / "runs" / "job", []
    entry = ["python3", "-m", "orchestrator.train", *tiny, "run.steps=100000", f"run.root={where / 'runs'}"]
    entry += ["run.name=job", "run.save_every=1", "evaluate.questions=8", "validation.size=8"]
    entry[entry.index("evaluate.every=0")] = "evaluate.every=2"
    submit = ["job", "submit", f"--address={address}", "--working-dir", str(ROOT)]
    first = Watched([*submit, "--submission-id=first", "--", *entry], where / "first", TOKEN, program=[RAY])
    first.until(lambda: len(steps(folder)) >= 2, "some steps")
    stop = Watched(["job", "stop", f"--address={address}", "first"], where / "stop", TOKEN, program=[RAY])
    assert stop.wait().returncode == 0, stop.out + stop.err
    first.wait()
    left.append(leftovers(head))
    before, saved = records(folder), checkpoints(folder)

    shutil.rmtree(folder / "checkpoints" / f"step_{saved[-1]:06d}")
    resume = ["resume", f"--address={address}", "first", f"run.steps={saved[-1] + 1}"]
    again = Watched(resume, where / "again", {"HOME": str(head.home)}).wait()
    left.append(leftovers(head))
    assert again.returncode == 0, again.out[-6000:] + again.err[-3000:]
    return Stopped(folder, first, before, saved, again, left)


def test_a_stopped_job_saves_its_steps(job: Stopped) -> None:
    """`ray job stop` sends SIGTERM: its steps are saved, and the command to resume is printed, before Ray kills it."""
    done = len(job.before)
    assert job.checkpoints == [done - 1, done]
    assert f"the checkpoint of step {done} is saved; to go on from it: " in job.first.out, job.first.out[-6000:]
    assert f"train resume={job.folder}" in job.first.out and f"report: {job.folder / 'report.html'}" in job.first.out


def leftovers(head: Head) -> list[str]:
    """What a job that is over has left on its cluster."""
    there = [str(pid) for title in ("RolloutWorker", "LearnerWorker") for pid in head.run.titled(f"ray::{title}")]
    there += [one["class_name"] for one in head.ask("actors") if one["state"] not in ("DEAD",)]
    there += [one["placement_group_id"] for one in head.ask("placement_groups") if one["state"] != "REMOVED"]
    return there + head.run.shared_left()


def test_a_job_frees_its_resources(job: Stopped) -> None:
    assert job.left == [[], []]


# ---- going on ----

SAME = ["reward/mean", "loss/total", "loss/control", "tokens/mean", "think_rate/all", "grad_norm", "kl", "entropy"]


def test_a_resumed_run_has_each_step_once(job: Stopped) -> None:
    done = len(job.before)
    assert f"going on from step {done - 1}" in job.again.out
    assert steps(job.folder) == [*range(1, done + 2)]
    rows = read_lines(job.folder / "metrics.jsonl")
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
    there = [key for key in SAME if key in before]  # a step whose groups all agree has no update
    assert there == [key for key in SAME if key in again] and len(there) in (3, len(SAME))
    for key in there:
        assert again[key] == pytest.approx(before[key], rel=1e-5, abs=1e-6), key


def test_a_resumed_run_continues_with_the_next_prompts(job: Stopped) -> None:
    last = len(job.before) + 1
    state = json.loads((job.folder / "checkpoints" / f"step_{last:06d}" / "state.json").read_text())
    assert state["step"] == last and state["prompts"]["position"] == 4 * last
    assert len(json.loads((job.folder / "provenance.json").read_text())["sessions"]) == 2
    names = {path.name for path in job.folder.iterdir()}
    assert names >= {"config.yaml", "provenance.json", "samples.txt", "checkpoints", "best", "model", "report.html"}
    assert (job.folder / "model" / "config.json").is_file() and f"run folder: {job.folder}" in job.again.out


# ---- a job that fails ----


def test_a_job_that_fails_says_why(head: Head, tmp_path: Path) -> None:
    entry = ["python3", "-m", "orchestrator.train", "experiment=quikstart"]
    job = Watched(
        ["job", "submit", f"--address={head.address}", "--working-dir", str(ROOT), "--", *entry],
        tmp_path,
        TOKEN,
        program=[RAY],
    )
    assert job.wait().returncode != 0
    assert "thinkless: unknown experiment 'quikstart'; did you mean experiment=quickstart?" in job.out + job.err


# ---- thinkless submit, jobs, logs, stop ----


@pytest.fixture
def client(head: Head, monkeypatch: pytest.MonkeyPatch) -> Client:
    for name in ("RAY_API_SERVER_ADDRESS", "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:9")  # what is given comes first
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN["RAY_AUTH_TOKEN"])
    return connect(head.address)


def ours(head: Head, *arguments: str, folder: Path) -> Watched:
    """A command of ours, which finds the token in the home folder."""
    return Watched([*arguments], folder, {"HOME": str(head.home), "RAY_ADDRESS": head.address})


def says(running: Watched, text: str) -> None:
    running.until(lambda: text in running.out + running.err, f"it says {text!r}")


def test_a_submitted_command_is_a_job_with_the_runs_name_and_its_own_exit_code(head: Head, tmp_path: Path) -> None:
    """From a folder of the user's own, whose files the job finds where its settings say."""
    (tmp_path / "my_rewards.py").write_text("def score(problem, response, answer, mode):\n    return 1.0\n")
    (tmp_path / "one.jsonl").write_text('{"question": "1+1?", "answer": "2"}\n')
    settings = ["data.path=one.jsonl", "reward.function=my_rewards:scores", "warmup=none", "model.path=none-such"]
    settings += ["validation.size=0"]
    done = ours(head, "submit", "train", *settings, f"run.root={tmp_path / 'runs'}", folder=tmp_path).wait()
    assert done.returncode == 1, done.out + done.err
    assert f"dashboard: {head.address}/#/jobs/train-001" in done.out
    assert f"run folder: {tmp_path / 'runs' / 'train-001'} " in done.out
    assert "thinkless: reward.function=my_rewards:scores" in done.out, done.out


def test_a_distillation_is_a_job_that_goes_on_and_its_key_is_written_nowhere(head: Head, tmp_path: Path) -> None:
    """Stopped in the middle, then resumed: no answer that was written is asked for again. The key is in no log,
    metadata or file, of Ray's or ours."""
    secret, pairs = secrets.token_hex(12), tmp_path / "pairs"  # not in this file, which Ray has a copy of
    (tmp_path / "sums.jsonl").write_text("".join(f'{{"problem": "{i}+1?", "answer": "{i + 1}"}}\n' for i in range(9)))
    journal = pairs / "_sampled" / "answers.jsonl"
    with serving(ChatServer(hold_after=20)) as chat:
        words = [
            "distill",
            "data.path=sums.jsonl",
            f"distill.out={pairs}",
            "distill.samples=2",
            "distill.backoff_s=0.01",
        ]
        for side, name in (("think", "long"), ("short", "short")):
            given = (f"endpoint={chat.url}", f"name={name}", "concurrency=2", "key_env=TEACHERS_KEY")
            words += [f"distill.{side}.{one}" for one in given]
        environment = {"HOME": str(head.home), "RAY_ADDRESS": head.address, "TEACHERS_KEY": secret}
        submitted = Watched(["submit", "--detach", *words], tmp_path, environment).wait()
        assert f"data set: {pairs} (on the host that runs the job)" in submitted.out, submitted.out + submitted.err
        head.run.until(lambda: journal.is_file() and len(journal.read_bytes().splitlines()) >= 20, "20 answers")
        stopped = ours(head, "stop", "distill-pairs", folder=tmp_path).wait()
        assert "every answer that is there is kept" in stopped.out and "resume distill-pairs" in stopped.out, (
            stopped.out
        )
        chat.hold_after = None
        again = Watched(["resume", "distill-pairs"], tmp_path, environment).wait()
        assert again.returncode == 0 and "9 rows (9 with think and short)" in again.out, again.out + again.err
        assert len(journal.read_bytes().splitlines()) == len(chat.served) == 36 and chat.keys == {f"Bearer {secret}"}
    temporary = next(one for one in head.run.arguments if one.startswith("--temp-dir=")).partition("=")[2]
    written = [path for top in (temporary, pairs, head.home) for path in Path(top).rglob("*") if path.is_file()]
    assert len(written) > 20 and not [path for path in written if secret.encode() in path.read_bytes()]
    headers = {"Authorization": f"Bearer {TOKEN['RAY_AUTH_TOKEN']}"}
    assert secret not in requests.get(f"{head.address}/api/jobs/", headers=headers, timeout=60).text
    assert not any(secret in text for one in (submitted, stopped, again) for text in (one.out, one.err))


def test_jobs_are_listed_with_how_far_their_runs_have_come(head: Head, job: Stopped, tmp_path: Path) -> None:
    done = ours(head, "jobs", folder=tmp_path).wait()
    rows = {line.split()[0]: line.split() for line in done.out.splitlines()}
    steps_done = len(job.before)
    assert rows["first"][1:3] == ["stopped", f"{steps_done}/100000"]
    assert rows["job"][1:3] == ["succeeded", f"{steps_done + 1}/{steps_done + 1}"]
    assert rows["job"][3].endswith("%") and float(rows["job"][4].replace(",", "")) > 0


def test_ctrl_c_leaves_a_job_running_and_a_second_one_stops_it(head: Head, client: Client, tmp_path: Path) -> None:
    script = "trap 'echo saved; exit 7' TERM; echo begun; for i in $(seq 3000); do sleep 0.1; done"
    job = client.submit(["bash", "-c", script], None, "patient", {})
    for presses, code in ((1, 130), (2, 143)):  # Ray keeps no exit code of a job that was stopped
        watching = ours(head, "logs", "patient", folder=tmp_path)
        says(watching, "\nbegun")
        watching.interrupt(signal.SIGINT)
        says(watching, "logs patient")
        if presses == 2:
            watching.interrupt(signal.SIGINT)
        assert watching.wait().returncode == code, watching.out + watching.err
        assert (client.job(job.id).status == "RUNNING") == (presses == 1)
    assert "\nsaved" in watching.out and "Traceback" not in watching.err


def test_names_that_are_taken_and_names_that_are_unknown(head: Head, client: Client, tmp_path: Path) -> None:
    """A name of a running job is taken; once it is over, the next of that name is numbered, and found by the name."""
    job = client.submit(["bash", "-c", "echo one; sleep 100"], None, "again/and", {"folder": "~/x"})
    with pytest.raises(NameTaken, match=r"^the job again-and is (pending|running): "):
        client.submit(["true"], None, "again/and", {})
    done = ours(head, "stop", "again/and", folder=tmp_path).wait()
    assert done.returncode == 0 and "resume again/and" in done.out, done.out + done.err
    second = client.submit(["bash", "-c", "echo two"], None, "again/and", {})
    assert (job.id, second.id) == ("again-and", "again-and.2")
    assert "\ntwo\n" in "".join(client.follow(second.id)) and client.wait(second.id).exit_code == 0
    assert client.find("again/and").id == second.id
    assert "no job 'agin/and' at " in one_line_error(ours(head, "logs", "agin/and", folder=tmp_path).wait())
    assert "is over (stopped)" in one_line_error(ours(head, "stop", job.id, folder=tmp_path).wait())


def test_a_token_that_is_missing_or_wrong(head: Head, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    with pytest.raises(RunError, match=r"requires a token, and there is none: .*RAY_AUTH_TOKEN"):
        connect(head.address)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "f" * 32)
    with pytest.raises(RunError, match=r"refuses the token: "):
        connect(head.address)


@pytest.mark.parametrize(("alphas", "seeds"), [("3", "0,1"), ("0.5,3", "0,1,2")], ids=["1x2", "2x3"])
@pytest.mark.bench
def test_a_sweep_of_jobs_loses_nothing_when_it_is_left_and_a_member_is_killed(
    head: Head, tiny: list[str], tmp_path: Path, alphas: str, seeds: str
) -> None:
    """Two members, or two times three, two at a time on the head's two CPUs. Ctrl-C at first; the same command follows
    those that run, and one is killed; the same command runs that one alone, from its checkpoint."""
    words = ["train", "--multirun", "hydra/launcher=ray_jobs", "hydra.launcher.num_cpus=0.05", *tiny, "run.steps=8"]
    words += [f"algorithm.alpha={alphas}", f"run.seed={seeds}", "run.save_every=2", "run.logprob_check_every=0"]
    words += ["tracker.report=false", f"run.root={tmp_path / 'runs'}", "run.name=many"]
    runs, count = tmp_path / "runs", len(alphas.split(",")) * len(seeds.split(","))
    name = f"many-{min(count - 1, 2)}"  # of the one to be killed
    victim = runs / name
    first = ours(head, *words, folder=tmp_path)
    says(first, "many-1 started: ")
    first.interrupt(signal.SIGINT)
    assert first.wait().returncode == 130 and "those that run go on as jobs" in first.err, first.err
    state = load(runs / "many")  # as if it had been killed before it noted its second job
    unnoted = next(one for one in state if one.run == "many-1")
    unnoted.status, unnoted.job = "waiting", None
    state.save()

    second = ours(head, *words, folder=tmp_path)
    second.until(lambda: checkpoints(victim), "a checkpoint of the one to be killed")
    (pid,) = re.findall(r"process (\d+)", holder(run_dir.lock(victim)) or "")
    os.kill(int(pid), signal.SIGKILL)
    assert second.wait().returncode == 1, second.out + second.err
    assert f"1 of {count} members failed ({name}: killed by SIGKILL)" in second.error_lines[-1]
    found = {one.run: one for one in load(runs / "many")}
    assert len(found) == count
    assert all(one.status == ("failed" if one.run == name else "finished") for one in found.values())
    assert all(steps(runs / run) == [*range(1, 9)] for run in found if run != name)
    assert [run for run in found if not finished(runs / run)] == [name]
    assert [one.job for one in found.values()] == [*found]  # none was submitted twice
    before, reached = {run: (runs / run / "metrics.jsonl").read_bytes() for run in found}, max(checkpoints(victim))

    third = ours(head, *words, folder=tmp_path).wait()
    assert third.returncode == 0, third.out + third.err
    assert f"{count - 1} of {count} members are finished already" in third.out
    assert {run for run, then in before.items() if (runs / run / "metrics.jsonl").read_bytes() != then} == {name}
    assert steps(victim)[-1] == 8 and f"going on from step {reached}" in (runs / "many" / f"{name}.log").read_text()
    again = {one.run: one for one in load(runs / "many")}
    assert again[name].job == f"{name}.2" and all(one.objective is not None for one in again.values())
    known = json.loads((victim / "provenance.json").read_text())
    assert {key: known[key] for key in ("git_commit", "dirty")} == source.commit()
    assert (runs / "many" / "sweep.html").is_file() and leftovers(head) == []


def test_a_sweep_without_a_head_leaves_nothing(tmp_path: Path) -> None:
    (port,) = free_ports(1, "127.0.0.1")
    words = ["train", "--multirun", "hydra/launcher=ray_jobs", f"hydra.launcher.address=http://127.0.0.1:{port}"]
    words += ["experiment=quickstart", "run.seed=0,1", f"run.root={tmp_path / 'runs'}"]
    assert "no Ray head answers at " in one_line_error(thinkless(*words, folder=tmp_path))
    assert not (tmp_path / "runs").exists()


def test_a_head_that_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    (port,) = free_ports(1, "127.0.0.1")
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_ADDRESS", f"http://127.0.0.1:{port}")
    with pytest.raises(
        HeadGone, match=rf"^no Ray head answers at http://127.0.0.1:{port} \(Connection refused; .*RAY_"
    ):
        connect()
    with pytest.raises(HeadGone, match=rf"at 127.0.0.1:{port} \(Connection refused; address from --address\)"):
        connect(f"127.0.0.1:{port}")
    with pytest.raises(BadInput, match="'nonsense' is no address of a Ray head"):
        connect("nonsense")


# ---- nodes that join later ----


def test_a_run_waits_for_nodes_that_join_later(head: Head, tmp_path: Path) -> None:
    """If they are too few, it is refused then."""
    script = (
        "import sys\n"
        "from conf.schema import ClusterConf, LearnerConf, RewardConf, RolloutConf\n"
        "from orchestrator.cluster.cluster import Cluster\n"
        "from rollout.base.errors import BadInput\n"
        "with Cluster(ClusterConf(address=sys.argv[1], wait_for_resources_s=1)) as cluster:\n"
        "    for limit, cpus in ((1, 2.5), (600, 1.5)):\n"
        "        cluster._actors.nodes_timeout_s = limit\n"
        "        try:\n"
        "            learner, reward = LearnerConf(num_cpus=1), RewardConf(num_cpus=0)\n"
        "            cluster.refuse_too_small(RolloutConf(num_cpus=cpus), learner, reward)\n"
        "            print('there is room')\n"
        "        except BadInput as error:\n"
        "            print(error, flush=True)\n"
    )
    (tmp_path / "driver.py").write_text(script)
    python = [sys.executable, str(tmp_path / "driver.py"), head.gcs]
    environment = {**TOKEN, "PYTHONPATH": str(ROOT)}
    waits = Watched([], tmp_path, environment, program=python)
    waits.until(lambda: "0.5 of 2.5 CPUs are missing" in waits.err, "it waits")
    assert "at most 1 s, cluster.wait_for_resources_s): 1.5 of 3.5 CPUs are missing" in waits.err
    assert "= 3.5 CPUs do not fit, the cluster has 2; lower one of them" in waits.out
    agent, metrics = free_ports(2, "127.0.0.1")
    arguments = ["start", f"--address={head.gcs}", "--block", "--num-cpus=1", "--object-store-memory=100000000"]
    arguments += [f"--dashboard-agent-listen-port={agent}", f"--metrics-export-port={metrics}", "--disable-usage-stats"]
    node = Watched(arguments, tmp_path, {**TOKEN, "HOME": str(head.home)}, program=[RAY])
    try:
        assert waits.wait().returncode == 0, waits.err
        assert waits.out.endswith("there is room\n")
    finally:
        node.kill()


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


def test_prometheus_finds_the_nodes_of_a_head(head: Head, tmp_path: Path) -> None:
    """By the file in Ray's temporary folder, and by the address where the head serves the same; both hold for the
    configuration that `thinkless dashboards` writes. Beside it Ray writes the dashboards of its Metrics tab."""
    run, address, path = head.run, head.address, program("prometheus")
    temporary = Path(next(one for one in run.arguments if one.startswith("--temp-dir=")).partition("=")[2])
    (tmp_path / "token").write_text(TOKEN["RAY_AUTH_TOKEN"])
    discoveries = [str(temporary / Path(DISCOVERY).name), f"{address}/api/prometheus/sd"]
    for number, discovery in enumerate(discoveries):
        folder = tmp_path / str(number)
        folder.mkdir()
        (port,) = free_ports(1, "127.0.0.1")
        with scraping(path, folder, port, discovery, str(tmp_path / "token")) as prometheus:
            assert prometheus is not None
            query = functools.partial(prometheus.query, 'up{job="ray"} == 1')
            run.until(query, "Prometheus scrapes the head")
    rays = temporary / Path(Places().ray_folder).relative_to(Path(DISCOVERY).parent)
    assert any(rays.glob("*.json"))
