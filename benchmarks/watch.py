"""What a refresh of the live page costs with many long runs, over HTTP. Run: python benchmarks/watch.py

    watch_first_s        reading all runs, once, in slices
    watch_refresh_ms     a refresh after every run has written a step, all runs chosen
    watch_quiet_ms       a refresh when nothing is new
    watch_memory_mib     what the server's process grew by
    watch_page_ms        a refresh as a browser sees it, from its first request until all is drawn: every run has
                         written a step, all runs are chosen, the charts of learning are in sight (headless Chromium,
                         1280 x 900)

A refresh is what the page asks for each time: the list of runs, the overview, the new lines of all charts. Run folders
are generated: 50 runs of 10,000 steps, with the figures of a real step. The median of --rounds. Without Chromium,
watch_page_ms has no value.
"""

from __future__ import annotations

import argparse
import gzip
import json
import shutil
import statistics
import sys
import tempfile
import threading
import time
import urllib.parse
import urllib.request
from pathlib import Path

sys.path.pop(0)
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import psutil

from benchmarks._figures import add_small, figure, say, without_goals
from orchestrator.tracking.catalogue import METRICS
from orchestrator.tracking.metric import Kind
from orchestrator.watch.index import Index
from orchestrator.watch.server import Server

GOAL_MS = 200.0
LEVELS = ("1", "2", "3", "4", "5")


def keys() -> list[str]:
    """Every figure of the catalogue that is a number, with five levels, two workers and one value of other labels."""
    found: dict[str, None] = {}
    labels = {"mode": "think", "outcome": "correct", "phase": "learn", "reason": "weights", "tracker": "wandb"}
    for metric in METRICS:
        if metric.kind is not Kind.histogram and metric.key not in ("step", "time"):
            for level, worker in zip(LEVELS, "01010", strict=True):
                found[metric.key.format(level=level, worker=worker, **labels)] = None
    return list(found)


def lines(first: int, count: int, seed: int) -> list[str]:
    """Records of a run."""
    names = keys()
    values = np.random.default_rng(seed).random((count, len(names)))
    out = []
    for k, row in enumerate(values):
        record = {"step": first + k, "time": 1.79e9 + 2 * (first + k), **dict(zip(names, row.tolist(), strict=True))}
        out.append(json.dumps(record) + "\n")
    return out


def make(root: Path, runs: int, steps: int) -> list[Path]:
    """Run folders; the same 1,000 steps of figures serve a run again and again under their own numbers."""
    folders = []
    for number in range(runs):
        folder = root / f"run-{number:03}"
        folder.mkdir()
        (folder / "config.yaml").write_text(f"run:\n  steps: {2 * steps}\n")
        block = lines(0, min(steps, 1000), number)
        rests = [line.partition(', "time"')[2] for line in block]
        with (folder / "metrics.jsonl").open("w") as file:
            file.writelines(f'{{"step": {k + 1}, "time"{rests[k % len(rests)]}' for k in range(steps))
        folders.append(folder)
    return folders


def ask(url: str) -> bytes:
    with urllib.request.urlopen(urllib.request.Request(url, headers={"Accept-Encoding": "gzip"})) as answer:
        body: bytes = answer.read()
        return body


def refresh(url: str, names: list[str], since: int) -> tuple[float, int, int]:
    """(milliseconds, the index's version, bytes) of one."""
    chosen = urllib.parse.urlencode([("run", name) for name in names])
    begin = time.perf_counter()
    state = ask(f"{url}/api/runs")
    size = len(state) + len(ask(f"{url}/api/overview?{chosen}"))
    version = int(json.loads(state if state[:1] == b"{" else gzip.decompress(state))["version"])
    if version != since:
        size += len(ask(f"{url}/api/charts?since={since}&{chosen}"))
    return 1e3 * (time.perf_counter() - begin), version, size


def step_on(folders: list[Path], step: int) -> None:
    """Every run writes one more step."""
    for number, folder in enumerate(folders):
        with (folder / "metrics.jsonl").open("a") as file:
            file.writelines(lines(step, 1, number))


def in_a_browser(url: str, folders: list[Path], names: list[str], step: int, rounds: int) -> list[float] | None:
    """Milliseconds of each refresh, fetched and drawn; None: there is no Chromium."""
    programs = [shutil.which(name) for name in ("chromium", "chromedriver")]
    if None in programs:
        return None
    from selenium import webdriver
    from selenium.webdriver.support.ui import WebDriverWait

    with tempfile.TemporaryDirectory() as profile:
        options = webdriver.ChromeOptions()
        options.binary_location = programs[0] or ""
        for flag in (
            *("headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking"),
            *("disable-component-update", "disable-sync", "window-size=1280,900", f"user-data-dir={profile}"),
        ):
            options.add_argument(f"--{flag}")
        browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(programs[1]))
        try:
            browser.get(f"{url}/#runs={','.join(names)}")
            seen = "$('learning').scrollIntoView(); return document.querySelectorAll('#learning .trace').length"
            WebDriverWait(browser, 120).until(lambda page: page.execute_script(seen) > 4)
            browser.execute_script("$('pause').click()")
            spent = []
            for turn in range(rounds):
                step_on(folders, step + turn)
                browser.execute_script("performance.clearMeasures('refresh'); refresh()")
                ended = "return performance.getEntriesByName('refresh').map(entry => entry.duration)"
                spent += WebDriverWait(browser, 120, 0.05).until(lambda page: page.execute_script(ended))  # noqa: B023
            return spent
        finally:
            browser.quit()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--steps", type=int, default=10_000)
    add_small(parser)
    options = parser.parse_args()
    if options.small:
        without_goals()
        options.rounds, options.runs, options.steps = 1, 3, 50
    with tempfile.TemporaryDirectory() as root:
        folders = make(Path(root), options.runs, options.steps)
        size = sum((folder / "metrics.jsonl").stat().st_size for folder in folders) / 2**20
        say(f"{len(folders)} runs of {options.steps} steps, {len(keys())} figures each, {size:.0f} MiB")
        before = psutil.Process().memory_info().rss
        index = Index([Path(root)])
        with Server(index, "127.0.0.1", 0) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            begin = time.perf_counter()
            while index.refresh() < 1:
                pass
            first, names = time.perf_counter() - begin, [run.id for run in index.runs]
            _, version, whole = refresh(server.url, names, -1)
            busy, quiet, sent = [], [], 0
            for turn in range(options.rounds):
                step_on(folders, options.steps + 1 + turn)
                spent, version, sent = refresh(server.url, names, version)
                busy.append(spent)
                quiet.append(refresh(server.url, names, version)[0])
            say(f"sent: {whole / 2**10:.0f} KiB at first, {sent / 2**10:.0f} KiB when every run had a step more")
            say(f"refreshes, ms: {', '.join(f'{value:.0f}' for value in busy)}")
            grown = (psutil.Process().memory_info().rss - before) / 2**20
            drawn = in_a_browser(server.url, folders, names, options.steps + 1 + options.rounds, options.rounds)
            if drawn is not None:
                say(f"refreshes in a browser, ms: {', '.join(f'{value:.0f}' for value in drawn)}")
            server.shutdown()
    figure("watch_first_s", first, "s")
    figure("watch_refresh_ms", statistics.median(busy), "ms", GOAL_MS)
    figure("watch_quiet_ms", statistics.median(quiet), "ms", GOAL_MS)
    figure("watch_memory_mib", grown, "MiB")
    figure("watch_page_ms", None if drawn is None else statistics.median(drawn), "ms", GOAL_MS)


if __name__ == "__main__":
    main()
