"""A real Prometheus with the project's own configuration, which scrapes every two seconds."""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from orchestrator.dashboards.files import Places, files

Series = list[tuple[dict[str, str], float]]  # labels, value


class Prometheus:
    def __init__(self, path: str, folder: Path, port: int, discovery: str, token_file: str | None = None):
        """path: of the program; discovery, token_file: as the command takes them."""
        self.address = f"http://127.0.0.1:{port}"
        for name, text in files(Places(discovery=discovery, token_file=token_file)).items():
            if name.startswith("prometheus/"):
                (folder / Path(name).name).write_text(text.replace("10s", "2s").replace("15s", "2s"))
        arguments = [f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}"]
        arguments += [f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn"]
        with (folder / "log").open("w") as log:
            self.process = subprocess.Popen([path, *arguments], stdout=log, stderr=log)

    def query(self, expression: str) -> Series:
        """The instant vector that an expression has now. AssertionError for one that Prometheus does not accept."""
        body = urllib.parse.urlencode({"query": expression}).encode()
        try:
            with urllib.request.urlopen(f"{self.address}/api/v1/query", data=body, timeout=60) as page:
                answer = json.load(page)
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{expression}: {error.read().decode()}") from None
        return [(one["metric"], float(one["value"][1])) for one in answer["data"]["result"]]

    def get(self, path: str) -> Any:
        """Example: get("rules")."""
        with urllib.request.urlopen(f"{self.address}/api/v1/{path}", timeout=60) as page:
            return json.load(page)["data"]

    def wait(self) -> None:
        """Until it answers."""
        end = time.monotonic() + 60
        while True:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"{self.address}/-/ready", timeout=5).close()
                return
            assert self.process.poll() is None and time.monotonic() < end, "Prometheus does not start"
            time.sleep(0.2)


@contextlib.contextmanager
def scraping(
    path: str | None, folder: Path, port: int, discovery: str, token_file: str | None = None
) -> Iterator[Prometheus | None]:
    """path None: no Prometheus is installed, and there is none."""
    if path is None:
        yield None
        return
    running = Prometheus(path, folder, port, discovery, token_file)
    try:
        running.wait()
        yield running
    finally:
        running.process.kill()
        running.process.wait()
