"""The folder that holds runs: `run.root` as an absolute path. Standard library only."""

from __future__ import annotations

import os
from pathlib import Path


def in_ray_job() -> bool:
    """Whether this process is a Ray job's entry point: its working directory is temporary then."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ


def root(run_root: str) -> Path:
    """`run.root` as an absolute path; a relative one is under ~/thinkless in a Ray job, else where the command runs."""
    path = Path(run_root).expanduser()
    if path.is_absolute():
        return path
    return (Path.home() / "thinkless" if in_ray_job() else Path.cwd()) / path
