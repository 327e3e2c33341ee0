"""Runs the members of a sweep: several at a time, on with the others when one fails, only what is missing or failed.

In: members, composed and checked (`conf.multirun`). Out: their objectives; a folder with sweep.yaml, sweep.json,
sweep.html, a log of each member, and a run folder for each beside it. Must not know: Hydra, what a run does.

Who waits for whom: this process alone looks at members, every `poll_s`; members know nothing of one another. It may die
at any time: members go on, and the same command finds them again (`members`). A head that does not answer is asked
again for `GONE_S`, and what is wrong with one member alone is that member's failure.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conf.choices import Objective, Prune
from conf.flags import Flags
from conf.multirun import Launching, Member, objective_of
from conf.schema import Config
from conf.shell import command_line
from orchestrator.base import interrupt
from orchestrator.base.errors import RunError
from orchestrator.base.lock import Taken, locked
from orchestrator.jobs.job import HeadGone
from orchestrator.sweeps.members import Members
from orchestrator.sweeps.objective import DURING, Progress, printed, progress
from orchestrator.sweeps.prune import hopeless
from orchestrator.sweeps.results import write_outcome
from orchestrator.sweeps.runner import Ended, Running, note
from orchestrator.sweeps.screen import Row, Screen, counts
from orchestrator.sweeps.state import (
    FAILED,
    FILE,
    FINISHED,
    OVER,
    PRUNED,
    RUNNING,
    STOPPED,
    MemberState,
    SweepState,
    load,
)
from orchestrator.training.run_root import root
from rollout.base.errors import BadInput

NO_TRIAL = "No trials are completed yet."  # Optuna's, when all members have failed
END_S = 60.0  # that members may take to end after a second signal
GONE_S = 60.0  # that a head may be away


@dataclass
class _Started:
    """A member that runs."""

    state: MemberState
    conf: Config
    running: Running
    begin: float
    stopped: str | None = None  # why it was told to end early


class Sweep:
    def __init__(self, words: list[str], flags: Flags):
        """words: the sweep's command line behind `thinkless`. flags: those of the user's YAML files go to members."""
        self._words, self._flags = words, flags
        self.folder, self._root = Path(), ""
        self.state: SweepState | None = None
        self._jobs: Any = None  # orchestrator.sweeps.jobs.Jobs, once it is needed
        self._members: Members | None = None
        self._seen: dict[Path, tuple[object, Progress]] = {}  # run folder -> state of its files when read, and figures
        self._met: list[str] = []  # keys of this command's members

    # ---- the folder ----

    @contextlib.contextmanager
    def opened(self, base: Config, name: str, jobs: bool) -> Iterator[Path]:
        """The sweep's folder. At the end its outcome is written; RunError when a member has failed, BadInput for a
        folder that holds something else, or that another sweep is using."""
        chosen = base.sweep.name or base.run.name or name
        if not re.fullmatch(r"\w[\w.\-]*", chosen):
            raise BadInput(f"sweep.name={chosen!r} must be made of letters, digits, '.', '-' and '_'")
        self._root = base.run.root
        path = Path(base.run.root).expanduser()
        parent = (Path.home() / "thinkless" / path) if jobs else root(base.run.root)  # as in a Ray job
        folder = parent / chosen
        if (folder / "config.yaml").exists():
            raise BadInput(f"{folder} is a run's folder: give the sweep a name of its own, sweep.name=<name>")
        created = [path for path in (folder, parent) if not path.exists()]
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BadInput(f"{folder}: cannot make the sweep's folder there ({error.strerror})") from error
        self.folder, held = folder, False
        try:
            with locked(folder / ".lock"):
                held = True
                self.state = load(folder) if (folder / FILE).is_file() else None
                yield from self._body(folder)
        except Taken as error:
            raise BadInput(
                f"the sweep {folder} is being run ({error}): wait for its end, or give sweep.name=<another name>"
            ) from None
        finally:
            if held and created and not (folder / FILE).is_file():  # nothing was started
                shutil.rmtree(folder, ignore_errors=True)
                with contextlib.suppress(OSError):  # it holds something else
                    created[-1].rmdir()

    def _body(self, folder: Path) -> Iterator[Path]:
        try:
            yield folder
        except BaseException as error:
            if self.state is not None:
                self._end()
                if str(error) == NO_TRIAL and self._failed():
                    raise self._failure() from error
            raise
        if self.state is not None:
            self._end()
            if self._failed():
                raise self._failure()

    def _failed(self) -> list[MemberState]:
        assert self.state is not None
        return [one for key in dict.fromkeys(self._met) if (one := self.state.members[key]).status == FAILED]

    def _failure(self) -> RunError:
        assert self.state is not None
        failed = self._failed()
        first = "; ".join(f"{one.run}: {one.error}" for one in failed[:3])
        more = f"; and {len(failed) - 3} more" if len(failed) > 3 else ""
        return RunError(
            f"{len(failed)} of {len(self.state.members)} members failed ({first}{more}); their logs are "
            f"{self.folder}/<member>.log; the same command runs them again"
        )

    def _end(self) -> None:
        assert self.state is not None
        for line in write_outcome(self.state):
            print(line)
        print(f"{counts(self.state)}\nsweep: {self.folder / 'sweep.html'}", flush=True)

    # ---- members ----

    def run(self, members: list[Member], launching: Launching) -> list[float | None]:
        """The objective of each, in their order; None for one that failed. A member that has ended is not run again."""
        objective, jobs = objective_of(members), launching.kind == "ray_jobs"
        if jobs and self._jobs is None:
            from orchestrator.sweeps.jobs import Jobs

            self._jobs = Jobs(launching, self._flags)
        state = self._state(objective)
        self._members = Members(state, self._root, self._flags, self._jobs)
        todo: deque[tuple[MemberState, Member]] = deque()
        for member in members:
            one = state.members.get(member.key)
            if one is None:
                number = len(state.members)
                one = MemberState(number, f"{state.name}-{number}", list(member.overrides))
                if state.run_folder(one).exists():
                    raise BadInput(
                        f"the run {state.run_folder(one)} exists and is none of this sweep's: give sweep.name=<name>"
                    )
                state.members[member.key] = one
            if one.status not in OVER and all(one is not other for other, _ in todo):
                todo.append((one, member))
            self._met.append(member.key)
        state.save()
        if known := sum(state.members[member.key].status in OVER for member in members):
            print(f"{known} of {len(members)} members are finished already", flush=True)
        if len(self._met) == len(members):  # Optuna's first batch, or all there are
            print(f"sweep folder: {self.folder}", flush=True)
        screen = Screen(state)
        promise = (
            "no further member is started, those that run go on as jobs; the same command follows them again"
            if jobs
            else "no further member is started, those that run save a checkpoint and end; the same command goes on"
        )
        started: list[_Started] = []
        try:
            with interrupt.saving(promise):
                self._until_over(todo, started, launching, objective, screen)
        except interrupt.EndedAtOnce:
            self._end_at_once(started, objective)
            raise
        return [one.objective if (one := state.members[m.key]).status in OVER else None for m in members]

    def _state(self, objective: Objective) -> SweepState:
        if self.state is None:
            self.state = SweepState(self.folder, command_line(*self._words), objective.value, objective.maximized)
        if self.state.objective != objective.value:
            raise BadInput(
                f"the sweep {self.folder} compares its members by {self.state.objective}, not {objective.value}: give "
                "sweep.name=<another name>"
            )
        return self.state

    def _until_over(
        self,
        todo: deque[tuple[MemberState, Member]],
        started: list[_Started],
        launching: Launching,
        objective: Objective,
        screen: Screen,
    ) -> None:
        told, gone = False, None  # gone: since when the head does not answer
        while todo or started:
            if interrupt.requested():
                todo.clear()
                if launching.kind == "ray_jobs":  # they go on without this process
                    return
                if not told:
                    screen.leave()
                    for one in started:
                        one.stopped = STOPPED
                        one.running.stop()
                    told = True
            try:
                self._look(todo, started, launching, objective, screen)
                gone = None
            except HeadGone as error:
                if gone is None:
                    gone = time.monotonic()
                    screen.say(f"{error}; it is asked again for {GONE_S:g} s")
                elif time.monotonic() - gone > GONE_S:
                    raise HeadGone(f"{error}; its jobs may run on, and the same command follows them") from error
            screen.show({one.state.run: self._row(one, objective) for one in started})
            if todo or started:
                time.sleep(launching.poll_s)

    def _look(
        self,
        todo: deque[tuple[MemberState, Member]],
        started: list[_Started],
        launching: Launching,
        objective: Objective,
        screen: Screen,
    ) -> None:
        """Starts what there is room for, and notes what has ended. Raises HeadGone, and may then be called again."""
        while todo and len(started) < launching.max_parallel:
            one = self._start(*todo[0], objective, screen)
            todo.popleft()
            started += [one] if one else []
        for one in list(started):
            if ended := one.running.ended():
                started.remove(one)
                screen.say(self._over(one, ended, objective))
        self._prune(started, objective, screen)

    def _start(self, state: MemberState, member: Member, objective: Objective, screen: Screen) -> _Started | None:
        """None for a member that cannot be started, which has failed. Raises HeadGone."""
        assert self.state is not None and self._members is not None
        try:
            running = self._members.start(state, member, objective)
        except HeadGone:
            raise
        except (RunError, BadInput) as error:
            note(self.state.log(state), str(error))
            state.status, state.error = FAILED, str(error)
            self.state.save()
            screen.say(f"{state.run} failed: {error}")
            return None
        state.status, state.error = RUNNING, None
        self.state.save()
        screen.say(f"{state.run} started: {' '.join(self.state.own(state))}")
        return _Started(state, member.conf, running, time.monotonic())

    def _over(self, one: _Started, ended: Ended, objective: Objective) -> str:
        """Notes how a member ended, and says it."""
        assert self.state is not None
        state = one.state
        state.seconds += time.monotonic() - one.begin
        value = self._progress(one).value(objective)
        if value is None and one.stopped and one.stopped != STOPPED and objective is not Objective.regret:
            value = self._progress(one).last(DURING[objective])
        if value is None:
            value = printed(self.state.log(state), objective)
        state.objective, state.error, state.here = value, ended.error, self.state.run_folder(state).is_dir()
        if ended.good:
            state.status = FINISHED
        elif one.stopped == STOPPED:
            state.status, state.error = STOPPED, None
        elif one.stopped:
            state.status, state.error = PRUNED, one.stopped
        else:
            state.status = FAILED
        self.state.save()
        what = f"{objective.value} {value:.4g}" if value is not None and state.status in OVER else ""
        return f"{state.run} {': '.join(filter(None, (state.status, what, state.error)))}"

    def _prune(self, started: list[_Started], objective: Objective, screen: Screen) -> None:
        assert self.state is not None
        if not started or started[0].conf.sweep.prune is Prune.none:
            return
        sweep, key = started[0].conf.sweep, DURING[objective]
        curves = {one.run: self._read(self.state.run_folder(one)).curve(key) for one in self.state}
        running = {one.state.run: one for one in started if one.stopped is None}
        for run, why in hopeless(curves, [*running], sweep.prune_after, sweep.prune_members).items():
            running[run].running.stop()
            running[run].stopped = why
            screen.say(f"{run} is stopped: {why}")

    def _end_at_once(self, started: list[_Started], objective: Objective) -> None:
        """After a second signal: members are told a second time, and killed by their own hosts if they do not end."""
        assert self.state is not None
        with contextlib.suppress(HeadGone):
            for one in started:
                one.stopped = STOPPED
                one.running.stop()
            end = time.monotonic() + END_S
            while started and time.monotonic() < end:
                for one in list(started):
                    if ended := one.running.ended():
                        started.remove(one)
                        self._over(one, ended, objective)
                time.sleep(0.2)
        for one in started:  # the next call finds out what became of them
            one.state.status = STOPPED
        self.state.save()

    # ---- figures ----

    def _progress(self, one: _Started) -> Progress:
        assert self.state is not None
        return self._read(self.state.run_folder(one.state))

    def _read(self, folder: Path) -> Progress:
        """Read again only when the run has written something (two writes may be at one time, by the file's clock)."""
        paths = [folder / name for name in ("metrics.jsonl", "evaluation.json")]
        changed = tuple(
            (found.st_mtime_ns, found.st_size) for path in paths if path.is_file() for found in [path.stat()]
        )
        if folder not in self._seen or self._seen[folder][0] != changed:
            self._seen[folder] = changed, progress(folder)
        return self._seen[folder][1]

    def _row(self, one: _Started, objective: Objective) -> Row:
        now = self._progress(one)
        value = now.value(objective)
        shown = now.last(DURING[objective]) if value is None else value
        doing = one.running.doing() if now.step in (0, one.conf.run.steps) else ""
        return Row(now.step, one.conf.run.steps, now.last("think_rate/all"), shown, doing)
