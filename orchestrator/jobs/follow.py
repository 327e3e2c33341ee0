"""Watching a job from a terminal: its log until its end; Ctrl-C leaves it running, a second Ctrl-C stops it.

In: a client, a job. Out: the log on stdout, the exit code of the command that watches. Must not know: what is run.
"""

from __future__ import annotations

import sys
import time

from conf.shell import command_line
from orchestrator.base import interrupt
from orchestrator.jobs.client import Client
from orchestrator.jobs.job import Job
from orchestrator.jobs.progress import Screen

SECOND_S = 3.0  # in which a second Ctrl-C is taken as the wish to stop the job
STOPPED = 128 + 15  # as shells report SIGTERM: Ray ends jobs by it


def follow(client: Client, job: Job, address: list[str], skip: int = 0) -> int:
    """Print the job's log until it is over. Returns the job's exit code; 130 or 143 after a signal to this process.

    address: ["--address", ...] as the user gave it, for the commands that are printed; skip: characters of the log that
    are not printed.
    """
    again = command_line("logs", *address, job.id)
    interrupt.install()
    try:
        with interrupt.saving(
            f"the job {job.id} goes on", f"within {SECOND_S:g} s stops it. To follow it again: {again}"
        ):
            try:
                return _watch(client, job, skip)
            except interrupt.Interrupted:
                if interrupt.exit_code() == STOPPED:  # SIGTERM: no terminal, nobody to press it again
                    return interrupt.exit_code()
                time.sleep(SECOND_S)
                return interrupt.exit_code()
    except interrupt.EndedAtOnce:
        interrupt.install()  # a third ends this command
        return stop(client, job)


def stop(client: Client, job: Job) -> int:
    """Stop the job, print what it writes until its end, and return its exit code."""
    written = len(client.logs(job.id))
    client.stop(job.id)
    print(f"stopping the job {job.id}: it saves its steps first", file=sys.stderr, flush=True)
    return _watch(client, job, written)


def _watch(client: Client, job: Job, skip: int) -> int:
    screen = Screen()
    pieces = client.follow(job.id)
    try:
        while True:
            with interrupt.waiting_here():
                piece = next(pieces, None)
            if piece is None:
                break
            screen.write(piece[skip:])
            skip = max(0, skip - len(piece))
    finally:
        screen.close()
        pieces.close()
    return exit_code(client.job(job.id))


def exit_code(job: Job) -> int:
    """Of a job that is over; says why on stderr where its log does not."""
    if job.status == "SUCCEEDED":
        return 0
    if job.exit_code is None and job.status == "FAILED":
        print(f"thinkless: the job {job.id} failed: {cause(job.message)}", file=sys.stderr)
    code = STOPPED if job.status == "STOPPED" else 1
    return code if job.exit_code is None else job.exit_code % 256 if job.exit_code >= 0 else 128 - job.exit_code


def cause(message: str) -> str:
    """One line of Ray's message about a job that could not start: what a command that failed printed last, or a
    traceback's end."""
    return " ".join(message.rpartition("lines of stdout:")[2].split())[-600:]
