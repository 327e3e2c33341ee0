"""Calls to an actor for figures: one at a time, never waited for.

In: an actor's handle. Out: its answer, once it is there. Must not know: what is asked.

Whatever goes wrong with such a call ends no run: an actor's death is found by those who need its work.
"""

from __future__ import annotations

from typing import Any

from orchestrator.base.errors import ActorDied, ActorUnreachable
from orchestrator.tracking.failures import Failures, in_words
from rollout.base.handle import Future, Handle


class Poll:
    """died: the error by which the last answer said that the actor is dead."""

    def __init__(self, handle: Handle, method: str, failures: Failures):
        self.handle, self.method, self.failures = handle, method, failures
        self.died: ActorDied | None = None
        self._answer: Future | None = None

    def ask(self) -> bool:
        """Call the actor, unless a call is under way. Returns whether it was called."""
        if self._answer is not None:
            return False
        try:
            self._answer = self.handle.call(self.method)
        except Exception as error:
            self._failed(error)
        return self._answer is not None

    @property
    def ready(self) -> bool:
        """Whether `take` has something to take."""
        return self._answer is not None and self._answer.done()

    @property
    def under_way(self) -> bool:
        return self._answer is not None and not self._answer.done()

    def take(self) -> Any | None:
        """The answer of a call that is ready; None where it failed."""
        answer, self._answer, self.died = self._answer, None, None
        assert answer is not None
        try:
            return answer.wait()
        except ActorUnreachable:
            pass  # it may live, and then answers again
        except ActorDied as error:
            self.died = error
        except Exception as error:
            self._failed(error)
        return None

    def _failed(self, error: Exception) -> None:
        self.failures.add(f"{self.method} of an actor failed ({in_words(error)}): training goes on without its figures")
