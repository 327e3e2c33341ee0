"""The reward actor's body: responses -> verdicts, whatever the responses contain.

In: a rollout worker's result, trajectories, a batch of responses (text, mode, finish, prompt), or texts one at a time
(`begin`, `settle`). Out: one `Verdict` each, in order, and a `Tally` of all. Must not know: Ray, groups.

Extraction, plain numbers and equal strings are decided in this process (microseconds). Each further distinct (answer,
gold) pair is checked once in a killable process (`reward.pool`), started when the first such pair comes, with its own
time limit, which is shortened once checks that hang have taken `reward.hung_s` of a batch. An answer whose check
exceeds it is TIMED_OUT (and cached, if it was the whole limit: siblings repeat answers), one whose process died
twice is CRASHED, one whose check or reward function raised is RAISED; none of them is ever WRONG, and each carries its
cause in `Failure`.
"""

from __future__ import annotations

import logging
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from conf.schema import ModelConf, RewardConf
from reward.grade import THINK, find_answer, think_token_in_ids, think_token_in_text
from reward.maths.equivalence import quick
from reward.pool import Pool, Reply, Status
from reward.sandbox import Call
from reward.statistics import Tally
from reward.verdict import Failure, Outcome, RewardResult, Verdict
from rollout.base.load_function import one_line
from rollout.base.spans import Traced, spent
from rollout.mode import ControlTokens, Mode
from rollout.prompt import Prompt
from rollout.trajectory import Finish, Trajectory

if TYPE_CHECKING:
    from rollout.request import RolloutResult  # numpy

log = logging.getLogger(__name__)

Response = tuple[str, Mode | None, Finish, Prompt]
Gold = str | tuple[str, ...]
Key = tuple[str, Gold, bool]  # the arguments of `equivalent`: answer, gold, all_answers

_MAX_CACHE = 100_000  # pairs
_MAX_CACHE_CHARS = 100_000_000  # in all pairs together
_LOGGED = 3  # times per batch that the same failure is logged
_TRIED = 4  # calls of a function that never returned before the rest of a batch is given up
_SLOW_S = 1.0  # slower checks are logged, once per batch; so are those slower than
_SLOW_SHARE = 0.5  # of their limit
_NO_VERDICT = {Status.RAISED: Outcome.RAISED, Status.TIMED_OUT: Outcome.TIMED_OUT, Status.DIED: Outcome.CRASHED}


@dataclass(slots=True, eq=False)
class Pending:
    """A response whose check is running; `RewardWorker.settle` sets `verdict`."""

    seconds: float  # spent on it in this process
    verdict: Verdict | None = None


class RewardWorker(Traced):
    """Grades responses. Close it, or use it in a `with` block: its processes end with it.

    tokenizer_path and control are needed only by `grade`, which decodes trajectories. needs_mode False: a text without
    a control token is graded instead of being NO_MODE.
    """

    def __init__(
        self,
        conf: RewardConf,
        tokenizer_path: str | None = None,
        control: ControlTokens | None = None,
        model: ModelConf | None = None,
        needs_mode: bool = True,
        folder: str | None = None,
    ) -> None:
        """folder: where modules of reward functions may lie that Python does not find anywhere else."""
        super().__init__()
        if folder is not None and folder not in sys.path:
            sys.path.append(folder)
        self.conf = conf
        self.needs_mode = needs_mode
        self.control = control
        self.tokenizer: Any = None
        self.think_names: tuple[str, ...] = THINK
        if tokenizer_path is not None and control is not None:
            from rollout.data.tokens import load_tokenizer

            self.tokenizer = load_tokenizer(tokenizer_path, model or ModelConf())
            self.think_names = tuple(
                str(self.tokenizer.decode([one], skip_special_tokens=False))
                for one in (*control.openers, control.think_end)
            )
        self.tally = Tally()  # of all verdicts so far
        self._cache: dict[Key, tuple[Outcome, Failure | None]] = {}
        self._cache_chars = 0
        self._checks: dict[int, tuple[Key, list[Pending]]] = {}  # running ones by the pool's ticket,
        self._tickets: dict[Key, int] = {}  # and the tickets by the pair
        self._has_returned = False  # a call of the reward function has returned or raised
        self._reported: set[str | None] = set()  # of exceptions whose traceback has been reported
        warm: Call = (
            ("reward.custom:check", (conf.function,)) if conf.function else ("reward.maths.equivalence:warm", ())
        )
        self.pool = Pool(conf.processes, conf.timeout_s, conf.memory_mib, warm, conf.hung_s)
        if conf.function:
            try:
                self.pool.start()  # report a function that cannot be imported now, not after the first rollout
            except BaseException:
                self.pool.close()
                raise

    def __enter__(self) -> RewardWorker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ready(self) -> int:
        return self.conf.processes

    def close(self) -> None:
        """End and reap every grading process."""
        self.pool.close()

    @spent("grading")
    def grade_request(self, sampled: RolloutResult, prompts: Sequence[Prompt], first: int) -> RewardResult:
        """Grade a rollout worker's responses from number `first` on, one for each of `prompts`."""
        begin = time.monotonic()
        found = sampled.trajectories(prompts, range(len(prompts)), first)
        verdicts = iter(self.grade([one for one in found if one is not None]))
        return RewardResult([None if one is None else next(verdicts) for one in found], time.monotonic() - begin)

    def grade(self, trajectories: Sequence[Trajectory]) -> list[Verdict]:
        """Verdicts, aligned with the trajectories."""
        texts = self.texts(trajectories)
        assert self.control is not None
        return self.grade_batch(
            [(text, one.mode, one.finish, one.prompt) for text, one in zip(texts, trajectories, strict=True)],
            [think_token_in_ids(one.token_ids, one.mode, self.control) for one in trajectories],
        )

    def texts(self, trajectories: Sequence[Trajectory]) -> list[str]:
        """The text after the control token (all of it if there is none), without the end token."""
        if self.tokenizer is None or self.control is None:
            raise ValueError("this reward worker has no tokenizer: give tokenizer_path and control, or use grade_batch")
        from rollout.data.tokens import decode_response

        return [
            decode_response(self.tokenizer, one.token_ids if one.mode is None else one.token_ids[1:], self.control.ends)
            for one in trajectories
        ]

    def grade_batch(self, responses: Sequence[Response], think_tokens: Sequence[bool] | None = None) -> list[Verdict]:
        """Verdicts, aligned with the responses. think_tokens: whether a response's ids have a think token in the
        answer; None: decide by the texts alone."""
        known = think_tokens or [False] * len(responses)
        self.pool.renew_budget()
        if self.conf.function:
            verdicts = self._by_function(responses, known)
        else:
            begun = [
                self.begin(text, mode, finish, prompt.answer, prompt.all_answers, think_token)
                for (text, mode, finish, prompt), think_token in zip(responses, known, strict=True)
            ]
            verdicts = [one if isinstance(one, Verdict) else self._wait_for(one) for one in begun]
        self._log_slow(verdicts, responses)
        return verdicts

    # ------------------------------------------------------------------ the project's own grading

    @property
    def under_way(self) -> int:
        """Number of running checks."""
        return len(self._checks)

    def begin(
        self,
        text: str,
        mode: Mode | None,
        finish: Finish,
        gold: Gold,
        all_answers: bool = False,
        think_token: bool = False,
    ) -> Verdict | Pending:
        """The verdict if it takes microseconds; otherwise the check starts, and `settle` will set the verdict.

        think_token: the ids have one in the answer (the text is examined in any case).
        """
        start = time.perf_counter()
        answer, cached, failure = None, False, None
        try:
            think_token = think_token or think_token_in_text(text, mode, self.think_names)
            outcome, answer = find_answer(
                text, mode, finish, self.conf.strict, self.think_names[-1], self.needs_mode, think_token
            )
            if outcome is None and answer is not None:
                if known := self._cache.get((answer, gold, all_answers)):
                    (outcome, failure), cached = known, True
                elif (decided := quick(answer, gold, all_answers)) is not None:
                    outcome = Outcome.CORRECT if decided else Outcome.WRONG
        except Exception as error:  # costs this answer, not the batch
            outcome = Outcome.RAISED
            failure = Failure(one_line(error), about=f"a response of {len(text)} characters, gold {_cut(gold)}")
            log.warning("check RAISED (%s): %s", failure.error, failure.about)
        if outcome is None:
            assert answer is not None
            return self._check((answer, gold, all_answers), start)
        seconds = time.perf_counter() - start
        verdict = Verdict(outcome, answer, seconds, cached=cached, think_token=think_token, failure=failure)
        self.tally.add(verdict, gold)
        return verdict

    def settle(self, timeout_s: float | None = None, beside: Sequence[Any] = ()) -> int:
        """Wait until running checks end, and set their verdicts. Returns how many ended.

        0: `timeout_s` has passed, one of `beside` (sockets, pipes, files) is readable, or no check is running.
        """
        try:
            ended = self.pool.completed(timeout_s, beside)
        except BaseException:  # the pool has dropped them, too
            self._checks.clear()
            self._tickets.clear()
            raise
        for ticket, reply in ended:
            key, places = self._checks.pop(ticket)
            del self._tickets[key]
            outcome, failure = self._concluded(key, reply)
            if outcome.judged or (outcome is Outcome.TIMED_OUT and reply.seconds >= self.conf.timeout_s):
                self._remember(key, outcome, failure)
            for nth, place in enumerate(places):
                seconds = place.seconds + (reply.seconds if nth == 0 else 0.0)
                place.verdict = Verdict(outcome, key[0], seconds, cached=nth > 0, failure=failure)
                self.tally.add(place.verdict, key[1])
        return len(ended)

    def _check(self, key: Key, start: float) -> Pending:
        """Have a process check this pair, unless one already does."""
        ticket = self._tickets.get(key)
        if ticket is None:
            ticket = self._tickets[key] = self.pool.submit(("reward.maths.equivalence:equivalent", key))
            self._checks[ticket] = (key, [])
        pending = Pending(time.perf_counter() - start)
        self._checks[ticket][1].append(pending)
        return pending

    def _wait_for(self, pending: Pending) -> Verdict:
        while pending.verdict is None:
            if not self.settle() and pending.verdict is None:
                raise RuntimeError("the reward worker was closed while a check was running")
        return pending.verdict

    def _remember(self, key: Key, outcome: Outcome, failure: Failure | None) -> None:
        answer, gold, _ = key
        self._cache_chars += len(answer) + (len(gold) if isinstance(gold, str) else sum(map(len, gold)))
        if len(self._cache) >= _MAX_CACHE or self._cache_chars > _MAX_CACHE_CHARS:
            self._cache.clear()
            self._cache_chars = 0
        self._cache[key] = outcome, failure

    def _concluded(self, key: Key, reply: Reply) -> tuple[Outcome, Failure | None]:
        if reply.status is Status.DONE:
            return (Outcome.CORRECT if reply.value else Outcome.WRONG), None
        failure = self._failure(reply, f"answer {_cut(key[0])}, gold {_cut(key[1])}")
        log.warning("check %s (%s): %s", _NO_VERDICT[reply.status].name, failure.error, failure.about)
        return _NO_VERDICT[reply.status], failure

    def _failure(self, reply: Reply, about: str) -> Failure:
        if isinstance(reply.value, Failure):
            first = reply.value.where not in self._reported
            self._reported.add(reply.value.where)
            return replace(reply.value, about=about, traceback=reply.value.traceback if first else None)
        if reply.status is Status.TIMED_OUT:
            if reply.seconds >= self.conf.timeout_s:
                return Failure(f"no end after {self.conf.timeout_s:g} s", about=about)
            spent = f"checks that hung had taken reward.hung_s={self.conf.hung_s:g} of this batch"
            return Failure(
                f"{f'no end after {reply.seconds:.2g} s' if reply.seconds else 'not begun'}: {spent}", about=about
            )
        return Failure(f"{reply.value}, twice" if reply.status is Status.DIED else str(reply.value), about=about)

    def _log_slow(self, verdicts: Sequence[Verdict], responses: Sequence[Response]) -> None:
        limit = min(_SLOW_S, _SLOW_SHARE * self.conf.timeout_s)
        slow = [at for at, verdict in enumerate(verdicts) if verdict.seconds > limit]
        if slow:
            at = max(slow, key=lambda place: verdicts[place].seconds)
            answer, gold = verdicts[at].extracted, responses[at][3].answer
            log.warning(
                "%d of %d checks took more than %g s; the slowest, %.2f s: answer %.200r against gold %.200r",
                len(slow), len(verdicts), limit, verdicts[at].seconds, answer, gold,
            )  # fmt: skip

    # ------------------------------------------------------------------ a user's own function

    def _run(self, calls: list[Call]) -> list[Reply]:
        """Replies, in order. As long as no call has ever returned, a few are tried first, and the rest is given up if
        none of those returns: a batch of a thousand would take hours to show the same."""
        tried: list[Reply] = []
        if not self._has_returned:
            tried = self.pool.run(calls[: max(_TRIED, self.conf.processes)])
            self._has_returned = any(reply.status in (Status.DONE, Status.RAISED) for reply in tried)
            if tried and not self._has_returned:
                return tried + [replace(tried[-1], seconds=0.0)] * (len(calls) - len(tried))
        return tried + self.pool.run(calls[len(tried) :])

    def _by_function(self, responses: Sequence[Response], known: Sequence[bool]) -> list[Verdict]:
        calls: list[Call] = [
            ("reward.custom:call", (self.conf.function, prompt.problem, text, prompt.answer, mode and mode.name))
            for text, mode, _, prompt in responses
        ]
        verdicts = []
        failures: Counter[str] = Counter()
        for reply, (text, mode, _, prompt), there in zip(self._run(calls), responses, known, strict=True):
            think_token = there or think_token_in_text(text, mode, self.think_names)
            reward, failure = reply.value, None
            if reply.status is Status.DONE and not isinstance(reward, Failure):
                outcome = Outcome.CORRECT if reward > 0 else Outcome.WRONG
            else:
                reward, failure = None, self._failure(reply, f"problem {prompt.uid}")
                outcome = Outcome.RAISED if reply.status is Status.DONE else _NO_VERDICT[reply.status]
                failures[failure.error] += 1
                if failures[failure.error] <= _LOGGED:
                    log.warning("%s %s on %s: %s", self.conf.function, outcome.name, failure.about, failure.error)
            verdict = Verdict(outcome, None, reply.seconds, reward, think_token=think_token, failure=failure)
            self.tally.add(verdict, prompt.answer)
            verdicts.append(verdict)
        if len(failures) and sum(failures.values()) == len(responses):
            log.error("%s failed on all %d responses of a batch", self.conf.function, len(responses))
        return verdicts


def _cut(text: Gold) -> str:
    return repr((text if isinstance(text, str) else ", ".join(text))[:200])
