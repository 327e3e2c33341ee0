"""Shared fixtures: a tiny random model, one vLLM engine for the session, learners and workers in this process.

A fixture that starts something real is session-wide, because starting costs seconds; a test that changes the engine's
weights takes `rollout_worker`, which puts the model's own weights back afterwards.
"""

from __future__ import annotations

import gc
import os

os.environ["OMP_NUM_THREADS"] = "1"  # read when torch is imported: two busy pools on two cores are ten times slower

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from conf.schema import LearnerConf, ModelConf, RandomModelConf, RolloutConf
from learner.learner import Learner
from rollout.mode import ControlTokens
from rollout.weight_sync.weights import views
from rollout.worker import RolloutWorker
from tests.helpers.engines import TIED, MakeLearner, MakeWorker, SharedWorker, policy_weights
from tests.helpers.handles import InThread, LocalHandle

hypothesis.settings.register_profile("thinkless", deadline=None)  # nothing depends on speed
hypothesis.settings.load_profile("thinkless")

CONTROL = ControlTokens(think=4, short=6, think_end=5, eos=1)  # of the quickstart's tokenizer


# Files by how long they take, the longest first, so that all processes of `make test` end at the same time. Those of a
# line share what they start, and stay in one process.
LONGEST = [
    ["orchestrator/test_faults.py", "orchestrator/test_colocation.py", "orchestrator/test_on_policy.py"],
    ["orchestrator/test_train.py", "orchestrator/test_replay.py"],
    ["orchestrator/test_job.py"],
    [f"learner/test_{name}.py" for name in ("gradient", "lora", "worker", "weight_sender", "offload", "bad_input")]
    + ["learner/test_warmup.py", "learner/test_reference.py"],
    [f"rollout/test_{name}.py" for name in ("in_flight", "limits", "logprob_check", "tensor_parallel", "vllm_receiver")]
    + [f"rollout/test_{name}.py" for name in ("engine", "serving", "steering", "async_scheduling")]
    + ["orchestrator/test_export.py"],
    ["test_types.py"],
    ["orchestrator/test_sweeps.py"],
    ["orchestrator/test_families.py"],
    ["orchestrator/test_distill.py"],
    ["orchestrator/test_doctor.py"],
    ["orchestrator/test_placement.py"],
    ["orchestrator/test_two_hosts.py"],
    ["orchestrator/test_latest_weights.py", "orchestrator/test_interrupt.py"],
    ["test_gpu_benchmark.py"],
    ["orchestrator/test_commands.py"],
    ["rollout/test_schedules.py"],
    ["orchestrator/test_watch_page.py"],
    ["test_benchmarks.py"],
    ["orchestrator/test_model_check.py"],
    ["orchestrator/test_trackers.py"],
    ["orchestrator/test_plan.py"],
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


def pytest_collection_finish() -> None:
    """What the tests have imported stays: the garbage collector need not look through it again and again."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    from tests.helpers.sharing import Sharing

    config.option.loadscopereorder = False  # not by the number of tests
    return Sharing(config, log, PLACE)


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
def make_learner() -> MakeLearner:
    """A started `Learner` with one rank, in this process."""
    from learner.worker import LearnerWorker

    def make(folder: Path, conf: LearnerConf | None = None, temperature: float = 1.0) -> Learner:
        conf = conf or LearnerConf(lr=1e-2, betas=[0.9, 0.95])
        learner = Learner([LocalHandle(LearnerWorker(conf, ModelConf(), str(folder), 0, temperature, 100))], conf)
        learner.start(None, reference=False)
        return learner

    return make


@pytest.fixture(scope="session")
def make_worker(control: ControlTokens) -> Iterator[MakeWorker]:
    """`make_worker(folder, conf)`: a `RolloutWorker` with an engine of its own, in this process.

    The first takes ten seconds, the next a fraction of one. None is closed before the end of the session: vLLM's
    groups are the process's, and the first engine to close takes them from the others.
    """
    made: list[RolloutWorker] = []

    def make(folder: Path, conf: RolloutConf) -> RolloutWorker:
        made.append(RolloutWorker(conf, ModelConf(), str(folder), control, seed=0))
        return made[-1]

    yield make
    for worker in made:
        if worker.conf.tensor_parallel > 1:  # the others end with this process, and sooner
            worker.close()


@pytest.fixture(scope="session")
def shared_worker(tiny_model: Path, make_worker: MakeWorker) -> SharedWorker:
    weights = views(policy_weights(tiny_model), 0, TIED).copy()
    return SharedWorker(make_worker(tiny_model, RolloutConf(kv_cache_gib=0.25)), weights)


@pytest.fixture
def rollout_worker(shared_worker: SharedWorker) -> Iterator[RolloutWorker]:
    """The session's one `RolloutWorker`, with `tiny_model`'s weights as version 0 at the start of every test."""
    worker = shared_worker.worker
    yield worker
    if worker.ready() != 0:
        worker.load(shared_worker.weights)


@pytest.fixture
def in_thread() -> Iterator[InThread]:
    """`in_thread(function, *args)` runs in another thread and returns a future."""
    with ThreadPoolExecutor(8) as pool:
        yield pool.submit
