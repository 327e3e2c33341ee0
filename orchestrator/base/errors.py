"""Errors that end a run with one clear line."""

from __future__ import annotations


class RunError(RuntimeError):
    """What happened, where, and what to do."""


class WaitedTooLong(RunError):
    """Who waited for whom, and for how long."""


class ActorDied(RunError):
    """Which actor's process has died."""

    def with_more(self, text: str) -> ActorDied:
        return type(self)(f"{self}{text}", *self.args[1:])

    def __str__(self) -> str:
        return str(self.args[0])


class ActorUnreachable(ActorDied):
    """Which actor a call was lost to, whose process may live: its host is cut off, or gone. A second argument is Ray's
    name of the actor."""
