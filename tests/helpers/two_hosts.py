"""Hosts on one machine: namespaces joined by a bridge on the first, each with a name, files and memory of its own.

    first                                                       second (third, ...)
    eth0  192.0.2.1, the default route: leads nowhere           eth0  192.0.2.2, the same
    lan0  198.51.100.1, a bridge
      port2  <------------------- veth pair ---------------->   lan0  198.51.100.2

Others may join, be cut off (`cut`, `mend`) and killed (`end`). eth0 comes first on each, and the host's name resolves
to 127.0.1.1, as on a stock Debian: who does not choose an interface gets a wrong one. `local` is a folder under the
same path on each with other content, /dev/shm is each host's own; all else is shared. The first process of a host
holds its namespaces: with it every process of the host ends, and so do interfaces and mounts. It is killed with the
process that made it, and a shell that waits for that process's end then removes the folders, so that nothing stays of
a test that is killed.
"""

from __future__ import annotations

import ctypes
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.helpers.launched import Watched
from tests.helpers.programs import program

WRONG, RIGHT = "eth0", "lan0"  # interfaces
PR_SET_PDEATHSIG = 1
HOLD = """set -e
hostname {name}
mount --make-rprivate /
mount -t tmpfs tmpfs /dev/shm
mount --bind {own} {local}
mount --bind {hosts} /etc/hosts
ip link set lo up
ip link add eth0 type veth peer name nowhere
ip addr add 192.0.2.{number}/24 dev eth0
ip link set eth0 up
ip link set nowhere up
ip route add default via 192.0.2.254
echo made
read -r joined
[ {number} != 1 ] || ip link add lan0 type bridge
ip addr add 198.51.100.{number}/24 dev lan0
ip link set lan0 up
echo ready
trap '' CHLD
exec sleep infinity"""  # as the first process it inherits orphans; what it ignores, the kernel reaps

REMOVE = """read -r ended
for attempt in $(seq 100); do rm -rf "$0" && exit; sleep 0.1; done"""  # what is being killed may still write


@dataclass(frozen=True)
class Host:
    name: str
    address: str  # that the other host reaches
    holder: int  # process that holds the namespaces
    local: Path  # the same path on both, other content
    own: Path  # where that content lies on the machine
    number: int

    def inside(self, *command: str) -> list[str]:
        """That command, on this host."""
        spaces = ["--mount", "--uts", "--ipc", "--net", "--pid"]
        # nsenter waits for the command as a process of its own, and ends it with itself
        return [program("nsenter"), "--target", str(self.holder), *spaces, "--wdns=/", "--", *command]

    def run(self, *command: str, timeout_s: float = 120.0) -> subprocess.CompletedProcess[str]:
        return subprocess.run(self.inside(*command), capture_output=True, text=True, timeout=timeout_s)

    def titled(self, start: str) -> list[str]:
        """Titles of its processes that begin so, for example an actor's ("ray::RolloutWorker")."""
        listed = self.run("ps", "-e", "-o", "args=").stdout.splitlines()  # /proc is of this host alone
        return [title for title in listed if title.startswith(start)]

    def watched(self, *command: str, folder: Path, environment: dict[str, str], lasting: bool = False) -> Watched:
        """Start that command; its home and temporary folders are this host's own. lasting: a fixture ends it."""
        own = {"HOME": str(self.local), "TMPDIR": str(self.local), "XDG_CACHE_HOME": str(self.local / "cache")}
        return Watched([], folder, {**own, **environment}, self.inside(*command), outlives_tests=lasting)


def refuse_without_namespaces() -> None:
    """Skips the test where none can be made."""
    probe = [program("unshare"), "--net", "--mount", "--uts", "--ipc", "--pid", "--fork", program("ip")]
    done = subprocess.run(
        [*probe, "link", "add", "veth0", "type", "veth", "peer", "name", "veth1"], capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"needs root with network namespaces and veth interfaces: {done.stderr.strip() or done.returncode}")


class Network:
    """Hosts, the first of which has the bridge that joins them."""

    def __init__(self, folder: Path):
        """folder: for what is each host's own."""
        self.folder, self.hosts = folder, list[Host]()
        self._holders: dict[str, subprocess.Popen[str]] = {}
        (folder / "local").mkdir()

    def join(self, name: str) -> Host:
        """Make another host."""
        number, own, names = len(self.hosts) + 1, self.folder / name, self.folder / f"hosts-of-{name}"
        own.mkdir()
        names.write_text(f"127.0.0.1 localhost\n127.0.1.1 {name}\n")
        local = self.folder / "local"
        holder = _hold(HOLD.format(name=name, number=number, own=own, local=local, hosts=names))
        self._holders[name] = holder
        _expect(holder, "made")
        host = Host(name, f"198.51.100.{number}", _inner(holder), local, own, number)
        self.hosts.append(host)
        if number > 1:
            port, first = f"port{number}", self.hosts[0]
            ends = ["netns", str(first.holder), "type", "veth", "peer", "name", RIGHT, "netns", str(host.holder)]
            subprocess.run([program("ip"), "link", "add", port, *ends], check=True, capture_output=True)
            _succeeded(first.run("ip", "link", "set", port, "master", RIGHT, "up"))
        assert holder.stdin is not None
        print("joined", file=holder.stdin, flush=True)
        _expect(holder, "ready")
        return host

    def cut(self, host: Host) -> None:
        """The host's link is down: what is sent is lost, and nobody is told."""
        _succeeded(self.hosts[0].run("ip", "link", "set", f"port{host.number}", "down"))

    def mend(self, host: Host) -> None:
        _succeeded(self.hosts[0].run("ip", "link", "set", f"port{host.number}", "up"))

    def end(self, host: Host) -> None:
        """As when its power fails: all of its processes and its interface are gone at once."""
        holder = self._holders.pop(host.name)
        holder.kill()
        holder.wait()

    def close(self) -> None:
        for host in self.hosts:
            if host.name in self._holders:
                self.end(host)


@contextmanager
def network(below: str = "/tmp") -> Iterator[Network]:
    """Two hosts, first and second. below: for their folders; short where Ray is to run, whose sockets have paths of 107
    bytes at most."""
    refuse_without_namespaces()
    folder = Path(tempfile.mkdtemp(prefix="hosts-", dir=below))
    remover = subprocess.Popen(["/bin/sh", "-c", REMOVE, folder], stdin=subprocess.PIPE, start_new_session=True)
    made = Network(folder)
    try:
        made.join("first")
        made.join("second")
        yield made
    finally:
        made.close()
        remover.communicate()


def _succeeded(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 0, done


def _hold(script: str) -> subprocess.Popen[str]:
    spaces = ["--net", "--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child", "--mount-proc"]
    libc = ctypes.CDLL(None, use_errno=True)
    return subprocess.Popen(
        [program("unshare"), *spaces, "/bin/sh", "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=lambda: libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL),
        start_new_session=True,
    )


def _expect(holder: subprocess.Popen[str], word: str) -> None:
    assert holder.stdout is not None
    line = holder.stdout.readline()
    if line.strip() != word:
        holder.kill()
        raise OSError(f"a host could not be made: {line}{holder.stdout.read()}")


def _inner(holder: subprocess.Popen[str]) -> int:
    """The first process of the host, a child of unshare's."""
    return int(Path(f"/proc/{holder.pid}/task/{holder.pid}/children").read_text().split()[0])


def main() -> None:
    """For trying things by hand: both hosts until the end of input, and how to enter them."""
    with network(*sys.argv[1:]) as made:
        for host in made.hosts:
            print(f"{host.name}: {' '.join(host.inside('bash'))}", flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
