"""What it costs to submit a run rather than to start it. Run: python benchmarks/jobs.py

A head is started on this machine, and one short run is given to it by `thinkless submit`, followed to its end, and
started by `thinkless train` (with a private Ray), in turns; the warm-up is made before.

    submit_over_running_s    seconds of the whole command, submitted minus started; the median of --rounds; goal 25
    submit_s                 from the command to the job that Ray has accepted: settings, Ray's client, the upload
    submit_upload_mib        the archive that is uploaded from the checkout

About four minutes. The small form goes one round.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.pop(0)
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks._figures import add_small, figure, say, without_goals
from benchmarks._runs import ROOT, SHORT
from orchestrator.commands.interpreter import VARIABLE
from rollout.base.network import free_ports

GOAL_S = 25.0
UP_S = 120.0  # that the head may take to answer


def environment() -> dict[str, str]:
    """Without another head's address or token."""
    return {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}


@contextlib.contextmanager
def head() -> Iterator[str]:
    """The address of a head of its own, which ends with the block."""
    port, dashboard, client, agent = free_ports(4, "127.0.0.1")
    temporary = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # sockets: short paths
    command = [
        sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", f"--port={port}", "--num-cpus=2",
        f"--dashboard-port={dashboard}", f"--ray-client-server-port={client}", "--disable-usage-stats",
        f"--dashboard-agent-listen-port={agent}", f"--temp-dir={temporary}", "--object-store-memory=600000000",
    ]  # fmt: skip
    process = subprocess.Popen(
        command,
        env=environment() | {VARIABLE: sys.executable},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        end = time.monotonic() + UP_S
        while not _answers(dashboard):
            if process.poll() is not None or time.monotonic() > end:
                sys.exit("the head did not start")
            time.sleep(0.5)
        yield f"http://127.0.0.1:{dashboard}"
    finally:
        process.terminate()
        process.wait()
        shutil.rmtree(temporary, ignore_errors=True)


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def timed(words: list[str]) -> tuple[float, float | None, str]:
    """Seconds of a whole `thinkless` command, and until it says "job: " (None: it does not); its output."""
    start = time.perf_counter()
    accepted, lines = None, []
    with subprocess.Popen(
        [sys.executable, "-m", "orchestrator", *words],
        cwd=ROOT,
        env=environment() | {"PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("job: "):
                accepted = time.perf_counter() - start
            lines.append(line)
    if process.returncode:
        sys.exit(f"thinkless {' '.join(words)} ended with {process.returncode}: {''.join(lines)[-2000:]}")
    return time.perf_counter() - start, accepted, "".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    add_small(parser)
    options = parser.parse_args()
    if options.small:
        without_goals()
        options.rounds = 1
    with tempfile.TemporaryDirectory(prefix="thinkless-bench-") as scratch, head() as address:
        run = ["train", *SHORT, "tracker.report=false", "evaluate.final=false", f"run.root={scratch}"]
        run.append(f"warmup.cache={scratch}/warmup")
        timed(run)  # makes the warm-up, and warms up the disk's cache
        more, accepted, upload = [], [], 0.0
        for _ in range(options.rounds):
            submitted, job_s, said = timed(["submit", "--address", address, *run])
            started, _, _ = timed(run)
            found = re.search(r"^job: \S+ \(\d+ files, ([\d.]+) MiB\)$", said, re.M)
            assert job_s is not None and found is not None, said
            say(f"submitted {submitted:.1f} s (accepted after {job_s:.1f}), started {started:.1f} s")
            more.append(submitted - started)
            accepted.append(job_s)
            upload = float(found[1])
    figure("submit_over_running_s", statistics.median(more), "s", GOAL_S)
    figure("submit_s", statistics.median(accepted), "s")
    figure("submit_upload_mib", upload, "MiB")


if __name__ == "__main__":
    main()
