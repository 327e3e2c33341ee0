"""A server that speaks S3, in a process of its own, and the environment in which its clients find it.

Not in the tests' process: vLLM looks at every object that there is, and flask has some that cannot be looked at.
"""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

START_S = 120.0


@contextlib.contextmanager
def s3_server(bucket: str) -> Iterator[dict[str, str]]:
    """With one bucket; this process and those that it starts use it as long as the body lasts. Its environment."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    environment = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "access-of-the-tests",
        "AWS_SECRET_ACCESS_KEY": "secret-of-the-tests",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_MAX_ATTEMPTS": "1",
    }
    try:
        _await(server, port)
        with pytest.MonkeyPatch.context() as patch:
            for name, value in environment.items():
                patch.setenv(name, value)
            filesystem().mkdir(bucket)
            yield environment
    finally:
        server.kill()
        server.wait()


def _await(server: subprocess.Popen[bytes], port: int) -> None:
    end = time.monotonic() + START_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1.0).close()
            return
        except OSError:
            assert server.poll() is None, f"moto's server ended with {server.returncode}"
            assert time.monotonic() < end, f"waited {START_S:g} s for moto's server to accept connections"
            time.sleep(0.05)


def filesystem() -> Any:
    """s3fs, with this moment's environment."""
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    return s3fs.S3FileSystem()
