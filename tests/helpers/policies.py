"""Policies of transformers with the same weights for vLLM, what log-probs tokens have by them, and random pushes."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from conf.schema import OnWeightSync
from rollout.trajectory import Trajectory
from rollout.weight_sync.weights import Weights, views
from rollout.worker import RolloutWorker
from tests.helpers.engines import TIED

VARIANTS = 4  # version v has the weights of variant v % VARIANTS; variant 0 is the tiny model itself
BOUND = 1e-4  # nats


@dataclass(frozen=True)
class Policies:
    """Models of transformers, and the same weights for vLLM."""

    models: list[Any]
    named: list[list[tuple[str, Any]]]

    def weights(self, version: int, variant: int | None = None) -> Weights:
        return views(self.named[version % VARIANTS if variant is None else variant], version, TIED).copy()

    def model(self, version: int) -> Any:
        return self.models[version % VARIANTS]


def make_policies(tiny_model: Path) -> Policies:
    import torch
    from transformers import AutoModelForCausalLM

    models, named = [], []
    for variant in range(VARIANTS):
        model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).eval()
        generator = torch.Generator().manual_seed(variant)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.03 * bool(variant) * torch.randn(parameter.shape, generator=generator)
        models.append(model)
        named.append([(name, parameter.data) for name, parameter in model.named_parameters()])
    return Policies(models, named)


def whole_prefix(policies: Policies, t: Trajectory, versions: list[int]) -> np.ndarray:
    """f64[T]: each token by its version's weights on all that came before it."""
    import torch

    ids = torch.tensor([[*t.prompt.token_ids.tolist(), *t.token_ids.tolist()]])
    found = np.empty(len(versions))
    for version in {version % VARIANTS for version in versions}:
        with torch.no_grad():
            logits = policies.model(version)(ids, use_cache=False).logits[0, len(t.prompt.token_ids) - 1 : -1]
        picked = _pick(logits, t.token_ids)
        mine = np.array(versions) % VARIANTS == version
        found[mine] = picked[mine]
    return found


def kept_cache(policies: Policies, t: Trajectory, versions: list[int]) -> np.ndarray:
    """f64[T]: keys and values stay as they were made. Prompt and token 0 belong to one step, that of `versions[0]`; to
    sample token i, token i - 1 is fed, so that the weights of `versions[i]` make its key and value."""
    import torch
    from transformers import DynamicCache

    fed = [*t.prompt.token_ids.tolist(), *t.token_ids.tolist()[:-1]]  # the input whose logits each token came from
    by = [versions[0]] * len(t.prompt.token_ids) + versions[1:]
    cache, logits, at = DynamicCache(), [], 0
    for version, run in groupby(by):
        count = len(list(run))
        with torch.no_grad():
            piece = torch.tensor([fed[at : at + count]])
            logits.append(policies.model(version)(piece, past_key_values=cache, use_cache=True).logits[0])
        at += count
    return _pick(torch.cat(logits)[len(t.prompt.token_ids) - 1 :], t.token_ids)


def _pick(logits: Any, token_ids: np.ndarray) -> np.ndarray:
    import torch

    chosen = torch.tensor(token_ids, dtype=torch.int64)[:, None]
    return logits.double().log_softmax(-1).gather(-1, chosen)[:, 0].numpy()


REFERENCES = {OnWeightSync.keep: kept_cache, OnWeightSync.recompute: whole_prefix, OnWeightSync.drain: whole_prefix}


@contextmanager
def pushes(worker: RolloutWorker, make: Callable[[int], Weights], seed: int, most: int = 4) -> Iterator[list[int]]:
    """New weights again and again from another thread, each after 1 to `most` steps of the engine, however long those
    take. Gives the versions pushed so far."""
    rng, over, pushed = random.Random(seed), threading.Event(), []

    def push() -> None:
        while True:
            due = worker.pulse().done + rng.randint(1, most)
            while worker.pulse().done < due:
                if over.wait(0.001):
                    return
            version = worker.ready() + 1
            worker.load(make(version))
            pushed.append(version)

    with ThreadPoolExecutor(1) as pool:
        pusher = pool.submit(push)
        try:
            yield pushed
        finally:
            over.set()
        pusher.result()


def until(true: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.002)
