"""thinkless resume: goes on with a job's run, as a new job on the same cluster."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import replace
from pathlib import Path

from conf.flags import NO_FLAGS, Flags
from conf.shell import command_line
from orchestrator.base.waiting import say_reading, waiting
from orchestrator.commands.arguments import read
from orchestrator.commands.submit import submit
from orchestrator.jobs import submission
from orchestrator.jobs.progress import run_folder
from rollout.base.errors import BadInput


def main(options: Namespace) -> None:
    """As `thinkless submit train resume=<its run folder>`, or the same distill or warmup again, from the folder that
    the job was submitted from where that is on this machine."""
    say_reading("resume")
    with waiting("loading Ray's job client"):
        from orchestrator.jobs.client import connect

    client = connect(options.address)
    job = client.find(options.name)
    if not job.over:
        raise BadInput(f"the job {job.id} is {job.status.lower()}: wait for its end, or stop it first")
    came_from = Path(job.metadata.get("from", "."))
    if words := submission.again(job.entrypoint):
        given = read("submit", [*words, *options.overrides])
        flags = Flags(config_dir=given.config_dir, config_path=given.config_path, config_name=given.config_name)
        one = replace(submission.read(given.overrides, flags), name=job.name)
    elif folder := job.metadata.get("folder") or run_folder(client.logs(job.id)):
        one = submission.read(["train", f"resume={folder}", *options.overrides], NO_FLAGS)
    else:
        raise BadInput(f"the job {job.id} made no run that could go on; its log: {command_line('logs', job.id)}")
    submit(one, options, came_from if came_from.is_dir() else Path.cwd())
