"""What the doctor asks of a node: the body of a small actor there.

In: paths, addresses of other nodes. Out: plain facts. Must not know: Ray (`orchestrator.doctor.cluster` starts it),
what the facts mean.
"""

from __future__ import annotations

import datetime
import os
import platform
import resource
import shutil
import socket
import time
from collections.abc import Callable
from typing import Any

from orchestrator.doctor.access import data_fault, local, model_fault
from orchestrator.doctor.machine import kernel_clock
from orchestrator.doctor.network import Receiver, addresses, send
from orchestrator.doctor.software import PACKAGES, gpus, version
from rollout.base.network import free_ports, gloo_towards

FLOATS = 2**18  # of an all-reduce: 1 MiB
ROUNDS = 10


class Probe:
    def __init__(self, host: Callable[[], str]):
        """host: by which this host learns its address, as learner ranks do. Raises BadInput for an interface that it
        has not."""
        self.address = host()
        self._receivers: list[Receiver] = []

    def now(self) -> float:
        return time.time()

    def facts(self, model: str | None, data: str | None) -> dict[str, Any]:
        there = addresses()
        return {
            "host": socket.gethostname(),
            "address": self.address,
            "interface": next((name for name, found in there.items() if found == self.address), None),
            "interfaces": there,
            "python": platform.python_version(),
            "versions": {name: version(name) for name in PACKAGES},
            "shm_free": shutil.disk_usage("/dev/shm").free,
            "disk_free": shutil.disk_usage(os.environ.get("TMPDIR") or "/tmp").free,
            "files": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
            "clock": kernel_clock(),
            "gpus": [(one.level, one.text) for one in gpus() if one.level != "ok"],
            "model": model_fault(model) if model is not None and local(model) else None,
            "data": data_fault(data) if data is not None and local(data) else None,
        }

    def listen(self) -> tuple[str, int]:
        self._receivers.append(Receiver(self.address))
        return self.address, self._receivers[-1].port

    def send(self, address: str, port: int, megabytes: int) -> float:
        return send(address, port, megabytes)

    def free_port(self) -> int:
        return free_ports(1, self.address)[0]

    def collective(self, backend: str, rank: int, world: int, master: str, port: int, timeout_s: float) -> float:
        """Seconds of one all-reduce of a MiB between all probes. backend: gloo or nccl."""
        import torch
        import torch.distributed as dist

        gloo_towards(master)
        limit = datetime.timedelta(seconds=timeout_s)
        dist.init_process_group(backend, f"tcp://{master}:{port}", limit, world, rank)
        try:
            device = "cuda" if backend == "nccl" else "cpu"
            values = torch.ones(FLOATS, device=device)
            dist.all_reduce(values)
            begin = time.perf_counter()
            for _ in range(ROUNDS):
                dist.all_reduce(values)
            if device == "cuda":
                torch.cuda.synchronize()
            return (time.perf_counter() - begin) / ROUNDS
        finally:
            dist.destroy_process_group()
