"""The process in which vLLM runs: settings that it takes as environment variables, and reads when it is imported.

In: the sampler's settings. Out: nothing. Must not know: vLLM itself, which is imported afterwards.
"""

from __future__ import annotations

import os

from conf.schema import Device, RolloutConf


def prepare_environment(conf: RolloutConf) -> None:
    """The engine's scheduler in this process, no telemetry, and on a CPU the threads that were asked for."""
    os.environ.update(VLLM_ENABLE_V1_MULTIPROCESSING="0", VLLM_NO_USAGE_STATS="1")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")  # a fork of a process with threads may hang
    if conf.device is Device.cpu:
        os.environ.update(
            VLLM_CPU_OMP_THREADS_BIND="nobind", TORCHDYNAMO_DISABLE="1", OMP_NUM_THREADS=str(conf.threads)
        )
        import torch

        torch.set_num_threads(conf.threads)  # OpenMP read its variable already if torch was imported before
