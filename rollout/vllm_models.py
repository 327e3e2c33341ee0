"""Which classes of models vLLM knows.

In: a class's name, as in a config.json's `architectures`. Out: whether vLLM has it. Imports vLLM: seconds. Must not
know: weights, settings.
"""

from __future__ import annotations

from conf.schema import RolloutConf
from rollout.base.vllm_environment import prepare_environment


def known(architecture: str) -> bool:
    """Whether vLLM has a model for that class: of its own, or through transformers' code."""
    prepare_environment(RolloutConf())
    from vllm.model_executor.models.registry import ModelRegistry

    return architecture in ModelRegistry.get_supported_archs()
