"""The learner leaves the GPU to the sampler and comes back: bytes, seconds, equality.

In: nothing but `small`. Out: figures. Must not know: what the tensors are.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

from benchmarks._figures import figure
from benchmarks._gpu.learner import batch_of
from benchmarks._gpu.setup import learner_conf, random_folder, seconds, shape_for, the_device
from benchmarks._learner.setup import GRPO, started_worker
from conf.schema import Dtype


def offload(small: bool) -> None:
    device, shape = the_device(small), shape_for(small)
    with tempfile.TemporaryDirectory(prefix="thinkless-bench-") as scratch:
        path = random_folder(Path(scratch), shape, torch.bfloat16, device)
        conf = learner_conf(device, max_tokens=64 if small else 2048)
        worker = started_worker(path, conf, Dtype.bfloat16)
        batch = batch_of(shape, conf, 1, 16)
        worker.update([batch.ranks[0]], GRPO)  # so that there are optimizer states
        optimizer = worker.engine.deepspeed.optimizer
        masters = list(optimizer.single_partition_of_fp32_groups)
        moments = [one for master in masters for one in optimizer.optimizer.state[master].values()]
        kept = [*worker.engine.policy.parameters(), *masters, *moments]
        before = [one.detach().to("cpu", copy=True) for one in kept]
        for again in ("", "_again"):
            figure(f"offload_seconds{again}", seconds(device, lambda: worker.offload("all")), "s")
            if not again:
                figure("offload_gb", worker.engine.offloader.bytes / 1e9, "GB")
                if device.type == "cuda":
                    figure("offload_left_mib", torch.cuda.memory_allocated(device) / 2**20, "MiB", "at most 64")
                    free, total = torch.cuda.mem_get_info(device)
                    figure("offload_process_gib", (total - free) / 2**30, "GiB that the process still holds", "1 to 2")
            figure(f"reload_seconds{again}", seconds(device, worker.reload), "s")
        same = [torch.equal(one.detach().cpu(), was) for one, was in zip(kept, before, strict=True)]
        figure("offload_equal", sum(same) / len(same), "share of tensors", 1.0)
        worker.update([batch.ranks[0]], GRPO)
        worker.close()
