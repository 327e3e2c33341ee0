"""Members of a sweep as Ray jobs.

In: words behind `thinkless`, a run's name. Out: `RayJob`s, which say when and how they ended. Must not know: sweeps.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import replace
from importlib import metadata
from pathlib import Path

from conf.flags import NO_FLAGS, Flags
from conf.multirun import Launching
from conf.schema import Config
from orchestrator.base.waiting import waiting
from orchestrator.jobs.job import HeadGone
from orchestrator.jobs.progress import of_log
from orchestrator.jobs.submission import of_settings
from orchestrator.jobs.working_dir import collect
from orchestrator.sweeps.runner import Ended, killed_by, reason
from rollout.base.errors import BadInput

GONE_S = 60.0  # that a head may be away


class Jobs:
    """One head. Raises HeadGone when there is none."""

    def __init__(self, launching: Launching, flags: Flags):
        with waiting("loading Ray's job client"):
            from orchestrator.jobs.client import connect

        self.client, self._launching, self._flags = connect(launching.address), launching, flags

    def start(self, words: list[str], conf: Config, run: str, log: Path) -> RayJob:
        """`thinkless train <words>` as a job named `run`. conf: what the words mean."""
        flags = NO_FLAGS if words[0].startswith("resume=") else self._flags  # a saved run takes no further files
        one = of_settings("train", words, replace(conf, run=replace(conf.run, name=run)), flags)
        with tempfile.TemporaryDirectory(prefix="thinkless-") as scratch:
            archive = Path(scratch) / "working_dir.zip"
            collect(Path.cwd(), one.named).pack(archive)
            job = self.client.submit(
                one.entrypoint,
                archive,
                run,
                one.metadata(metadata.version("thinkless"), Path.cwd()),
                {"env_vars": {"THINKLESS_TRACEBACK": "1"}},
                self._launching.num_cpus or None,
            )
        return RayJob(self, job.id, log)

    def begun(self, log: Path) -> bool:
        """Whether the log of an earlier attempt tells of a step."""
        return log.is_file() and of_log(log.read_text(errors="replace")) is not None

    def again(self, job_id: str, log: Path, unseen: bool) -> RayJob | None:
        """A job that an earlier call submitted, if it runs, or if it ended while nobody watched (`unseen`)."""
        try:
            job = self.client.job(job_id)
        except BadInput:
            return None
        return None if job.over and not unseen else RayJob(self, job_id, log)


class RayJob:
    """A member that is a Ray job. Its log is added to the sweep's folder when it ends."""

    def __init__(self, jobs: Jobs, job_id: str, log: Path):
        self._client, self.id, self._log = jobs.client, job_id, log
        self._answered = time.monotonic()

    def text(self) -> str:
        """What it has written so far."""
        return self._client.logs(self.id)

    def ended(self) -> Ended | None:
        try:
            job = self._client.job(self.id)
            text = self.text() if job.over else ""
            self._answered = time.monotonic()
        except HeadGone:
            if time.monotonic() - self._answered > GONE_S:
                raise
            return None
        if not job.over:
            return None
        with self._log.open("a", encoding="utf-8") as file:  # behind earlier attempts
            file.write(text)
        if job.status == "SUCCEEDED":
            return Ended(True)
        said = killed_by(job.exit_code) or reason(text.splitlines()) or job.message.partition("\n")[0]
        return Ended(False, said or job.status.lower())

    def stop(self) -> None:
        self._client.stop(self.id)
