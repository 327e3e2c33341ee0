"""Stands in for `orchestrator.jobs.client.Client` where a test is about what a sweep makes of a head's answers.

Jobs are processes of `tests.helpers.member`. What a real head answers is tested in tests/orchestrator/test_job.py.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from orchestrator.base.errors import RunError
from orchestrator.jobs.job import RUN, HeadGone, Job
from rollout.base.errors import BadInput


class ScriptedHead:
    def __init__(self, home: Path):
        """home: of its jobs."""
        self.home, self.jobs, self.forgotten = home, dict[str, "_Process"](), set[str]()
        self.refused: set[str] = set()  # names that it takes no jobs of
        self.lost: set[str] = set()  # ids of jobs whose logs it does not have
        self.gone = 0  # calls that it does not answer
        self.submitted_last: BaseException | None = None  # raised once, when the job has begun

    def submit(
        self,
        entrypoint: Sequence[str],
        working_dir: str | Path | None,
        name: str,
        metadata: Mapping[str, str],
        runtime_env: Mapping[str, Any] | None = None,
        entrypoint_num_cpus: float | None = None,
    ) -> Job:
        self._answer()
        if name in self.refused:
            raise RunError(f"the Ray head at http://x refused: no room for {name}")
        number = sum(job.metadata[RUN] == name for job in self.jobs.values()) + 1
        job_id = name if number == 1 else f"{name}.{number}"
        self.jobs[job_id] = _Process(self.home, job_id, [*entrypoint], {**metadata, RUN: name})
        if error := self.submitted_last:
            self.submitted_last = None
            raise error
        return self.job(job_id)

    def list(self) -> list[Job]:
        self._answer()
        return [job.now() for job in self.jobs.values()]

    def job(self, job_id: str) -> Job:
        self._answer()
        if job_id in self.forgotten:
            raise BadInput(f"no job {job_id!r} at http://x")
        return self.jobs[job_id].now()

    def logs(self, job_id: str) -> str:
        self._answer()
        if job_id in self.lost:
            raise RunError("the Ray head at http://x refused: no agent on the node")
        return self.jobs[job_id].log.read_text()

    def stop(self, job_id: str) -> bool:
        self._answer()
        self.jobs[job_id].process.terminate()
        return True

    def _answer(self) -> None:
        if self.gone:
            self.gone -= 1
            raise HeadGone("no Ray head answers at http://x")


class _Process:
    def __init__(self, home: Path, job_id: str, entrypoint: Sequence[str], metadata: dict[str, str]):
        assert entrypoint[:3] == ["python3", "-m", "orchestrator.train"], entrypoint
        home.mkdir(parents=True, exist_ok=True)
        self.id, self.metadata, self.log = job_id, metadata, home / f"{job_id}.log"
        with self.log.open("w") as out:
            words = [sys.executable, "-m", "tests.helpers.member", "train", *entrypoint[3:]]
            self.process = subprocess.Popen(words, cwd=home, stdout=out, stderr=subprocess.STDOUT)

    def now(self) -> Job:
        code = self.process.poll()
        status = "RUNNING" if code is None else "FAILED" if code else "SUCCEEDED"
        return Job(self.id, self.metadata[RUN], status, "", self.metadata, None, None, "", code)
