"""thinkless logs: the log of a job, followed until its end."""

from __future__ import annotations

import sys
from argparse import Namespace

from orchestrator.base.waiting import waiting


def main(options: Namespace) -> None:
    """Ends by SystemExit with the job's exit code (--detach: 0, with what is written so far)."""
    with waiting("loading Ray's job client"):
        from orchestrator.jobs.client import connect
        from orchestrator.jobs.follow import follow

    client = connect(options.address)
    job = client.find(options.name)
    if options.detach:
        print(client.logs(job.id), end="")
        return
    sys.exit(follow(client, job, ["--address", options.address] if options.address else []))
