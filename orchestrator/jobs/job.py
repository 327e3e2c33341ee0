"""What a job is, which head is meant, and the errors about both.

In: environment variables, the words behind --address. Out: types and text. Must not know: Ray (`client` asks it).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from conf.shell import start_head
from orchestrator.base.errors import RunError

DEFAULT = "http://127.0.0.1:8265"
VARIABLES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")  # in Ray's own order
RUN = "run"  # key of a job's metadata that holds the name it was submitted under
OVER = ("STOPPED", "SUCCEEDED", "FAILED")


class NameTaken(RunError):
    """A job of this name is running."""


class HeadGone(RunError):
    """No head answers at this address."""


@dataclass(frozen=True, slots=True)
class Job:
    id: str  # Ray's submission id
    name: str  # as submitted; several jobs may share one (a run that was resumed)
    status: str  # PENDING, RUNNING, STOPPED, SUCCEEDED, FAILED
    entrypoint: str
    metadata: Mapping[str, str]
    started: float | None  # seconds since 1970
    ended: float | None
    message: str  # Ray's, about its status
    exit_code: int | None  # of its entry point; None: not over, or killed with its supervisor

    @property
    def over(self) -> bool:
        return self.status in OVER


def chosen_address(given: str | None) -> tuple[str, str]:
    """(address, where it is from): `given`, else Ray's two environment variables, else this host's default port."""
    if given:
        return given, "--address"
    for name in VARIABLES:
        if os.environ.get(name):
            return os.environ[name], name
    return DEFAULT, "the default"


def token(url: str) -> str:
    """The token for a head that requires one, from where Ray looks for it. Raises RunError when there is none."""
    text = os.environ.get("RAY_AUTH_TOKEN", "").strip()
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or "~/.ray/auth_token").expanduser()
    if not text and path.is_file():
        text = path.read_text().strip()
    if not text:
        raise RunError(
            f"the Ray head at {url} requires a token, and there is none: put the head's into RAY_AUTH_TOKEN or {path}"
        )
    return text


def gone_line(url: str, source: str, error: Exception) -> str:
    reason = "timed out" if isinstance(error, TimeoutError) or "Timeout" in type(error).__name__ else _innermost(error)
    return (
        f"no Ray head answers at {url} ({reason}; address from {source}): give its dashboard's address with "
        f"--address or RAY_ADDRESS, or start one: {start_head()}"
    )


def _innermost(error: BaseException) -> str:
    """Of requests' and Ray's nested errors the operating system's: "Connection refused"."""
    at: BaseException | None = error
    while at is not None:
        if isinstance(at, OSError) and at.strerror:
            return at.strerror
        at = at.__cause__ or at.__context__
    return (" ".join(str(error).split()) or type(error).__name__)[:200]
