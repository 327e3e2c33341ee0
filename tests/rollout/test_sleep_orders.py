"""The engine's sleep states on a CPU, in every order: vLLM's own state machine runs there, and no memory goes.

A de Bruijn sequence of seven operations holds every three of them in a row. Beside the engine runs a small
specification of what each may do; what is sampled must be what the engine samples that has never slept.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from conf.schema import OnWeightSync
from rollout.engine import SLEEP_TAGS, Engine, Request
from rollout.worker import RolloutWorker
from tests.helpers.engines import generate
from tests.helpers.policies import Policies

pytestmark = pytest.mark.heavy

OPERATIONS = (
    "sleep, weights kept",
    "sleep, weights dropped",
    "wake weights",
    "wake kv_cache",
    "wake",
    "load",
    "sample",
)
ASKED = [Request([2, *range(40, 52 + i), 3], 6, 1.0, 1.0, 31 + i) for i in range(3)]


def de_bruijn(symbols: int, length: int) -> list[int]:
    """A cycle in which every word of `length` symbols occurs once (Fredricksen, Kessler, Maiorana: Lyndon words)."""
    sequence: list[int] = []
    word = [-1]
    while word:
        word[-1] += 1
        if length % len(word) == 0:
            sequence += word
        word = (word * length)[:length]
        while word and word[-1] == symbols - 1:
            word.pop()
    return sequence


class Expected:
    """What an engine may do, by its documentation."""

    def __init__(self) -> None:
        self.asleep: set[str] = set()
        self.dropped = False  # the weights
        self.version = 0

    def refusal(self, operation: str) -> str | None:
        """The words of the error that the operation raises; None: it is done, and noted here."""
        wanted = set(operation.split()[1:]) or set(SLEEP_TAGS)
        if operation.startswith("sleep"):
            self.dropped = self.dropped or ("dropped" in operation and "weights" not in self.asleep)
            self.asleep = set(SLEEP_TAGS)
        elif operation.startswith("wake"):
            if wanted == {"kv_cache"} and "weights" in self.asleep:
                return "weights sleep: wake them with the kv_cache, or before it"
            if self.dropped and self.asleep <= wanted:
                return "weights were dropped when it went to sleep: load some first"
            self.asleep -= wanted
        elif operation == "load":
            if "weights" in self.asleep:
                return "was given weights while it sleeps"
            self.dropped, self.version = False, 3 - self.version if self.version else 1
        elif self.asleep:
            return "was asked for a response while it sleeps"
        return None


def test_every_three_operations_in_a_row_have_all_pairs_before_them() -> None:
    sequence = de_bruijn(len(OPERATIONS), 3)
    triples = {tuple((sequence + sequence[:2])[at : at + 3]) for at in range(len(sequence))}
    assert len(sequence) == len(triples) == len(OPERATIONS) ** 3


def test_in_every_order_the_engine_samples_as_one_that_never_slept(
    rollout_worker: RolloutWorker, policies: Policies, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rollout_worker.conf, "on_weight_sync", OnWeightSync.recompute)
    engine: Engine = rollout_worker.engine

    def done(what: Callable[[], Any]) -> Any:
        return rollout_worker.mailbox.submit(what).result()  # in the engine's thread, which samples nothing else

    def sample() -> list[Any]:
        found = generate(engine, ASKED)
        return [(s.token_ids.tolist(), s.behavior_logprobs.tolist(), set(s.versions.tolist())) for s in found]

    never_slept = {0: done(sample)}
    for version in (1, 2):
        rollout_worker.load(policies.weights(version))
        never_slept[version] = done(sample)
    assert len({str(answers) for answers in never_slept.values()}) == 3
    rollout_worker.load(policies.weights(1))
    expected, sampled, refused = Expected(), 0, 0
    expected.version = 1
    actions: dict[str, Callable[[], Any]] = {
        "sleep, weights kept": lambda: engine.sleep(True),
        "sleep, weights dropped": lambda: engine.sleep(False),
        "wake weights": lambda: engine.wake(["weights"]),
        "wake kv_cache": lambda: engine.wake(["kv_cache"]),
        "wake": lambda: engine.wake(),
        "load": lambda: engine.load(policies.weights(expected.version)),
        "sample": sample,
    }
    try:
        for symbol in de_bruijn(len(OPERATIONS), 3):
            operation = OPERATIONS[symbol]
            if words := expected.refusal(operation):
                with pytest.raises(RuntimeError, match=words):
                    done(actions[operation])
                refused += 1
            else:
                answer = done(actions[operation])
                if operation == "sample":
                    assert answer == never_slept[expected.version]
                    sampled += 1
            executor = engine._core.model_executor
            assert executor.sleeping_tags == expected.asleep  # vLLM's
            assert engine._core.is_sleeping() == (not engine.awake) == bool(expected.asleep)
            assert engine.version == expected.version and engine.unfinished == 0
    finally:
        if expected.dropped:
            rollout_worker.wake(["weights"])
            rollout_worker.load(policies.weights(1))
        rollout_worker.wake()
    assert sampled > 20 and refused > 80
