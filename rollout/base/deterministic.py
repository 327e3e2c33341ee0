"""Deterministic kernels (run.deterministic): what a process sets before it first uses its device.

In: a seed. Out: torch's switches and environment variables of this process. Must not know: who asks, models. What it
covers, what it costs and what it leaves out is in docs/gpu.md.
"""

from __future__ import annotations

import os

LEARNER = {
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # cuBLAS: a fixed workspace for each stream; torch refuses without it
    "NCCL_NVLS_ENABLE": "0",  # NCCL: no sums in the switch, whose order is not fixed
    "NCCL_COLLNET_ENABLE": "0",
}
SAMPLER = {"VLLM_BATCH_INVARIANT": "1"}  # read when vLLM is imported; it sets cuBLAS and NCCL itself


def deterministic_learner(seed: int) -> None:
    """From here on torch takes deterministic kernels where it has a choice, and raises RuntimeError where it has only
    others.

    Strict on purpose: with `warn_only` flash attention's backward pass would stay as it is (torch's
    attention_backward.cu), which adds the gradients of queries in no fixed order.
    """
    import torch

    os.environ.update(LEARNER)
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(True)
    # what it fills is read by nobody, and it costs a pass over memory
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True


def deterministic_sampler() -> None:
    """For a GPU, before vLLM is imported: kernels whose results do not depend on which sequences run together. (Its CPU
    engine has none of them, and needs none with one thread.)"""
    os.environ.update(SAMPLER)
