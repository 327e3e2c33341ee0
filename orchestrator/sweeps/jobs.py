"""Members of a sweep as Ray jobs.

In: words behind `thinkless`, a run's name. Out: `RayJob`s, which say when and how they ended. Must not know: sweeps.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from importlib import metadata
from pathlib import Path

from conf.flags import NO_FLAGS, Flags
from conf.multirun import Launching
from conf.schema import Config
from orchestrator.base.errors import RunError
from orchestrator.base.waiting import waiting
from orchestrator.jobs.job import HeadGone
from orchestrator.jobs.progress import of_log
from orchestrator.jobs.submission import of_settings
from orchestrator.jobs.working_dir import collect
from orchestrator.sweeps.runner import Ended, killed_by, last, note, reason
from rollout.base.errors import BadInput

REFUSED_S = 60.0  # that a head which answers may refuse to say what a job is doing


class Jobs:
    """One head. Every method raises HeadGone when it does not answer."""

    def __init__(self, launching: Launching, flags: Flags):
        with waiting("loading Ray's job client"):
            from orchestrator.jobs.client import connect

        self.client, self._launching, self._flags = connect(launching.address), launching, flags

    def start(self, words: list[str], conf: Config, run: str, marks: Mapping[str, str], log: Path) -> RayJob:
        """`thinkless train <words>` as a job named `run`. conf: what the words mean. marks: of its metadata.

        Raises RunError or BadInput for what cannot be submitted.
        """
        flags = NO_FLAGS if words[0].startswith("resume=") else self._flags  # a saved run takes no further files
        one = of_settings("train", words, replace(conf, run=replace(conf.run, name=run)), flags)
        with tempfile.TemporaryDirectory(prefix="thinkless-") as scratch:
            archive = Path(scratch) / "working_dir.zip"
            collect(Path.cwd(), one.named).pack(archive)
            job = self.client.submit(
                one.entrypoint,
                archive,
                run,
                {**one.metadata(metadata.version("thinkless"), Path.cwd()), **marks},
                {"env_vars": {"THINKLESS_TRACEBACK": "1"}},
                self._launching.num_cpus or None,
            )
        return RayJob(self, job.id, log)

    def begun(self, log: Path) -> bool:
        """Whether the log of an earlier attempt tells of a step."""
        return log.is_file() and of_log(log.read_text(errors="replace")) is not None

    def again(self, marks: Mapping[str, str], noted: str | None, running: bool, log: Path) -> RayJob | None:
        """The newest job with these marks, if it runs or has succeeded, or if it ended while nobody watched.

        noted: the id of the job that an earlier call knew of. running: whether that one ran when it was last seen.
        """
        own = [job for job in self.client.list() if job.id == noted or marks.items() <= job.metadata.items()]
        if not own:
            return None
        job = own[-1]
        unseen = running or job.id != noted
        return RayJob(self, job.id, log) if not job.over or job.status == "SUCCEEDED" or unseen else None


class RayJob:
    """A member that is a Ray job. Its log is added to the sweep's folder when it ends."""

    def __init__(self, jobs: Jobs, job_id: str, log: Path):
        self._client, self.id, self._log = jobs.client, job_id, log
        self._answered = time.monotonic()

    def doing(self) -> str:
        try:
            return last(self._client.logs(self.id))
        except (RunError, BadInput):  # it has not begun, or the head is away: `ended` tells
            return ""

    def ended(self) -> Ended | None:
        """Raises HeadGone."""
        try:
            job = self._client.job(self.id)
            self._answered = time.monotonic()
        except HeadGone:
            raise
        except (RunError, BadInput) as error:
            if isinstance(error, RunError) and time.monotonic() - self._answered < REFUSED_S:
                return None
            note(self._log, str(error))
            return Ended(False, str(error))
        if not job.over:
            return None
        text, lost = "", None
        try:
            text = self._client.logs(self.id)
        except HeadGone:
            raise
        except (RunError, BadInput) as error:  # the node that it ran on has left
            lost = f"the log of the job {self.id} cannot be had: {error}"
            note(self._log, lost)
        with self._log.open("a", encoding="utf-8") as file:  # behind earlier attempts
            file.write(text)
        if job.status == "SUCCEEDED":
            return Ended(True, lost)
        said = killed_by(job.exit_code) or reason(text.splitlines()) or lost or job.message.partition("\n")[0]
        return Ended(False, said or job.status.lower())

    def stop(self) -> None:
        """Raises HeadGone. A head that refuses is noted in the log: the job goes on."""
        try:
            self._client.stop(self.id)
        except HeadGone:
            raise
        except (RunError, BadInput) as error:
            note(self._log, f"it cannot be stopped: {error}")
