"""A `vllm serve` of a model for as long as somebody asks it.

In: a model's folder, the configuration that it was trained with. Out: the base URL of a server that answers. Must not
know: what is asked. Raises RunError with the end of the server's log where it does not come up.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from orchestrator.base.errors import RunError
from orchestrator.base.waiting import waiting
from orchestrator.tracking.serving import HOST, serve_command
from rollout.base.network import free_ports

START_S, END_S = 600.0, 20.0


@contextlib.contextmanager
def served(model: Path, config: Mapping[str, Any]) -> Iterator[str]:
    """A server on a free port of this machine alone; it and its processes end with the block."""
    (port,) = free_ports(1, HOST)
    words = [*shlex.split(serve_command(model, config)), "--port", str(port)]
    with tempfile.TemporaryFile() as log:
        try:
            process = subprocess.Popen(words, stdout=log, stderr=log, start_new_session=True)
        except OSError as error:
            raise RunError(f"cannot start {words[0]} ({error.strerror}): install vLLM (docs/install.md)") from error
        try:
            with waiting("starting the server"):
                _wait(f"http://{HOST}:{port}/health", process, log)
            yield f"http://{HOST}:{port}/v1"
        finally:
            _end(process)


def _wait(url: str, process: subprocess.Popen[bytes], log: Any) -> None:
    until = time.monotonic() + START_S
    while time.monotonic() < until:
        if process.poll() is not None:
            raise RunError(f"the server ended (exit code {process.returncode}): {_last_line(log)}")
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5):
            return
        time.sleep(0.2)
    raise RunError(f"the server did not answer within {START_S:g} s: {_last_line(log)}")


def _last_line(log: Any) -> str:
    log.seek(0)
    lines = log.read().decode(errors="replace").strip().splitlines()
    return next((line for line in reversed(lines) if "Error" in line), lines[-1] if lines else "it wrote nothing")


def _end(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(END_S)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
