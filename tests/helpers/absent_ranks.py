"""One of four learner ranks in DeepSpeed's real engine; the other three are not there.

In: a model's shape, (stage, dtype, offload) to try, a file. Out: bytes of the rank's tensors after one optimizer step
and one more backward pass, without weights that ZeRO-3 gathered, and the peak of that backward pass. torch's "fake"
process group answers every collective call at once and changes nothing, so that numbers are meaningless and sizes are
those of four ranks.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

RANKS = 4


def main(shape: dict[str, Any], tries: list[tuple[int, str, bool]], out: str) -> None:
    os.environ.update(DS_ACCELERATOR="cpu", DEEPSPEED_LOG_LEVEL="warning", RANK="0", WORLD_SIZE=str(RANKS))
    os.environ.update(LOCAL_RANK="0")
    import torch
    from torch.testing._internal.distributed.fake_pg import FakeStore

    torch.distributed.init_process_group("fake", rank=0, world_size=RANKS, store=FakeStore())
    import deepspeed

    deepspeed.utils.logger.setLevel("WARNING")
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed("fake", auto_mpi_discovery=False, rank=0, world_size=RANKS, verbose=False)
    Path(out).write_text(json.dumps([held(shape, *one) for one in tries]))


def held(shape: dict[str, Any], stage: int, dtype: str, offload: bool) -> tuple[int, int]:
    import torch
    from torch.distributed._tools.mem_tracker import MemTracker
    from transformers import AutoConfig, AutoModelForCausalLM

    from conf.schema import Dtype, LearnerConf
    from learner.engine import Engine
    from learner.model import attention
    from learner.model.attention import Layout
    from learner.model.policy import Policy

    attention.register()
    config = AutoConfig.for_model(**shape)
    config.use_cache = False
    model = AutoModelForCausalLM.from_config(
        config, dtype=getattr(torch, dtype), attn_implementation=attention.NAME
    ).eval()
    conf = LearnerConf(ranks=RANKS, zero_stage=stage, offload_optimizer=offload)
    engine = Engine(Policy(model), conf, Dtype(dtype), RANKS)
    ids, position = torch.randint(0, shape["vocab_size"], (24,)), torch.arange(24)

    def backward() -> None:
        engine.accumulate(-engine(ids, position, position > 3, Layout([24]), 1.0, 8)[0].sum())

    backward()
    engine.step(1e-6)
    there = {id(one): one for one in engine.offloader._everything()}
    tracker = MemTracker()
    tracker.track_external(*there.values())
    with tracker:
        backward()
    return engine.offload("all"), int(tracker.get_tracker_snapshot("peak")[torch.device("cpu")]["Total"])


if __name__ == "__main__":
    main(json.loads(sys.argv[1]), json.loads(sys.argv[2]), sys.argv[3])
