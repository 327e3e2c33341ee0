"""What tests share: a tiny random model, one vLLM engine for the whole session, and handles that call at once.

A fixture that starts something real is session-wide, because starting costs seconds; a test that changes the engine's
weights takes `rollout_worker`, which puts the model's own weights back afterwards.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"  # read when torch is imported: two busy pools on two cores are ten times slower

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest

from conf.schema import LearnerConf, ModelConf, RandomModelConf, RolloutConf
from rollout.mode import ControlTokens
from rollout.prompt import Prompt
from rollout.weight_sync.weights import Weights

hypothesis.settings.register_profile("thinkless", deadline=None)  # nothing depends on speed
hypothesis.settings.load_profile("thinkless")

CONTROL = ControlTokens(think=4, short=6, think_end=5, eos=1)  # of the quickstart's tokenizer


# Files by how long they take, the longest first, so that both processes of `make test` end at the same time. Those of a
# line share what they start, and stay in one process.
LONGEST = [
    ["orchestrator/test_train.py", "orchestrator/test_replay.py"],
    ["test_benchmarks.py"],
    ["orchestrator/test_faults.py", "orchestrator/test_colocation.py"],
    ["orchestrator/test_job.py"],
    ["learner/test_gradient.py"],
    ["learner/test_worker.py", "learner/test_lora.py", "learner/test_offload.py"],
    ["orchestrator/test_placement.py"],
    ["rollout/test_in_flight.py", "rollout/test_limits.py", "rollout/test_logprob_check.py"],
    ["orchestrator/test_on_policy.py"],
    ["rollout/test_schedules.py"],
    ["orchestrator/test_latest_weights.py", "orchestrator/test_interrupt.py"],
    ["orchestrator/test_commands.py"],
    ["rollout/test_tensor_parallel.py"],
    ["learner/test_bad_input.py"],
    ["orchestrator/test_config.py"],
    ["orchestrator/test_overrides.py"],
    ["reward/test_worker.py"],
    ["orchestrator/test_verify.py"],
]
PLACE = {f"tests/{file}": place for place, files in enumerate(LONGEST) for file in files}
HEAVY_FIXTURES = {"warm_up", "make_learner", "make_worker", "groups_of_ranks", "place", "head"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first. Tests with a fixture that starts Ray, vLLM or DeepSpeed are marked as heavy; files that start
    one of them themselves say so (`pytestmark`)."""
    items.sort(key=lambda item: PLACE.get(item.nodeid.partition("::")[0], len(LONGEST)))
    for item in items:
        if HEAVY_FIXTURES & {*getattr(item, "fixturenames", ())}:
            item.add_marker(pytest.mark.heavy)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """How the processes of `make test` share the tests: each takes the next file, or the next line of LONGEST."""
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return f"line {PLACE[file]}" if file in PLACE else file

    config.option.loadscopereorder = False  # not by the number of tests
    return Scheduling(config, log)


class LocalFuture:
    """A value that is there already."""

    def __init__(self, value: Any):
        self.value = value

    def wait(self) -> Any:
        return self.value

    def done(self) -> bool:
        return True


class LocalHandle:
    """The body of an actor, called directly in this process."""

    def __init__(self, body: Any):
        self.body = body
        self.calls: list[tuple[str, tuple[Any, ...]]] = []

    def call(self, method: str, *args: Any, timeout_s: float | None = None) -> LocalFuture:
        values = tuple(arg.wait() if isinstance(arg, LocalFuture) else arg for arg in args)
        self.calls.append((method, values))
        return LocalFuture(getattr(self.body, method)(*values))


@dataclass(frozen=True)
class Shared:
    """A rollout worker with the weights it began with."""

    worker: Any
    weights: Weights


@pytest.fixture(scope="session")
def local_handle() -> type[LocalHandle]:
    """`LocalHandle(body)` stands where the project expects a `rollout.base.handle.Handle`."""
    return LocalHandle


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The quickstart's model with random weights: tied embeddings, 264 tokens, `CONTROL` its control tokens."""
    from learner.model.prepare_model import random_model

    return Path(random_model(tmp_path_factory.mktemp("tiny"), RandomModelConf(), ModelConf(), seed=0))


@pytest.fixture(scope="session")
def control(tiny_model: Path) -> ControlTokens:
    from rollout.data.tokens import control_tokens, load_tokenizer

    found = control_tokens(load_tokenizer(tiny_model, ModelConf()), ModelConf())
    assert found == CONTROL
    return found


@pytest.fixture(scope="session")
def make_learner() -> Callable[..., Any]:
    """`make_learner(folder, conf=..., temperature=...)`: a started `Learner` with one rank, in this process."""
    from learner.learner import Learner
    from learner.worker import LearnerWorker

    def make(folder: Path, conf: LearnerConf | None = None, temperature: float = 1.0) -> Learner:
        conf = conf or LearnerConf(lr=1e-2, betas=[0.9, 0.95])
        learner = Learner([LocalHandle(LearnerWorker(conf, ModelConf(), str(folder), 0, temperature, 100))], conf)
        learner.start(None, reference=False)
        return learner

    return make


@pytest.fixture(scope="session")
def make_worker(control: ControlTokens) -> Iterator[Callable[..., Any]]:
    """`make_worker(folder, conf)`: a `RolloutWorker` with an engine of its own, in this process.

    The first takes ten seconds, the next a fraction of one. None is closed before the end of the session: vLLM's
    groups are the process's, and the first engine to close takes them from the others.
    """
    from rollout.worker import RolloutWorker

    made = []

    def make(folder: Path, conf: RolloutConf) -> Any:
        made.append(RolloutWorker(conf, ModelConf(), str(folder), control, seed=0))
        return made[-1]

    yield make
    for worker in made:
        if worker.conf.tensor_parallel > 1:  # the others end with this process, and sooner
            worker.close()


@pytest.fixture(scope="session")
def _shared_worker(tiny_model: Path, make_worker: Callable[..., Any]) -> Shared:
    from learner.model.policy import load_policy
    from rollout.weight_sync.weights import views

    policy = load_policy(str(tiny_model), "float32")
    named = [(policy.public_name(name), p.data) for name, p in policy.named_parameters()]
    weights = views(named, 0, {"lm_head.weight": "model.embed_tokens.weight"}).copy()
    return Shared(make_worker(tiny_model, RolloutConf(kv_cache_gib=0.25)), weights)


@pytest.fixture
def rollout_worker(_shared_worker: Shared) -> Iterator[Any]:
    """The session's one `RolloutWorker`, with `tiny_model`'s weights as version 0 at the start of every test."""
    worker = _shared_worker.worker
    yield worker
    if worker.engine.version != 0:
        worker.load(_shared_worker.weights)


@pytest.fixture(scope="session")
def make_prompts() -> Callable[..., list[Prompt]]:
    """`make_prompts(count, length=12, seed=0)`: prompts of random printable characters; lengths from `length` on."""

    def make(count: int, length: int = 12, seed: int = 0, spread: int = 4) -> list[Prompt]:
        rng = np.random.default_rng(seed)
        return [
            Prompt(
                uid=f"random/{seed}/{i}",
                problem="?",
                token_ids=np.concatenate([[2], rng.integers(8 + 32, 8 + 127, length + i % spread), [3]]).astype(
                    np.int32
                ),
                answer="1",
                source="random",
            )
            for i in range(count)
        ]

    return make
