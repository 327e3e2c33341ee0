"""thinkless jobs: the jobs of a cluster, with how far their runs have come."""

from __future__ import annotations

import time
from argparse import Namespace
from pathlib import Path
from typing import Any

from orchestrator.base.errors import RunError
from orchestrator.base.waiting import waiting
from orchestrator.jobs.job import HeadGone, Job
from orchestrator.jobs.progress import Progress, of_folder, of_log
from orchestrator.tracking.console import duration
from rollout.base.errors import BadInput

SHOWN = 20  # the newest
HEADINGS = ("job", "status", "step", "thinks", "tokens/s", "since", "for")


def main(options: Namespace) -> None:
    with waiting("loading Ray's job client"):
        from orchestrator.jobs.client import connect

    client = connect(options.address)
    jobs = client.list()
    if not jobs:
        print(f"no job was submitted to {client.url}")
        return
    newest = {job.metadata.get("folder"): job for job in jobs}  # a run that was resumed has several
    shown = []
    for job in jobs[-SHOWN:]:
        found = _progress(job) if newest[job.metadata.get("folder")] is job else None
        shown.append((job, found or of_log(_log(client, job))))
    print("\n".join(table(shown)))
    if len(jobs) > SHOWN:
        print(f"({len(jobs) - SHOWN} older ones: {client.url}/#/jobs)")


def _log(client: Any, job: Job) -> str:
    """Empty where the head has it no more: the node that the job ran on has left."""
    try:
        text: str = client.logs(job.id)
        return text
    except HeadGone:
        raise
    except (RunError, BadInput):
        return ""


def table(jobs: list[tuple[Job, Progress | None]], now: float | None = None) -> list[str]:
    """Lines: a heading, then a job each, aligned. now: seconds since 1970."""
    rows = [HEADINGS, *(_row(job, found, time.time() if now is None else now) for job, found in jobs)]
    widths = [max(len(row[at]) for row in rows) for at in range(len(HEADINGS))]
    return ["  ".join(f"{cell:<{wide}}" for cell, wide in zip(row, widths, strict=True)).rstrip() for row in rows]


def _row(job: Job, found: Progress | None, now: float) -> tuple[str, ...]:
    since = time.strftime("%Y-%m-%d %H:%M", time.localtime(job.started)) if job.started else "–"
    spent = duration((job.ended or now) - job.started) if job.started else "–"
    if found is None:
        return job.id, job.status.lower(), "–", "–", "–", since, spent
    steps = found.steps or job.metadata.get("steps")
    thinks = "–" if found.think_rate is None else f"{found.think_rate:.0%}"
    speed = "–" if found.tokens_per_s is None else f"{found.tokens_per_s:,.0f}"
    return job.id, job.status.lower(), f"{found.step}/{steps or '?'}", thinks, speed, since, spent


def _progress(job: Job) -> Progress | None:
    """From the run's folder, where it is on a disk that is seen from here."""
    folder = job.metadata.get("folder")
    return of_folder(Path(folder).expanduser()) if folder else None
