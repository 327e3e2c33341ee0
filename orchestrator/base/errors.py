"""Errors that end a run with one clear line."""

from __future__ import annotations


class RunError(RuntimeError):
    """What happened, where, and what to do."""


class WaitedTooLong(RunError):
    """Who waited for whom, and for how long."""


class ActorDied(RunError):
    """Which actor's process has died."""


class ActorUnreachable(ActorDied):
    """Which actor a call was lost to, whose process may live: its host is cut off, or gone."""
