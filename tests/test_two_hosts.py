"""On two hosts, each with an interface that leads nowhere before the one that joins them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rollout.base.network import GLOO
from tests.helpers.two_hosts import RIGHT, WRONG, Host, two_hosts

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.heavy
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


@pytest.fixture(scope="module")
def hosts() -> Iterator[tuple[Host, Host]]:
    with two_hosts() as made:
        yield made


def test_each_host_has_a_name_and_files_of_its_own(hosts: tuple[Host, Host]) -> None:
    first, second = hosts
    assert [host.run("hostname").stdout.strip() for host in hosts] == ["first", "second"]
    assert first.run("touch", str(first.local / "here")).returncode == 0
    assert [host.run("ls", str(host.local)).stdout.split() for host in hosts] == [["here"], []]
    assert f"dev {WRONG}" in second.run("ip", "route", "get", "203.0.113.9").stdout
    assert f"dev {RIGHT}" in second.run("ip", "route", "get", first.address).stdout


def test_gloo_takes_the_interface_that_leads_to_the_other_host(hosts: tuple[Host, Host]) -> None:
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


def test_hosts_end_with_the_process_that_made_them() -> None:
    """Killed half way, it leaves neither processes nor interfaces nor mounts."""
    with two_hosts():  # skips where none can be made
        pass
    code = "from tests.helpers.two_hosts import main; main()"
    maker = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert maker.stdout is not None
    holders = [int(maker.stdout.readline().split("--target ")[1].split()[0]) for _ in range(2)]
    assert all(Path(f"/proc/{holder}").exists() for holder in holders)
    maker.kill()
    maker.communicate()
    for holder in holders:
        subprocess.run(["tail", f"--pid={holder}", "-f", "/dev/null"], timeout=60, check=True)
