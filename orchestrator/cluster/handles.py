"""Calls to actors, and the only `ray.get` of the project: every wait has a time-out that names who waited for whom.

In: Ray actors. Out: `RayHandle`s and `RayFuture`s, which the other rooms use without knowing Ray.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from collections.abc import Callable, Collection, Sequence
from textwrap import shorten
from typing import Any

import ray
import ray._private.state
from ray import exceptions
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from orchestrator.base.errors import ActorDied, ActorUnreachable, RunError, WaitedTooLong
from orchestrator.base.interrupt import waiting_here
from orchestrator.base.processes import process
from rollout.base.errors import BadInput

PULSE = "pulse"  # method of actors that have a thread for it
ELSEWHERE_S = 60.0  # for another host to look at a process
SETTLE_S = 3.0  # after an actor's death, for others to follow it
OTHER_CAUSE_CHARACTERS = 160  # told of another rank's error, beside the dead one


class RayFuture:
    """The answer of one call. Pass it to another `RayHandle.call` as an argument: the value goes there, not through
    here."""

    def __init__(self, ref: Any, what: str, timeout_s: float, handle: RayHandle | None = None):
        """handle: of the actor, where one answers."""
        self.ref, self.what, self.timeout_s, self.handle = ref, what, timeout_s, handle
        self.begin = time.monotonic()

    def wait(self) -> Any:
        """The value. Raises WaitedTooLong, RunError when the actor died, or the error that the call raised there."""
        try:
            with waiting_here():
                return ray.get(self.ref, timeout=self.timeout_s)
        except exceptions.GetTimeoutError as error:
            raise WaitedTooLong(f"the driver timed out after {self.timeout_s:g} s waiting for {self.what}") from error
        except exceptions.RayTaskError as error:
            cause = error.cause if isinstance(error.cause, Exception) else error
            if isinstance(cause, exceptions.ActorUnavailableError):  # another one, whose result it was given
                raise self._unreachable(cause, "what it needs of another actor") from error
            cause.add_note(f"in {self.what}; its traceback: {error}")
            raise cause from None
        except exceptions.ActorUnavailableError as error:
            raise self._unreachable(error, "the actor") from error
        except exceptions.RayActorError as error:
            if error.actor_init_failed:
                raise start_error(self.what, error) from error
            about = self.handle.about_death(time.monotonic() - self.begin) if self.handle else ""
            raise ActorDied(f"{self.what}: the actor died ({_cause_of_death(error)}){about}") from error
        except exceptions.ObjectLostError as error:
            raise RunError(f"{self.what}: its answer was lost ({' '.join(str(error).split())[:300]})") from error

    def _unreachable(self, error: exceptions.ActorUnavailableError, what: str) -> ActorUnreachable:
        reason = " ".join(str(error).split()).rpartition("unavailable: ")[2][:300]
        return ActorUnreachable(f"{self.what}: {what} cannot be reached ({reason})", error.actor_id)

    def done(self) -> bool:
        """Whether `wait` would return (or raise) at once."""
        done, _ = ray.wait([self.ref], timeout=0, fetch_local=False)
        return bool(done)


def start_error(what: str, error: Exception) -> Exception:
    """The error that an actor raised in its constructor, which Ray gives as text: a traceback that ends in the error.

    The error's message may have several lines, indented ones among them (pydantic's): it is all that follows the last
    line of the form `module.Kind: message` after the last stack frame.
    """
    lines = str(error).strip().splitlines()
    frames = [at for at, line in enumerate(lines) if re.match(r'\s+File ".+", line \d+', line)]
    behind = range(frames[-1] + 1 if frames else 0, len(lines))
    start = next((at for at in behind if re.match(r"[A-Za-z_][\w.]*(: |$)", lines[at])), len(lines) - 1)
    kind, _, text = lines[start].partition(": ")
    text = " ".join(" ".join([text, *lines[start + 1 :]]).split())
    kind = kind.rpartition(".")[2]
    if kind == BadInput.__name__:
        return BadInput(text)
    return RunError(f"{what}: cannot start ({': '.join(filter(None, [kind, text]))})")


def _cause_of_death(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text.partition("exit detail: ")[2].partition(" Some common causes")[0] or text[:300]


class RayHandle:
    """One actor, by name. Calls to it are served in order; those to a threaded one in none."""

    def __init__(
        self, actor: Any, name: str, timeout_s: float, own: Collection[str] = (), collective_s: float | None = None
    ):
        """own: methods of a threaded actor that have threads of their own, in a concurrency group of their name.
        collective_s: of a learner rank whose process does not live longer in a collective call (NCCL's watchdog)."""
        self.actor, self.name, self.timeout_s, self.own = actor, name, timeout_s, own
        self.collective_s = collective_s
        self.restarts = ""  # the setting that allows some, with its value
        self.hung = ""  # for how long it did nothing, before it was killed for that
        self.make: Callable[[], Any] | None = None  # another actor of the same kind, in the same place

    def call(self, method: str, *args: Any, timeout_s: float | None = None) -> RayFuture:
        """Call `method(*args)` there; returns at once."""
        values = [arg.ref if isinstance(arg, RayFuture) else arg for arg in args]
        ask = getattr(self.actor, method)
        if method in self.own:
            once = {"max_task_retries": 0} if method == PULSE else {}  # no other process's sign of life
            ask = ask.options(concurrency_group=method, **once)
        ref = ask.remote(*values)
        return RayFuture(ref, f"{self.name} ({method})", timeout_s or self.timeout_s, self)

    def about_death(self, asked_s: float) -> str:
        """What is known of it beside what Ray says. asked_s: since the call was made."""
        about = f"; {self.hung}" if self.hung else ""
        if self.restarts:
            about += f"; it had been started again as often as {self.restarts} allows"
        if self.collective_s is not None and asked_s >= self.collective_s:
            about += (
                f"; it was asked {asked_s:.0f} s ago, so most likely it waited for another rank longer than "
                f"learner.timeout_s={self.collective_s:g} s in a collective call, after which NCCL ends the process"
            )
        return about

    @property
    def id(self) -> str:
        """Ray's name of the actor, as in its errors."""
        return str(self.actor._actor_id.hex())

    def place(self) -> tuple[str, int] | None:
        """(node, process) of an actor that serves calls, or will when what it is at is done."""
        return self._place("ALIVE")

    def process(self) -> tuple[str, int] | None:
        """The same, also of one whose constructor runs. It may just have died: Ray keeps the number of a process."""
        return self._place("ALIVE", "PENDING_CREATION", "RESTARTING")

    def _place(self, *states: str) -> tuple[str, int] | None:
        known = ray._private.state.actors(self.id)
        if not known or known.get("State") not in states or not known["Address"]["Port"]:
            return None  # without a port it has no process yet
        return known["Address"]["NodeID"], int(known["Pid"])

    def kill(self) -> None:
        """End its process, even if that is stopped and hears nothing; Ray may start the actor again."""
        if (place := self.process()) is None:
            return
        node, pid = place
        if node == own_node():
            kill_process(pid)
        else:
            there = NodeAffinitySchedulingStrategy(node, soft=False)
            ray.remote(kill_process).options(num_cpus=0, scheduling_strategy=there).remote(pid)

    def end(self) -> None:
        """Kill it for good, whatever it is doing, and also if it has not started yet."""
        self.kill()
        with contextlib.suppress(Exception):
            ray.kill(self.actor)

    def start_anew(self) -> None:
        """Behind this handle there is another actor from now on."""
        assert self.make is not None, f"{self.name} cannot be started anew"
        self.actor, self.hung = self.make(), ""


def process_there(node: str, pid: int) -> RayFuture:
    """`process(pid)` of another host."""
    there = NodeAffinitySchedulingStrategy(node, soft=False)
    call = ray.remote(process).options(num_cpus=0, scheduling_strategy=there).remote(pid)
    return RayFuture(call, f"node {node}", ELSEWHERE_S)


def own_node() -> str:
    return str(ray.get_runtime_context().get_node_id())


def kill_process(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _others(pending: dict[Any, Any]) -> str:
    """What became of the other calls, a few seconds later: who died too waited as well, who runs on did not arrive,
    and who failed may be the cause."""
    if not pending:
        return ""
    ray.wait(list(pending), num_returns=len(pending), timeout=SETTLE_S)
    dead, failed, alive = [], [], []
    for future in pending.values():
        if not future.done():
            alive.append(future.what)
            continue
        try:
            with waiting_here():
                ray.get(future.ref, timeout=future.timeout_s)
        except exceptions.RayActorError:
            dead.append(future.what)
        except exceptions.RayError as error:  # as Ray wraps whatever a call raised
            cause = getattr(error, "cause", None) or error
            text = shorten(str(cause), OTHER_CAUSE_CHARACTERS, placeholder=" ...")
            failed.append(f"{future.what} ({type(cause).__name__}: {text})")
    lists = (("died too", dead), ("failed", failed), ("still running", alive))
    return "".join(f"; {what}: {', '.join(names)}" for what, names in lists if names)


def wait_any(futures: Sequence[Any]) -> list[int]:
    """futures: `RayFuture`s. Places of those whose `wait` would return (or raise) at once: at least one."""
    refs = [future.ref for future in futures]
    with waiting_here():
        done, _ = ray.wait(refs, num_returns=1, timeout=max(future.timeout_s for future in futures))
    if not done:
        names = ", ".join(dict.fromkeys(future.what for future in futures))
        raise WaitedTooLong(f"the driver timed out waiting for {names}")
    return [at for at, future in enumerate(futures) if future.done()]


def wait_all(futures: Sequence[Any]) -> list[Any]:
    """futures: `RayFuture`s. Values in order; the first failure among them is raised as soon as it is known."""
    pending = {future.ref: future for future in futures}
    budget = max((future.timeout_s for future in futures), default=0.0)
    while pending:
        with waiting_here():
            done, _ = ray.wait(list(pending), num_returns=1, timeout=budget)
        if not done:
            names = ", ".join(future.what for future in pending.values())
            raise WaitedTooLong(f"the driver timed out after {budget:g} s waiting for {names}")
        try:
            pending.pop(done[0]).wait()
        except ActorDied as error:
            raise error.with_more(_others(pending)) from error
    return [future.wait() for future in futures]
