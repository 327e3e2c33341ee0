"""The group that weights are broadcast in: forming it, and waits within it that end.

In: where the sender listens, who is who, how long to wait. Out: vLLM's stateless NCCL group, on a CPU one of gloo's;
TimeoutError and ConnectionError with the caller's message. Must not know: weights, versions, the handshake.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from concurrent.futures import wait as wait_for
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor

from rollout.base.key_store import key_store
from rollout.base.network import gloo_towards

POLL_S = 0.2  # how often one that joins looks whether the others are still there


class Gloo:
    """A group of its own beside the process's groups, as vLLM's stateless NCCL group is."""

    def __init__(self, address: str, port: int, rank: int, world: int, timeout_s: float):
        gloo_towards(address)
        limit = timedelta(seconds=timeout_s)
        store = key_store(address, port, rank, world, timeout_s)
        self.group: Any = torch.distributed.ProcessGroupGloo(store, rank, world, limit)

    def broadcast(self, flat: Tensor) -> None:
        options = torch.distributed.BroadcastOptions()
        options.rootRank = 0
        try:
            self.group.broadcast([flat], options).wait()
        except RuntimeError as error:
            raise ConnectionResetError(str(error).splitlines()[0][:200]) from error

    def destroy(self) -> None:
        self.group = None


def join(
    device: torch.device,
    address: str,
    port: int,
    rank: int,
    world: int,
    timeout_s: float,
    message: str = "a member of the broadcast group did not join",
    still_there: Callable[[], None] = lambda: None,
) -> Any:
    """The group of one sender (rank 0, which listens at `port`) and all receivers. Returns when all are there.

    Raises TimeoutError(message) after `timeout_s`, ConnectionError when a neighbour is gone sooner. still_there: called
    meanwhile; what it raises ends the wait.

    NCCL waits for ever for one that died before it joined, and cannot be stopped while a group is being formed. So that
    is done by a thread that is given up with the wait.
    """
    current: int | None = None
    if device.type == "cuda":
        current = torch.cuda.current_device()
        _keep_stream()
    formed: Future[Any] = Future()
    given_up = threading.Event()

    def form() -> None:
        try:
            if current is not None:
                torch.cuda.set_device(current)  # a new thread has the first GPU
            group = _group(device, address, port, rank, world, timeout_s)
        except BaseException as error:
            formed.set_exception(error)
            return
        if given_up.is_set():
            group.destroy()
        formed.set_result(group)

    # gloo returns by itself, and is waited for at the end of the process, which would be aborted while it connects
    threading.Thread(target=form, name="joining a broadcast group", daemon=device.type != "cpu").start()
    deadline = time.monotonic() + timeout_s
    try:
        while not formed.done():
            still_there()
            if (left := deadline - time.monotonic()) <= 0:
                raise TimeoutError(message)
            wait_for([formed], min(left, POLL_S))
        return formed.result()
    except RuntimeError as error:  # of the store or of the group
        if "imed out" in str(error) or "imeout" in str(error):
            raise TimeoutError(message) from error
        raise ConnectionError(f"{message}: {' '.join(str(error).split())[:200]}") from error
    finally:
        given_up.set()


def _group(device: torch.device, address: str, port: int, rank: int, world: int, timeout_s: float) -> Any:
    if device.type == "cpu":
        return Gloo(address, port, rank, world, timeout_s)
    from vllm.distributed.weight_transfer.nccl_common import stateless_init_process_group

    _keep_stream()
    group = stateless_init_process_group(address, port, rank, world, device)
    if group.disabled:  # it would send and receive nothing, without a word
        raise ConnectionError("vLLM finds no NCCL library (or VLLM_DISABLE_PYNCCL is set): no broadcast is possible")
    return group


def _keep_stream() -> None:
    """Let vLLM take this thread's current CUDA stream for its own. It remembers the last one that was set, and if none
    was, makes a new one the current one: what the learner computes after its first push would run beside what DeepSpeed
    orders on the default stream."""
    import vllm.utils.torch_utils  # noqa: F401  # wraps torch.cuda.set_stream

    torch.cuda.set_stream(torch.cuda.current_stream())


@contextlib.contextmanager
def bounded(timeout_s: float, stop: Callable[[], Any], message: str) -> Iterator[None]:
    """Around a call that may hang for ever: after `timeout_s` it is stopped, and TimeoutError(message) raised.

    stop: lets the call return or fail (an NCCL group's `destroy` aborts what is under way in it).
    """
    late = threading.Event()

    def end() -> None:
        late.set()
        stop()

    timer = threading.Timer(timeout_s, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    except (RuntimeError, OSError) as error:
        if late.is_set() or "imed out" in str(error):
            raise TimeoutError(message) from error
        if isinstance(error, OSError):  # sooner than that: a neighbour is gone
            raise ConnectionError(f"{message}: {error}") from error
        raise
    finally:
        timer.cancel()
    if late.is_set():
        raise TimeoutError(message)
