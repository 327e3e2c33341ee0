"""Models of transformers with their weights for vLLM, and threads that switch often."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from conf.schema import OnWeightSync
from rollout.worker import RolloutWorker
from tests.helpers.policies import Policies, make_policies


@pytest.fixture
def impatient() -> Iterator[None]:
    """Threads take turns a hundred times as often as they normally do."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(5e-5)
    yield
    sys.setswitchinterval(before)


@pytest.fixture(scope="session")
def policies(tiny_model: Path) -> Policies:
    return make_policies(tiny_model)


@pytest.fixture(params=list(OnWeightSync), ids=lambda way: way.value)
def way(request: pytest.FixtureRequest, rollout_worker: RolloutWorker, monkeypatch: pytest.MonkeyPatch) -> OnWeightSync:
    monkeypatch.setattr(rollout_worker.conf, "on_weight_sync", request.param)
    return request.param
