"""thinkless stop: ends a job, which saves its steps first."""

from __future__ import annotations

from argparse import Namespace

from conf.shell import command_line
from orchestrator.base.waiting import waiting
from rollout.base.errors import BadInput


def main(options: Namespace) -> None:
    """Returns when the job is over. Raises BadInput for one that was."""
    with waiting("loading Ray's job client"):
        from orchestrator.jobs.client import connect
        from orchestrator.jobs.follow import stop

    client = connect(options.address)
    job = client.find(options.name)
    if job.over:
        raise BadInput(f"the job {job.id} is over ({job.status.lower()})")
    stop(client, job)
    address = ["--address", options.address] if options.address else []
    print(f"stopped: {job.id}; to go on from there: {command_line('resume', *address, job.name)}")
