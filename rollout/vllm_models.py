"""What the installed vLLM can do: which classes of models it knows, whether it is a build for GPUs.

In: a class's name, as in a config.json's `architectures`. Out: whether vLLM has it. Imports vLLM: seconds. Must not
know: weights, settings.
"""

from __future__ import annotations

from conf.schema import RolloutConf
from rollout.base.errors import BadInput
from rollout.base.vllm_environment import prepare_environment


def known(architecture: str) -> bool:
    """Whether vLLM has a model for that class: of its own, or through transformers' code."""
    prepare_environment(RolloutConf())
    from vllm.model_executor.models.registry import ModelRegistry

    return architecture in ModelRegistry.get_supported_archs()


def refuse_cpu_vllm() -> None:
    """BadInput for vLLM's CPU build, which would sample on the CPU without a word."""
    from vllm import __version__
    from vllm.platforms import current_platform

    if not current_platform.is_cuda():
        raise BadInput(
            f"rollout.device=gpu: vllm {__version__} runs on {current_platform.device_type} here: install the CUDA "
            f"wheel vllm=={__version__.partition('+')[0]} (`pip install --require-hashes -r requirements-gpu.lock`, "
            "docs/install.md, GPUs), or set rollout.device=cpu"
        )
