"""GPUs that a plan can be made for: memory, bandwidths, FLOP/s, price.

In: a name. Out: `Hardware`. Must not know: models, runs, what is in this machine.

Memory is what `nvidia-smi` reports as total; bandwidth and links are from NVIDIA's data sheets (per GPU, one
direction: NVLink 4 of an H100 has 900 GB/s both ways, PCIe 5.0 x16 has 64), FLOP/s from `learner.data.flops.PEAKS`.
Prices are an assumption: US dollars an hour on demand from GPU clouds in 2025, rounded; `price=` replaces them.

`cpu` is one process on a core of its own. Its figures were fitted to quickstart runs on a 2-core AMD EPYC machine
(docs/plan.md): they stand for the tiny model's fixed costs, not for a processor's data sheet.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass

from learner.data.flops import peak_flops
from rollout.base.errors import BadInput

GIB = 2**30


@dataclass(frozen=True, slots=True)
class Hardware:
    name: str
    memory: float  # bytes
    bandwidth: float  # bytes/s of its own memory
    flops: float  # dense bfloat16 FLOP/s
    link: float  # bytes/s to another GPU of its host, in a collective call
    price: float  # US dollars an hour

    @property
    def gpu(self) -> bool:
        return self.name != "cpu"


def _gpu(name: str, device: str, gib: float, gb_per_s: float, link_gb: float, price: float) -> Hardware:
    flops = peak_flops(device)
    assert flops is not None, device
    return Hardware(name, gib * GIB, gb_per_s * 1e9, flops, link_gb * 1e9, price)


GPUS = {
    one.name: one
    for one in (
        _gpu("b200", "NVIDIA B200", 179.1, 8000, 600, 5.5),
        _gpu("h200", "NVIDIA H200", 140.4, 4800, 300, 3.8),
        _gpu("h100", "NVIDIA H100 80GB HBM3", 79.6, 3350, 300, 3.0),
        _gpu("h100-pcie", "NVIDIA H100 PCIe", 79.6, 2000, 50, 2.5),
        _gpu("a100", "NVIDIA A100-SXM4-80GB", 79.3, 2039, 200, 1.8),
        _gpu("a100-40gb", "NVIDIA A100-SXM4-40GB", 39.6, 1555, 200, 1.3),
        _gpu("l40s", "NVIDIA L40S", 45.0, 864, 20, 1.0),
        _gpu("l4", "NVIDIA L4", 22.5, 300, 20, 0.7),
        _gpu("a10", "NVIDIA A10", 22.5, 600, 20, 0.75),
        _gpu("rtx4090", "NVIDIA GeForce RTX 4090", 24.0, 1008, 20, 0.4),
        _gpu("rtx3090", "NVIDIA GeForce RTX 3090", 24.0, 936, 20, 0.25),
    )
}
CPU = Hardware("cpu", 0.0, 2e10, 8e10, 1e9, 0.05)
DEFAULT = "h100"  # of a configuration whose samplers or ranks are on GPUs


def named(name: str) -> Hardware:
    """Raises BadInput for a name that is not in the table."""
    known = {**GPUS, "cpu": CPU}
    if (found := known.get(name.lower())) is None:
        guess = difflib.get_close_matches(name.lower(), known, 1)
        hint = f"did you mean gpu={guess[0]}? " if guess else ""
        raise BadInput(f"gpu={name}: {hint}there are {', '.join(known)}")
    return found


def of_device(lines: Iterable[str]) -> Hardware | None:
    """The entry of what a run recorded of its GPUs ("NVIDIA H100 80GB HBM3, 79.6 GiB"); None: no GPU, or none of the
    table. Those whose peak and memory are nearest to what was recorded."""
    for line in lines:
        device, _, memory = line.rpartition(",")
        flops, gib = peak_flops(device), re.match(r"\s*([\d.]+) GiB", memory)
        same = [one for one in GPUS.values() if one.flops == flops]
        if same and gib:
            return min(same, key=lambda one: abs(one.memory / GIB - float(gib[1])))
    return None
