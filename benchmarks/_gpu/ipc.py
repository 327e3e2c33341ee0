"""Weights into another process on the same GPU, again and again: are they equal, how fast, does anything leak.

The transport is the learner's (`rollout.weight_sync.transport`: vLLM's packed CUDA IPC, a memory file on a CPU); on a
GPU without vLLM, torch's own CUDA IPC in the same shape: one buffer, mapped once by the other process, filled again
and again. In: nothing but `small`. Out: figures. Must not know: learners, engines.
"""

from __future__ import annotations

import importlib.util
import multiprocessing
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks._figures import figure, say
from benchmarks._gpu.setup import the_device
from rollout.weight_sync import transport
from rollout.weight_sync.weights import aligned, buckets

PUSHES = 20
BUCKET = 256 * 2**20  # bytes
SHAPES = [(151_936, 1536), *[(8960, 1536), (1536, 8960), (1536,), (256, 1536)] * 28]  # of the 1.5B model, about
SMALL_SHAPES = [(264, 32), (96, 32), (33,)]


def ipc(small: bool) -> None:
    device = the_device(small)
    own = device.type == "cpu" or importlib.util.find_spec("vllm") is not None
    if not own:
        say("without vLLM: torch's own CUDA IPC, in the same shape")
    shapes, capacity = (SMALL_SHAPES, 2**15) if small else (SHAPES, 2 * BUCKET)
    context: Any = multiprocessing.get_context("fork" if small else "spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=receive, args=(theirs, str(device), shapes, own), daemon=True)
    process.start()
    theirs.close()
    outbox = transport.Outbox(device, capacity) if own else TorchOutbox(device, capacity)
    before = (ours.recv(), held(device))
    answers, taken = [], []
    for push in range(PUSHES):
        named = list(weights(shapes, push, device))
        begin = time.perf_counter()
        for chunk in outbox.chunks(named):
            ours.send(chunk)
            assert ours.recv() == "taken"
        taken.append(time.perf_counter() - begin)
        del named, chunk
        ours.send(None)
        equal, theirs_held = ours.recv()  # it has let go of the buffer
        outbox.release()
        answers.append((equal, theirs_held, held(device)))
    ours.send("end")
    process.join(30)
    if process.exitcode:
        raise SystemExit(f"the receiving process ended with exit code {process.exitcode}")
    outbox.close()
    total = sum(one.numel() * one.element_size() for _, one in weights(shapes, 0, device))
    growth = max(answers[-1][side] - answers[2][side] for side in (1, 2))
    figure("ipc_equal", sum(answer[0] for answer in answers) / PUSHES, "share of pushes", 1.0)
    figure("ipc_gb_per_s", total / sorted(taken)[PUSHES // 2] / 1e9, "GB/s")
    figure("ipc_leak_mib", growth / 2**20, "MiB", "at most 1")
    figure("ipc_left_mib", max(answers[-1][side] - before[side - 1] for side in (1, 2)) / 2**20, "MiB")


def weights(shapes: list[tuple[int, ...]], push: int, device: torch.device) -> Iterator[tuple[str, Tensor]]:
    """Random ones, the same in every process on one kind of device."""
    generator = torch.Generator(device).manual_seed(push)
    for index, shape in enumerate(shapes):
        yield f"w{index}", torch.randn(shape, generator=generator, device=device, dtype=torch.float32).bfloat16()


def receive(connection: Any, device_name: str, shapes: list[tuple[int, ...]], own: bool) -> None:
    """The other process."""
    device = torch.device(device_name)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    inbox = transport.Inbox(device) if own else TorchInbox()  # one for all pushes, as a rollout worker has
    connection.send(held(device))
    for push in range(PUSHES):
        equal = arrives(connection, inbox, weights(shapes, push, device))
        inbox.close()
        connection.send((equal, held(device)))
    assert connection.recv() == "end"


def arrives(connection: Any, inbox: Any, expected: Iterator[tuple[str, Tensor]]) -> bool:
    """Whether one push is what was expected, bit for bit."""
    equal = True
    while (chunk := connection.recv()) is not None:
        for name, tensor in inbox.take(chunk):
            wanted_name, wanted = next(expected)
            equal = equal and name == wanted_name and torch.equal(tensor, wanted)
        connection.send("taken")
    return equal and next(expected, None) is None


def held(device: torch.device) -> int:
    """Bytes of this process: allocated on a GPU, resident on a CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return torch.cuda.memory_allocated(device)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


class TorchOutbox:
    """As `transport.Outbox`, by torch's CUDA IPC."""

    def __init__(self, device: torch.device, capacity: int):
        from torch.multiprocessing.reductions import reduce_tensor

        self.buffer = torch.empty(capacity, dtype=torch.uint8, device=device)
        self.handle: tuple[Callable[..., Tensor], tuple[Any, ...]] = reduce_tensor(self.buffer)

    def chunks(self, named: list[tuple[str, Tensor]]) -> Iterator[Any]:
        capacity = self.buffer.numel()
        for part in buckets(named, lambda item: aligned(item[1].numel() * item[1].element_size()), capacity):
            end, rows = 0, []
            for name, tensor in part:
                flat = tensor.contiguous().view(-1).view(torch.uint8)
                self.buffer[end : end + len(flat)] = flat
                rows.append((name, str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape), end, len(flat)))
                end += aligned(len(flat))
            torch.cuda.synchronize(self.buffer.device)
            yield self.handle, rows

    def release(self) -> None:
        torch.cuda.ipc_collect()

    def close(self) -> None:
        del self.buffer


class TorchInbox:
    """As `transport.Inbox`."""

    _mapped: Tensor | None = None  # by all: an IPC handle is opened once in a process

    def take(self, chunk: Any) -> list[tuple[str, Tensor]]:
        (rebuild, arguments), rows = chunk
        if TorchInbox._mapped is None:
            TorchInbox._mapped = rebuild(*arguments)
        taken = []
        for name, dtype, shape, start, size in rows:
            flat = TorchInbox._mapped[start : start + size].clone()
            taken.append((name, flat.view(getattr(torch, dtype)).view(shape)))
        torch.cuda.synchronize()
        return taken

    def close(self) -> None:
        pass
