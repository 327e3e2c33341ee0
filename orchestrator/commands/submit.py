"""thinkless submit: a command as a Ray job on a cluster."""

from __future__ import annotations

import os
import sys
import tempfile
from argparse import Namespace
from importlib import metadata
from pathlib import Path

from conf.flags import Flags
from conf.shell import command_line
from orchestrator.base.waiting import say_reading, waiting
from orchestrator.jobs import submission
from orchestrator.jobs.install import install
from orchestrator.jobs.keys import HANDED
from orchestrator.jobs.submission import Submission
from orchestrator.jobs.working_dir import collect


def main(options: Namespace) -> None:
    """Settings are checked and the files counted before the head is asked for anything. Ends by SystemExit with the
    job's exit code, when it is followed."""
    say_reading("submit")
    flags = Flags(config_dir=options.config_dir, config_path=options.config_path, config_name=options.config_name)
    submit(submission.read(options.overrides, flags), options, Path.cwd())


def submit(one: Submission, options: Namespace, folder: Path) -> None:
    """options: address, detach, install. folder: whose files the job is given."""
    files = collect(folder, one.named)
    environment = install(options.install, one.gpu) if options.install else {}
    with waiting("loading Ray's job client"):
        from orchestrator.jobs.client import connect
        from orchestrator.jobs.follow import follow

    client = connect(options.address)
    keys = {name: os.environ[name] for name in one.keys if os.environ.get(name)}
    if missing := [name for name in one.keys if name not in keys]:
        print(f"{', '.join(missing)}: not set here, so the job needs it in the environment of the host that runs it")
    one = submission.chosen(one, client.list())
    assert one.name is not None
    with tempfile.TemporaryDirectory(prefix="thinkless-") as scratch, waiting(f"uploading to {client.url}"):
        archive = Path(scratch) / "working_dir.zip"
        files.pack(archive)
        facts = one.metadata(metadata.version("thinkless"), folder)
        if keys:
            environment |= {"env_vars": {HANDED: client.hand_over(keys)}}
        job = client.submit(one.entrypoint, archive, one.name, facts, environment)
        size = archive.stat().st_size / 2**20
    address = ["--address", options.address] if options.address else []
    print(f"job: {job.id} ({len(files.files)} files, {size:.1f} MiB)")
    print(f"dashboard: {client.link(job.id)}")
    if one.folder:
        print(f"run folder: {one.folder} (on the host that runs the job)")
    if one.makes:
        what = "data set" if one.command == "distill" else "warmed-up model"
        print(f"{what}: {one.makes} (on the host that runs the job)")
    if options.detach:
        print(f"to follow it: {command_line('logs', *address, job.id)}", flush=True)
        return
    print("Ctrl-C leaves the job running; a second Ctrl-C stops it", flush=True)
    sys.exit(follow(client, job, address))
