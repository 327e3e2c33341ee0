"""A sampling engine stepped until it has nothing left to do."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rollout.engine import Engine, Request, Sample


def generate(engine: Engine, requests: Sequence[Request], advance: Callable[[int], None] | None = None) -> list[Sample]:
    """The samples of all requests, in order. advance: called with the number of tokens of each one that ends."""
    samples: dict[int, Sample] = {}
    for key, request in enumerate(requests):
        engine.add(key, request)
    while engine.unfinished:
        for key, sample in engine.step():
            samples[key] = sample
            if advance:
                advance(len(sample.token_ids))
    return [samples[key] for key in range(len(requests))]
