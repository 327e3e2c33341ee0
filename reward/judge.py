"""The reward actor's body: responses -> verdicts, whatever the responses hold.

In: what a rollout worker sampled, trajectories, responses (text, mode, finish, prompt) as a batch, or texts one at a
time (`begin`, `settle`). Out: one `Verdict` each, in order, and `Statistics` of them all. Must not know: Ray, groups.

Extraction, plain numbers and equal strings are settled in this process (microseconds); each different (gold, answer)
pair beyond that is checked once in a killable process (`reward.pool`), started when the first such pair comes, with
its own time limit. An answer whose check overran is TIMED_OUT (and remembered: siblings repeat answers), one whose
process died twice, or whose check or reward function raised, is CRASHED; neither is ever WRONG.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any

from conf.schema import ModelConf, RewardConf
from reward.cell import Call
from reward.equivalence import Gold, quick_matches
from reward.grade import find_answer
from reward.pool import Pool, Reply, Status
from reward.statistics import Statistics, Tally
from reward.verdict import Judged, Outcome, Verdict
from rollout.mode import ControlTokens, Mode
from rollout.prompt import Prompt
from rollout.timeline import Span, Spans, spent
from rollout.trajectory import Finish, Trajectory

if TYPE_CHECKING:
    from rollout.share import Sampled  # numpy

log = logging.getLogger(__name__)

Response = tuple[str, Mode | None, Finish, Prompt]
Key = tuple[Gold, str, bool]  # gold, answer, all_answers: the arguments of `matches`

_MAX_CACHE = 100_000  # pairs
_MAX_CACHE_CHARS = 100_000_000  # in all pairs together
_LOGGED = 3  # of the same kind of failure in a batch
_SLOW_S = 1.0  # a check that takes longer is told, once per batch; or longer than
_SLOW_SHARE = 0.5  # of its limit


@dataclass(slots=True, eq=False)
class Pending:
    """A response whose check is under way. `verdict` is there when `Judge.settle` has seen its end."""

    seconds: float  # spent on it in this process
    verdict: Verdict | None = None


class Judge:
    """Grades responses. Close it, or use it in a `with` block: its processes end with it.

    tokenizer_path and control are needed only by `judge`, which decodes trajectories itself. needs_mode False: a text
    without a control token is graded as it stands, instead of being NO_MODE.
    """

    def __init__(
        self,
        conf: RewardConf,
        tokenizer_path: str | None = None,
        control: ControlTokens | None = None,
        model: ModelConf | None = None,
        needs_mode: bool = True,
    ) -> None:
        self.conf = conf
        self.needs_mode = needs_mode
        self.control = control
        self.tokenizer: Any = None
        self.think_end = "</think>"
        if tokenizer_path is not None and control is not None:
            from rollout.tokens import load_tokenizer

            self.tokenizer = load_tokenizer(tokenizer_path, model or ModelConf())
            self.think_end = str(self.tokenizer.decode([control.think_end], skip_special_tokens=False))
        self.spans = Spans()
        self._tally = Tally()
        self._cache: dict[Key, Outcome] = {}
        self._cache_chars = 0
        self._checks: dict[int, tuple[Key, list[Pending]]] = {}  # under way: by the pool's ticket,
        self._tickets: dict[Key, int] = {}  # and the ticket by the pair
        self._busy_since = 0.0  # when the first of those under way began
        warm: Call = ("reward.custom:check", (conf.function,)) if conf.function else ("reward.equivalence:warm", ())
        self.pool = Pool(conf.processes, conf.timeout_s, conf.memory_mib, warm)
        if conf.function:
            try:
                self.pool.start()  # a function that cannot be imported is an error now, not after the first rollout
            except BaseException:
                self.pool.close()
                raise

    def __enter__(self) -> Judge:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def ready(self) -> int:
        return self.conf.processes

    def close(self) -> None:
        """End every grading process, killed if need be, and reap it."""
        self.pool.close()

    def clock(self) -> float:
        """This host's seconds since the epoch."""
        return time.time()

    def take_spans(self) -> list[Span]:
        """What it did since this was last asked."""
        return self.spans.take()

    @spent("grading")
    def judge_share(self, sampled: Sampled, prompts: Sequence[Prompt], first: int) -> Judged:
        """Of a rollout worker's responses, `first` and those after it: one to each of `prompts`."""
        begin = time.monotonic()
        found = sampled.trajectories(prompts, range(len(prompts)), first)
        verdicts = iter(self.judge([one for one in found if one is not None]))
        return Judged([None if one is None else next(verdicts) for one in found], time.monotonic() - begin)

    def judge(self, trajectories: Sequence[Trajectory]) -> list[Verdict]:
        """Verdicts of trajectories, aligned with them."""
        texts = self.texts(trajectories)
        return self.grade_batch(
            [(text, one.mode, one.finish, one.prompt) for text, one in zip(texts, trajectories, strict=True)]
        )

    def texts(self, trajectories: Sequence[Trajectory]) -> list[str]:
        """What was written after the control token (all of it where there is none), without its end token."""
        if self.tokenizer is None or self.control is None:
            raise ValueError("this judge has no tokenizer: give tokenizer_path and control, or use grade_batch")
        from rollout.tokens import decode_response

        return [
            decode_response(self.tokenizer, one.token_ids if one.mode is None else one.token_ids[1:], self.control.ends)
            for one in trajectories
        ]

    def grade_batch(self, responses: Sequence[Response]) -> list[Verdict]:
        """Verdicts, aligned with the responses."""
        if self.conf.function:
            verdicts = self._by_function(responses)
        else:
            begun = [
                self.begin(text, mode, finish, prompt.answer, prompt.all_answers)
                for text, mode, finish, prompt in responses
            ]
            verdicts = [one if isinstance(one, Verdict) else self._settled(one) for one in begun]
        self._tell_slow(verdicts, responses)
        return verdicts

    def statistics(self) -> Statistics:
        """Of all verdicts since this judge was made."""
        return self._tally.statistics()

    # ------------------------------------------------------------------ the project's own grading

    @property
    def under_way(self) -> int:
        """Checks that have begun and not ended."""
        return len(self._checks)

    def begin(
        self, text: str, mode: Mode | None, finish: Finish, gold: Gold, all_answers: bool = False
    ) -> Verdict | Pending:
        """The verdict where it takes microseconds; else the check is under way, and `settle` will see its end."""
        start = time.perf_counter()
        answer, cached = None, False
        try:
            outcome, answer = find_answer(text, mode, finish, self.conf.strict, self.think_end, self.needs_mode)
            if outcome is None and answer is not None:
                outcome = self._cache.get((gold, answer, all_answers))
                cached = outcome is not None
                if outcome is None and (decided := quick_matches(gold, answer, all_answers)) is not None:
                    outcome = Outcome.CORRECT if decided else Outcome.WRONG
        except Exception as error:  # costs this answer, not the batch
            log.warning("check CRASHED (%s: %s): response of %d characters", type(error).__name__, error, len(text))
            outcome = Outcome.CRASHED
        if outcome is None:
            assert answer is not None
            return self._check((gold, answer, all_answers), start)
        verdict = Verdict(outcome, answer, time.perf_counter() - start, cached=cached)
        self._tally.add(verdict, gold)
        if not self._checks:
            self._tally.busy(verdict.seconds)
        return verdict

    def settle(self, timeout_s: float | None = None, beside: Sequence[Any] = ()) -> int:
        """Wait until checks under way end, and set the verdicts of their answers; how many checks ended.

        0: `timeout_s` has passed, or one of `beside` (sockets, pipes, files) can be read, or nothing is under way.
        """
        try:
            ended = self.pool.completed(timeout_s, beside)
        except BaseException:  # the pool has forgotten them, too
            self._checks.clear()
            self._tickets.clear()
            raise
        for ticket, reply in ended:
            key, places = self._checks.pop(ticket)
            del self._tickets[key]
            outcome = self._outcome(key, reply)
            if outcome is not Outcome.CRASHED:
                self._remember(key, outcome)
            for nth, place in enumerate(places):
                seconds = place.seconds + (reply.seconds if nth == 0 else 0.0)
                place.verdict = Verdict(outcome, key[1], seconds, cached=nth > 0)
                self._tally.add(place.verdict, key[0])
        if ended and not self._checks:
            self._tally.busy(time.perf_counter() - self._busy_since)
        return len(ended)

    def _check(self, key: Key, start: float) -> Pending:
        """Have a process check this pair, unless one does already."""
        if not self._checks:
            self._busy_since = start
        ticket = self._tickets.get(key)
        if ticket is None:
            ticket = self._tickets[key] = self.pool.submit(("reward.equivalence:matches", key))
            self._checks[ticket] = (key, [])
        pending = Pending(time.perf_counter() - start)
        self._checks[ticket][1].append(pending)
        return pending

    def _settled(self, pending: Pending) -> Verdict:
        while pending.verdict is None:
            if not self.settle() and pending.verdict is None:
                raise RuntimeError("the judge was closed while a check was under way")
        return pending.verdict

    def _remember(self, key: Key, outcome: Outcome) -> None:
        self._cache_chars += len(key[1]) + (len(key[0]) if isinstance(key[0], str) else sum(map(len, key[0])))
        if len(self._cache) >= _MAX_CACHE or self._cache_chars > _MAX_CACHE_CHARS:
            self._cache.clear()
            self._cache_chars = 0
        self._cache[key] = outcome

    def _outcome(self, key: Key, reply: Reply) -> Outcome:
        if reply.status is Status.DONE:
            return Outcome.CORRECT if reply.value else Outcome.WRONG
        outcome = Outcome.TIMED_OUT if reply.status is Status.TIMED_OUT else Outcome.CRASHED
        reason = f"no end after {self.conf.timeout_s:g} s" if outcome is Outcome.TIMED_OUT else reply.value
        log.warning("check %s (%s): answer %.200r against gold %.200r", outcome.name, reason, key[1], key[0])
        return outcome

    def _tell_slow(self, verdicts: Sequence[Verdict], responses: Sequence[Response]) -> None:
        limit = min(_SLOW_S, _SLOW_SHARE * self.conf.timeout_s)
        slow = [at for at, verdict in enumerate(verdicts) if verdict.seconds > limit]
        if slow:
            at = max(slow, key=lambda place: verdicts[place].seconds)
            answer, gold = verdicts[at].extracted, responses[at][3].answer
            log.warning(
                "%d of %d checks took more than %g s; the slowest, %.2f s: answer %.200r against gold %.200r",
                len(slow), len(verdicts), limit, verdicts[at].seconds, answer, gold,
            )  # fmt: skip

    # ------------------------------------------------------------------ a person's own function

    def _by_function(self, responses: Sequence[Response]) -> list[Verdict]:
        start = time.perf_counter()
        calls: list[Call] = [
            (
                "reward.custom:call",
                (self.conf.function, prompt.problem, text, prompt.answer, mode.value if mode is not None else None),
            )
            for text, mode, _, prompt in responses
        ]
        verdicts = []
        failures: Counter[str] = Counter()
        for reply, (_, _, _, prompt) in zip(self.pool.run(calls), responses, strict=True):
            if reply.status is Status.DONE:
                outcome = Outcome.CORRECT if reply.value > 0 else Outcome.WRONG
                verdicts.append(Verdict(outcome, None, reply.seconds, reply.value))
                continue
            outcome = Outcome.TIMED_OUT if reply.status is Status.TIMED_OUT else Outcome.CRASHED
            reason = reply.value or f"no end after {self.conf.timeout_s:g} s"
            failures[reason] += 1
            if failures[reason] <= _LOGGED:
                log.warning("%s %s on %s: %s", self.conf.function, outcome.name, prompt.uid, reason)
            verdicts.append(Verdict(outcome, None, reply.seconds))
        for verdict, (_, _, _, prompt) in zip(verdicts, responses, strict=True):
            self._tally.add(verdict, prompt.answer)
        self._tally.busy(time.perf_counter() - start)
        if len(failures) and sum(failures.values()) == len(responses):
            log.error("%s failed on all %d responses of a batch", self.conf.function, len(responses))
        return verdicts
