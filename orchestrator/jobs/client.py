"""Ray's job API: the only file of this package that imports Ray.

In: a head's address, entry points with a working directory. Out: `Job`s, their logs; one clear line for a head that is
gone, wants a token or takes no jobs. Must not know: what a job runs.

    client = connect(None)                      # --address, RAY_API_SERVER_ADDRESS, RAY_ADDRESS or this host's head
    job = client.submit(["python3", "-m", "orchestrator.train"], "code.zip", "quickstart-001", {"thinkless": "train"})
    for piece in client.follow(job.id):         # "" about every second in which nothing is written
        print(piece, end="")
    client.job(job.id).exit_code
"""

from __future__ import annotations

import asyncio
import contextlib
import difflib
import json
import logging
import os
import re
import secrets
import shlex
import socket
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import requests
from ray.dashboard.utils import get_address_for_submission_client
from ray.exceptions import AuthenticationError, RayError
from ray.job_submission import JobDetails, JobSubmissionClient

from orchestrator.base.errors import RunError, WaitedTooLong
from orchestrator.cluster.local_rays import auto_address
from orchestrator.jobs.job import RUN, VARIABLES, HeadGone, Job, NameTaken, chosen_address, gone_line, token
from rollout.base.errors import BadInput

CONNECT_S, ANSWER_S = 10.0, 60.0  # of one request
HEARTBEAT_S = 20.0  # of a followed log's connection: a head that vanished is noticed
GONE_S = 60.0  # that a head may be away while a log is followed
IDLE_S = 1.0


def connect(given: str | None = None) -> Client:
    """A client of the head at `given` (see `chosen_address`): http(s)://host:port of its dashboard; host:port of that
    or of the head itself; "auto", the head on this host. Raises HeadGone, RunError, or BadInput for no address."""
    logging.getLogger("ray.dashboard.modules.dashboard_sdk").setLevel(logging.WARNING)  # "Uploading package gcs:..."
    address, source = chosen_address(given)
    url = _dashboard(address, source).rstrip("/")
    if not re.fullmatch(r"https?://[^/\s]+(/\S*)?", url):
        raise BadInput(f"{source}: {address!r} is no address of a Ray head: write http://host:8265")
    with _one_line(url, source):
        headers = _authorization(url)
        with _variable(VARIABLES[0], url):  # Ray takes it rather than the address that it is given
            return Client(_Requests(url, headers=headers), url, source, headers)


class _Requests(JobSubmissionClient):
    """With a time limit: Ray's own has none."""

    def _do_request(self, method: str, endpoint: str, **more: Any) -> Any:
        return super()._do_request(method, endpoint, timeout=(CONNECT_S, ANSWER_S), **more)

    def put_package(self, name: str, content: bytes) -> None:
        answer = self._do_request("PUT", f"/api/packages/gcs/{name}", data=content)
        if answer.status_code != 200:
            self._raise_error(answer)


class Client:
    """One head. Every method raises HeadGone when it does not answer, BadInput for a job that it does not know."""

    def __init__(self, requests: _Requests, url: str, source: str, headers: Mapping[str, str]):
        self.url, self._source = url, source
        self._requests, self._headers = requests, headers

    def link(self, job_id: str) -> str:
        """The job's page on Ray's dashboard."""
        return f"{self.url}/#/jobs/{job_id}"

    def submit(
        self,
        entrypoint: Sequence[str],
        working_dir: str | Path | None,
        name: str,
        metadata: Mapping[str, str],
        runtime_env: Mapping[str, Any] | None = None,
        entrypoint_num_cpus: float | None = None,
    ) -> Job:
        """Upload `working_dir` (a folder, or a .zip of one) and start the words of `entrypoint` in it.

        The job's id is `name`, or `name.2` and so on when jobs of that name were there before. Raises NameTaken where
        one of them still runs, RunError when the head takes no jobs.
        """
        before = [job for job in self.list() if job.name == name]
        if running := [job for job in before if not job.over]:
            raise NameTaken(f"the job {running[-1].id} is {running[-1].status.lower()}: wait for its end, or stop it")
        number = len(before)
        plain = re.sub(r"[^\w.\-]", "-", name)
        env = {**(runtime_env or {}), **({"working_dir": str(working_dir)} if working_dir is not None else {})}
        while True:
            number += 1
            job_id = plain if number == 1 else f"{plain}.{number}"
            try:
                with _one_line(self.url, self._source):
                    self._requests.submit_job(
                        entrypoint=shlex.join(entrypoint),
                        submission_id=job_id,
                        runtime_env=env,
                        metadata={**metadata, RUN: name},
                        entrypoint_num_cpus=entrypoint_num_cpus,
                    )
                return self.job(job_id)
            except RunError as error:
                if "already exists" not in str(error.__cause__):
                    raise

    def hand_over(self, keys: Mapping[str, str]) -> str:
        """Put environment variables into the head's memory for a job that takes them from there (`orchestrator.jobs.
        keys`), and return their place. The job API has no store; a package of a runtime environment is one."""
        name = f"thinkless-keys-{secrets.token_hex(16)}.zip"
        text = json.dumps(dict(keys))
        with _one_line(self.url, self._source):
            self._requests.put_package(name, f"{text:>{len(text) + 32}}".encode())  # an error shows the first 15 bytes
        return f"gcs://{name}"

    def list(self) -> list[Job]:
        """All that were submitted to this head, the oldest first."""
        with _one_line(self.url, self._source):
            found = self._requests.list_jobs()
        jobs = [_job(details) for details in found if details.submission_id]
        return sorted(jobs, key=lambda job: (job.started or 0.0, job.id))

    def find(self, name: str) -> Job:
        """The newest job of that name or id. Raises BadInput when there is none."""
        jobs = self.list()
        found = [job for job in jobs if name in (job.id, job.name)]
        if found:
            return found[-1]
        names = list(dict.fromkeys(job.name for job in jobs))
        near = difflib.get_close_matches(name, names, 1)
        hint = (
            f"did you mean {near[0]}?" if near else f"there are: {', '.join(names[-8:])}" if names else "there is none"
        )
        raise BadInput(f"no job {name!r} at {self.url}; {hint}")

    def job(self, job_id: str) -> Job:
        """What a job is doing now."""
        with _one_line(self.url, self._source, job_id):
            return _job(self._requests.get_job_info(job_id))

    def logs(self, job_id: str) -> str:
        """All that the job has written so far."""
        with _one_line(self.url, self._source, job_id):
            text: str = self._requests.get_job_logs(job_id)
            return text

    def stop(self, job_id: str) -> bool:
        """Ask for the job's end (SIGTERM, later SIGKILL) and return at once. Returns whether it was running."""
        with _one_line(self.url, self._source, job_id):
            return bool(self._requests.stop_job(job_id))

    def wait(self, job_id: str, timeout_s: float | None = None) -> Job:
        """Until the job is over. Raises WaitedTooLong."""
        end = None if timeout_s is None else time.monotonic() + timeout_s
        while not (job := self.job(job_id)).over:
            if end is not None and time.monotonic() > end:
                raise WaitedTooLong(f"timed out after {timeout_s:g} s waiting for the end of job {job_id}")
            time.sleep(IDLE_S)
        return job

    def follow(self, job_id: str) -> Generator[str]:
        """What the job writes, from its beginning, in pieces; "" about every second in which it writes nothing. Ends
        when the job is over. A connection that breaks is made again for a minute; then HeadGone is raised."""
        seen, lost = 0, None  # characters; since when there is no connection
        with contextlib.closing(asyncio.new_event_loop()) as loop:
            while True:
                before = skip = seen
                try:
                    for piece in self._tail(loop, job_id):
                        fresh, skip = piece[skip:], max(0, skip - len(piece))
                        seen += len(fresh)
                        yield fresh
                    if self.job(job_id).over:
                        return
                    lost = None
                except (aiohttp.ClientError, OSError, HeadGone) as error:
                    if isinstance(error, aiohttp.WSServerHandshakeError):
                        self.job(job_id)  # a head that answers: it forgot the job, or refuses the token, and says so
                    now = time.monotonic()
                    lost = now if lost is None or seen > before else lost
                    if now - lost > GONE_S:
                        raise HeadGone(gone_line(self.url, self._source, error)) from error
                time.sleep(IDLE_S)
                yield ""

    def _tail(self, loop: asyncio.AbstractEventLoop, job_id: str) -> Iterator[str]:
        """One connection, until either side closes it."""
        url = f"{self.url}/api/jobs/{job_id}/logs/tail"
        limit = aiohttp.ClientTimeout(total=None, connect=CONNECT_S, sock_connect=CONNECT_S)

        async def opened() -> tuple[aiohttp.ClientSession, Any]:
            session = aiohttp.ClientSession(headers=self._headers, timeout=limit)
            try:
                return session, await session.ws_connect(url, heartbeat=HEARTBEAT_S, max_msg_size=0)
            except BaseException:
                await session.close()
                raise

        session, connection = loop.run_until_complete(opened())
        next_message: asyncio.Task[Any] | None = None
        try:
            while True:
                next_message = next_message or loop.create_task(connection.receive())
                loop.run_until_complete(asyncio.wait({next_message}, timeout=IDLE_S))
                if not next_message.done():
                    yield ""
                    continue
                message, next_message = next_message.result(), None
                if message.type is not aiohttp.WSMsgType.TEXT:
                    if message.type is aiohttp.WSMsgType.ERROR:
                        raise ConnectionError(str(connection.exception()))
                    return
                yield message.data
        finally:
            if next_message is not None:
                next_message.cancel()
                loop.run_until_complete(asyncio.wait({next_message}))
            loop.run_until_complete(session.close())


def _job(details: JobDetails) -> Job:
    metadata = dict(details.metadata or {})
    return Job(
        id=str(details.submission_id),
        name=metadata.get(RUN, str(details.submission_id)),
        status=str(details.status),
        entrypoint=details.entrypoint,
        metadata=metadata,
        started=details.start_time / 1000 if details.start_time else None,
        ended=details.end_time / 1000 if details.end_time else None,
        message=details.message or "",
        exit_code=details.driver_exit_code,
    )


def _dashboard(address: str, source: str) -> str:
    """The dashboard's address, for those of a head as `ray.init` takes them as well."""
    if address.startswith(("http://", "https://")):
        return address
    if address == "auto":
        address = auto_address()
    if "://" not in address:
        host, _, port = address.rpartition(":")
        if not host or not port.isdigit():
            raise BadInput(f"{source}: {address!r} is no address of a Ray head: write http://host:8265")
        try:
            with contextlib.closing(socket.create_connection((host, int(port)), timeout=CONNECT_S)):
                pass
            requests.get(f"http://{address}/api/version", timeout=CONNECT_S)
            return f"http://{address}"
        except requests.RequestException:  # the head's own port, which does not speak HTTP
            pass
        except OSError as error:
            raise HeadGone(gone_line(address, source, error)) from error
    with contextlib.ExitStack() as stack:
        for name in VARIABLES:
            stack.enter_context(_variable(name, None))
        try:
            return get_address_for_submission_client(address)
        except (RayError, RuntimeError, ValueError, ConnectionError) as error:
            raise HeadGone(gone_line(address, source, error)) from error


def _authorization(url: str) -> dict[str, str]:
    """The header of a head that asks for a token; no other is sent one."""
    answer = requests.get(f"{url}/api/jobs/", timeout=(CONNECT_S, ANSWER_S))
    if answer.status_code not in (401, 403):
        return {}
    return {"Authorization": f"Bearer {token(url)}"}


@contextlib.contextmanager
def _variable(name: str, value: str | None) -> Iterator[None]:
    before = os.environ.pop(name, None)
    try:
        if value is not None:
            os.environ[name] = value
        yield
    finally:
        os.environ.pop(name, None)
        if before is not None:
            os.environ[name] = before


@contextlib.contextmanager
def _one_line(url: str, source: str, job_id: str | None = None) -> Iterator[None]:
    """Ray's and requests' errors as one line each."""
    try:
        yield
    except AuthenticationError as error:
        raise RunError(
            f"the Ray head at {url} refuses the token: RAY_AUTH_TOKEN or ~/.ray/auth_token must be the one that it was "
            "started with"
        ) from error
    except (requests.RequestException, ConnectionError) as error:
        raise HeadGone(gone_line(url, source, error)) from error
    except RuntimeError as error:
        if isinstance(error, RunError):
            raise
        reason = " ".join(str(error).split())
        if "Version check" in reason:
            raise HeadGone(gone_line(url, source, RuntimeError("what answers is no Ray dashboard"))) from error
        if job_id is not None and "404" in reason:
            raise BadInput(f"no job {job_id!r} at {url}") from error
        if "No available agent" in reason:
            raise RunError(
                f"the Ray head at {url} takes no jobs (no agent on it): another Ray on its host probably has the "
                "agent's port; start it with a --dashboard-agent-listen-port of its own"
            ) from error
        raise RunError(f"the Ray head at {url} refused: {reason[:400]}") from error
