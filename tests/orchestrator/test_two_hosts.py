"""A run over two hosts: the head on one, a node on the other, and each has a wrong interface before the right one.

Each host has room for one learner rank and one sampler, so that both are on both: the ranks' collective calls, the
weights and the answers cross.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import pytest
from safetensors.torch import load_file

from rollout.base.network import GLOO
from tests.helpers.launched import THINKLESS, Watched, one_line_error
from tests.helpers.runs import TINY, records, restarts, steps
from tests.helpers.two_hosts import RIGHT, WRONG, Host, Network, network, refuse_without_namespaces

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.heavy
SETTINGS = ["experiment=quickstart", "warmup=none", *TINY, "run.steps=2", "validation.size=8"]
PLACES = ["rollout.workers=2", "rollout.num_cpus=0.3", "learner.ranks=2", "learner.num_cpus=0.6"]
PLACES += ["reward.workers=1", "reward.num_cpus=0.05"]
ENDLESS = ["run.steps=100000", "run.name=mine"]
CUT_S = 120.0
PATIENT = {"RAY_health_check_failure_threshold": "20"}  # of the head: a host may be silent for four minutes
RESTARTS = ["rollout.max_restarts=2", "learner.max_restarts=2"]
LONGER = """
def score(problem, response, answer, mode):
    return len(response) / 100
"""  # the model is random and never right: its answers differ in length
RANK = """
import os, sys, datetime, torch
from rollout.base.network import GLOO, gloo_towards
rank, address = int(sys.argv[1]), sys.argv[2]
gloo_towards(address)
torch.distributed.init_process_group(
    "gloo", f"tcp://{address}:29555", rank=rank, world_size=2, timeout=datetime.timedelta(seconds=120)
)
total = torch.tensor([rank + 1.0])
torch.distributed.all_reduce(total)
print(os.environ[GLOO], total.item())
"""


@dataclass(frozen=True)
class Pair:
    """Hosts of one Ray."""

    network: Network
    folder: Path  # of what Ray says
    address: str  # of the head, on the first
    environment: Mapping[str, str] = field(default_factory=dict)  # of each Ray

    @property
    def first(self) -> Host:
        return self.network.hosts[0]

    @property
    def second(self) -> Host:
        return self.network.hosts[1]

    def start(self, host: Host) -> None:
        """Its part of Ray, which ends with the host."""
        common = ["--block", "--num-cpus=1", "--object-store-memory=540000000", "--disable-usage-stats"]
        common += [f"--temp-dir={host.local}/ray"]  # on each its own
        head = ["--head", "--port=6379", "--include-dashboard=false"]
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", *common, f"--node-ip-address={host.address}"]
        command += head if host is self.first else [f"--address={self.address}"]
        environment = {**_environment(host), **self.environment}
        ray = host.watched(*command, folder=self.folder, environment=environment, lasting=True)
        ray.until(lambda: "Ray runtime started" in ray.out, "Ray runs")

    def train(self, folder: Path, *settings: str) -> Watched:
        environment = {**_environment(self.first), "RAY_ADDRESS": self.address}
        command = [THINKLESS, "train", *SETTINGS, f"run.root={folder}", *settings]
        return self.first.watched(*command, folder=folder, environment=environment)


@pytest.fixture(scope="module")
def lan() -> Iterator[Network]:
    with network() as made:
        yield made


@pytest.fixture(scope="module")
def hosts(lan: Network) -> list[Host]:
    return lan.hosts


@pytest.fixture(scope="module")
def pair(lan: Network, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """Ends with its hosts, and all of their processes with them."""
    return _pair(lan, tmp_path_factory)


@pytest.fixture
def patient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """Hosts of a Ray that waits for one that is silent."""
    with network() as lan:
        yield _pair(lan, tmp_path_factory, PATIENT)


def _pair(
    lan: Network, tmp_path_factory: pytest.TempPathFactory, environment: Mapping[str, str] = MappingProxyType({})
) -> Pair:
    made = Pair(lan, tmp_path_factory.mktemp("rays"), f"{lan.hosts[0].address}:6379", environment)
    for host in lan.hosts:
        made.start(host)
    return made


def _environment(host: Host) -> dict[str, str]:
    return {"PYTHONPATH": f"{ROOT}:{host.local}", "OMP_NUM_THREADS": "1"}


def test_each_host_has_a_name_and_files_of_its_own(hosts: list[Host]) -> None:
    first, second = hosts
    assert [host.run("hostname").stdout.strip() for host in hosts] == ["first", "second"]
    assert first.run("touch", str(first.local / "here")).returncode == 0
    assert [host.run("test", "-e", str(first.local / "here")).returncode for host in hosts] == [0, 1]
    assert f"dev {WRONG}" in second.run("ip", "route", "get", "203.0.113.9").stdout
    assert f"dev {RIGHT}" in second.run("ip", "route", "get", first.address).stdout


def test_gloo_takes_the_interface_that_leads_to_the_other_host(hosts: list[Host]) -> None:
    """Left alone it would listen at 127.0.1.1, what each host's name resolves to."""
    command = ["env", "-u", GLOO, f"PYTHONPATH={ROOT}", "OMP_NUM_THREADS=1", sys.executable, "-c", RANK]
    ranks = [
        subprocess.Popen(
            host.inside(*command, str(rank), hosts[0].address),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank, host in enumerate(hosts)
    ]
    done = [rank.communicate(timeout=300) for rank in ranks]
    assert [out.split() for out, _ in done] == [[RIGHT, "3.0"]] * 2, done


def test_hosts_end_with_the_process_that_made_them(tmp_path: Path) -> None:
    """Killed half way, it leaves neither processes nor interfaces nor mounts nor folders."""
    refuse_without_namespaces()
    code = "from tests.helpers.two_hosts import main; main()"
    maker = subprocess.Popen(
        [sys.executable, "-c", code, tmp_path], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert maker.stdout is not None
    holders = [int(maker.stdout.readline().split("--target ")[1].split()[0]) for _ in range(2)]
    assert all(Path(f"/proc/{holder}").exists() for holder in holders)
    assert [*tmp_path.glob("hosts-*")]
    maker.kill()
    maker.communicate()  # returns when who removes the folders, and has the same output, has ended as well
    assert not [*tmp_path.glob("hosts-*")]
    for holder in holders:
        subprocess.run(["tail", f"--pid={holder}", "-f", "/dev/null"], timeout=60, check=True)


def test_a_model_that_one_host_lacks_is_named_with_the_host(pair: Pair, tiny_model: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_model, pair.first.own / "model")
    line = one_line_error(pair.train(tmp_path, *PLACES, f"model.path={pair.first.local}/model").wait())
    assert f"there is no folder {pair.first.local}/model on host second" in line


@pytest.mark.bench
def test_a_run_is_spread_over_both_hosts(pair: Pair, tiny_model: Path, tmp_path: Path) -> None:
    """Model and reward function on each host's own disk, problems on the driver's alone, run folder shared."""
    for host in (pair.first, pair.second):
        shutil.copytree(tiny_model, host.own / "model", dirs_exist_ok=True)
        (host.own / "longer.py").write_text(LONGER)
    problems = [{"problem": f"What is {n} + {n}?", "answer": str(2 * n)} for n in range(16)]
    (pair.first.own / "problems.jsonl").write_text("".join(json.dumps(one) + "\n" for one in problems))
    local = pair.first.local
    own = [f"model.path={local}/model", f"data.path={local}/problems.jsonl", "reward.function=longer:score"]
    run = pair.train(tmp_path, *PLACES, *own, "learner.lr=0.01", "run.name=spread")
    on: dict[str, set[str]] = {}

    def spread() -> bool:
        for name in ("RolloutWorker", "LearnerWorker"):
            on[name] = {host.name for host in (pair.first, pair.second) if host.titled(f"ray::{name}")}
        return all(len(names) == 2 for names in on.values())

    run.until(spread, "a sampler and a learner rank on each host")
    assert run.wait().returncode == 0, run.err[-3000:]
    first, second = records(tmp_path / "spread")
    assert (first["step"], second["step"]) == (1, 2) and first["grad_norm"] > 0
    assert _largest_change(tiny_model, tmp_path / "spread" / "model") > 0.01
    assert second["mismatch/max_abs"] < 1e-4  # both samplers have what both ranks have learnt


def _largest_change(before: Path, after: Path) -> float:
    one, other = (load_file(folder / "model.safetensors") for folder in (before, after))
    return max(float((other[name] - one[name]).abs().max()) for name in one)


# ---- hosts that are cut off, or gone ----


@pytest.mark.bench
def test_a_run_goes_on_after_a_link_was_cut(patient: Pair, tiny_model: Path, tmp_path: Path) -> None:
    """A learner rank and a sampler are behind it. The call to the rank is lost, and all ranks start again."""
    run = patient.train(tmp_path, *PLACES, *ENDLESS, *RESTARTS, f"model.path={tiny_model}")
    folder = tmp_path / "mine"
    run.until(lambda: len(steps(folder)) > 2, "steps")
    patient.network.cut(patient.second)
    time.sleep(CUT_S)
    before = len(steps(folder))
    patient.network.mend(patient.second)
    run.until(lambda: len(steps(folder)) > before + 2, "steps after the cut")
    run.kill()
    assert steps(folder) == [*range(1, len(steps(folder)) + 1)]
    assert max(restarts(folder, "learner")) >= 1 and "warning: a learner rank does not answer" in run.err


@pytest.mark.bench
def test_a_host_that_is_lost_is_replaced_by_one_that_joins(pair: Pair, tiny_model: Path, tmp_path: Path) -> None:
    """With it a sampler, a learner rank and the rank's last state, of which the other host holds a copy: nothing is
    taken from a checkpoint, of which there is none."""
    run = pair.train(tmp_path, *PLACES, *ENDLESS, *RESTARTS, "run.save_every=100000", f"model.path={tiny_model}")
    folder = tmp_path / "mine"
    run.until(lambda: len(steps(folder)) > 2, "steps")
    pair.network.end(pair.second)
    third = pair.network.join("third")
    pair.start(third)
    before = len(steps(folder))
    run.until(lambda: len(steps(folder)) > before + 3, "steps with the third host")
    assert all(third.titled(f"ray::{name}") for name in ("RolloutWorker", "LearnerWorker"))
    run.kill()
    assert steps(folder) == [*range(1, len(steps(folder)) + 1)]
    assert run.err.count("all ranks start again") == max(restarts(folder, "learner")) == 1
