"""Agreement between learner ranks: equal inputs to collective calls, and errors that name the rank that waited.

In: a rank's configuration, numbers. Out: nothing, or the same error on every rank. Must not know: models, DeepSpeed.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Callable
from typing import Any

import torch

from conf.schema import Device, LearnerConf
from rollout.base.errors import RankLost

# gloo's words; then NCCL's, with TORCH_NCCL_BLOCKING_WAIT=1 (without it torch's watchdog ends the process: docs/gpu.md)
WAITED = (
    r"[Tt]imed? ?out|[Cc]onnection (closed|reset|refused)|[Bb]roken pipe"
    r"|NCCL communicator was aborted|ncclRemoteError|remote process exited"
)


def digest(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")


def named_wait(method: Callable[..., Any]) -> Callable[..., Any]:
    """Decorates a collective method: after a time-out or a lost peer the error names the rank and the call."""

    @functools.wraps(method)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return method(self, *args, **kwargs)
        except RuntimeError as error:
            text = str(error)
            if not re.search(WAITED, text):
                raise
            raise RankLost(
                f"learner rank {self.rank} of {self.conf.ranks} waited for another rank in `{method.__name__}`, which "
                f"did not answer within learner.timeout_s={self.conf.timeout_s:g} s, or died "
                f"({text.splitlines()[0][:200]})"
            ) from error

    return call


def agree(conf: LearnerConf, what: str, *numbers: int) -> None:
    """Every rank raises ValueError unless all were given the same numbers. (This collective call cannot hang on a
    disagreement: its shape is fixed.)"""
    if conf.ranks == 1:
        return
    mine = torch.tensor(numbers, dtype=torch.int64, device="cpu" if conf.device is Device.cpu else "cuda")
    every = [torch.empty_like(mine) for _ in range(conf.ranks)]
    torch.distributed.all_gather(every, mine)
    others = [rank for rank, theirs in enumerate(every) if theirs.tolist() != every[0].tolist()]
    if others:
        raise ValueError(
            f"learner ranks disagree on {what}: rank 0 has {every[0].tolist()}, rank {others[0]} has "
            f"{every[others[0]].tolist()}"
        )
