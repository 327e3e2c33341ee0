"""A rollout request as an engine takes it, and an engine's samples as a rollout result.

In: `RolloutRequest`; samples. Out: `Request`s; `RolloutResult`. Must not know: when sequences run, engines, threads.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np

from rollout.engine import Request, Sample
from rollout.mode import ControlTokens, Mode, cap_of
from rollout.request import FINISHES, RolloutRequest, RolloutResult, derive_seed
from rollout.trajectory import Finish


def engine_requests(request: RolloutRequest, control: ControlTokens, run_seed: int) -> list[Request]:
    """One for each response of `request`, in its order; a forced control token ends the prompt."""
    sampling = request.sampling
    forced = [control.id_of(sampling.mode)] if sampling.mode else []
    longest, caps = sampling.max_response_tokens, {}
    if sampling.mode:
        longest = min(longest, cap_of(sampling.mode, sampling) or longest)
    else:
        caps = {first: limit for mode, first in control.modes.items() if (limit := cap_of(mode, sampling))}
    heads = [[*prompt.token_ids.tolist(), *forced] for prompt in request.prompts]
    return [
        Request(
            heads[p],
            longest - len(forced),
            sampling.temperature,
            sampling.top_p,
            derive_seed(run_seed, request.prompts[p].uid, sibling, request.step),
            caps,
        )
        for p, sibling in request.siblings
    ]


def rollout_result(
    request: RolloutRequest, samples: Mapping[int, Sample], control: ControlTokens, begin: float | None
) -> RolloutResult:
    """Columns of `samples`, by index of the response; those missing were given up.

    begin: seconds since the epoch when the first sequence began; None: none has.
    """
    mode, count, end = request.sampling.mode, len(request.siblings), time.time()
    forced = [control.id_of(mode)] if mode else []
    ids: list[np.ndarray] = [np.empty(0, np.int32)]
    logprobs: list[np.ndarray] = [np.empty(0, np.float32)]
    versions: list[np.ndarray] = [np.empty(0, np.int32)]
    lengths = np.zeros(count, np.int32)
    modes: list[Mode | None] = [None] * count
    finishes = np.full(count, FINISHES.index(Finish.ABORT), np.uint8)
    for place, sample in sorted(samples.items()):
        if forced:
            ids.append(np.array(forced, np.int32))
            logprobs.append(np.zeros(1, np.float32))
            versions.append(sample.versions[:1])
        ids.append(sample.token_ids)
        logprobs.append(sample.behavior_logprobs)
        versions.append(sample.versions)
        lengths[place] = len(forced) + len(sample.token_ids)
        modes[place] = control.mode_of(forced[0] if forced else int(sample.token_ids[0]))
        finish = Finish.STOP if sample.stopped else Finish.ABORT if sample.aborted else Finish.LENGTH
        finishes[place] = FINISHES.index(finish)
    return RolloutResult(
        lengths,
        np.concatenate(ids),
        np.concatenate(logprobs),
        np.concatenate(versions),
        tuple(modes),
        finishes,
        bool(forced),
        int(lengths.sum()) - len(forced) * len(samples),
        begin or end,
        end,
    )
