"""The reward actor's body: a batch of responses -> verdicts, in order, whatever the responses hold.

In: responses (text, mode, finish, prompt), or trajectories to decode. Out: one `Verdict` each. Must not know: Ray,
groups.

Extraction, plain numbers and equal strings are settled in this process (microseconds); each different (gold, answer)
pair beyond that is checked once in a killable process (`reward.cell`), started when the first such pair comes, with
its own time limit. An answer whose check overran is TIMED_OUT (and remembered: siblings repeat answers), one whose
process died twice, or whose check or reward function raised, is CRASHED; neither is ever WRONG.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Sequence
from types import TracebackType
from typing import Any

from conf.schema import ModelConf, RewardConf
from reward.cell import Call, Pool, Reply, Status
from reward.equivalence import Gold, quick_matches
from reward.grade import find_answer
from reward.verdict import Outcome, Verdict
from rollout.mode import ControlTokens, Mode
from rollout.prompt import Prompt
from rollout.trajectory import Finish, Trajectory

log = logging.getLogger(__name__)

Response = tuple[str, Mode | None, Finish, Prompt]
Key = tuple[Gold, str, bool]  # gold, answer, all_answers: the arguments of `matches`

_MAX_CACHE = 100_000  # pairs
_LOGGED = 3  # of the same kind of failure in a batch


class Judge:
    """Grades batches. Close it, or use it in a `with` block: its processes end with it.

    tokenizer_path and control are needed only by `judge`, which decodes trajectories itself.
    """

    def __init__(
        self,
        conf: RewardConf,
        tokenizer_path: str | None = None,
        control: ControlTokens | None = None,
        model: ModelConf | None = None,
    ) -> None:
        self.conf = conf
        self.control = control
        self.tokenizer: Any = None
        self.think_end = "</think>"
        if tokenizer_path is not None and control is not None:
            from rollout.tokens import load_tokenizer

            self.tokenizer = load_tokenizer(tokenizer_path, model or ModelConf())
            self.think_end = str(self.tokenizer.decode([control.think_end], skip_special_tokens=False))
        self.counts: Counter[Outcome] = Counter()  # since the start
        self._cache: dict[Key, Outcome] = {}
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

    def judge(self, trajectories: Sequence[Trajectory]) -> list[Verdict]:
        """Verdicts of trajectories, aligned with them."""
        texts = self.texts(trajectories)
        return self.grade_batch(
            [(text, one.mode, one.finish, one.prompt) for text, one in zip(texts, trajectories, strict=True)]
        )

    def texts(self, trajectories: Sequence[Trajectory]) -> list[str]:
        """What was written after the control token (all of it where there is none), without end of sequence."""
        if self.tokenizer is None:
            raise ValueError("this judge has no tokenizer: give tokenizer_path and control, or use grade_batch")
        from rollout.tokens import decode_response

        return [
            decode_response(self.tokenizer, one.token_ids if one.mode is None else one.token_ids[1:])
            for one in trajectories
        ]

    def grade_batch(self, responses: Sequence[Response]) -> list[Verdict]:
        """Verdicts, aligned with the responses."""
        verdicts = self._by_function(responses) if self.conf.function else self._by_answer(responses)
        self.counts.update(verdict.outcome for verdict in verdicts)
        return verdicts

    # ------------------------------------------------------------------ the project's own grading

    def _by_answer(self, responses: Sequence[Response]) -> list[Verdict]:
        verdicts: list[Verdict | None] = []
        pending: dict[Key, list[tuple[int, float]]] = {}  # what needs a process -> where it stands in the batch
        for index, (text, mode, finish, prompt) in enumerate(responses):
            start = time.perf_counter()
            outcome, answer = find_answer(text, mode, finish, self.conf.strict, self.think_end)
            if outcome is None and answer is not None:
                key = (prompt.answer, answer, prompt.all_answers)
                if key in self._cache:
                    outcome = self._cache[key]
                else:
                    decided = quick_matches(*key)
                    if decided is None:
                        pending.setdefault(key, []).append((index, time.perf_counter() - start))
                        verdicts.append(None)
                        continue
                    outcome = Outcome.CORRECT if decided else Outcome.WRONG
            assert outcome is not None
            verdicts.append(Verdict(outcome, answer, time.perf_counter() - start))
        calls: list[Call] = [("reward.equivalence:matches", key) for key in pending]
        for (key, places), reply in zip(pending.items(), self.pool.run(calls), strict=True):
            outcome = self._outcome(key, reply)
            if outcome is not Outcome.CRASHED:
                if len(self._cache) >= _MAX_CACHE:
                    self._cache.clear()
                self._cache[key] = outcome
            for nth, (index, before) in enumerate(places):
                verdicts[index] = Verdict(outcome, key[1], before + (reply.seconds if nth == 0 else 0.0))
        return [verdict for verdict in verdicts if verdict is not None]

    def _outcome(self, key: Key, reply: Reply) -> Outcome:
        if reply.status is Status.DONE:
            return Outcome.CORRECT if reply.value else Outcome.WRONG
        outcome = Outcome.TIMED_OUT if reply.status is Status.TIMED_OUT else Outcome.CRASHED
        reason = f"no end after {self.conf.timeout_s:g} s" if outcome is Outcome.TIMED_OUT else reply.value
        log.warning("check %s (%s): answer %.200r against gold %.200r", outcome.name, reason, key[1], key[0])
        return outcome

    # ------------------------------------------------------------------ a person's own function

    def _by_function(self, responses: Sequence[Response]) -> list[Verdict]:
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
        if len(failures) and sum(failures.values()) == len(responses):
            log.error("%s failed on all %d responses of a batch", self.conf.function, len(responses))
        return verdicts
