"""The gradients that DeepSpeed is about to apply: after the reduction over ranks, before clipping.

In: a started `LearnerWorker`, its micro-batches. Out: float32, whole tensors. Must not know: what they are
compared with.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from conf.schema import AlgorithmConf
from learner.worker import LearnerWorker


def gradients(worker: LearnerWorker, steps: list[Any], algorithm: AlgorithmConf) -> dict[str, np.ndarray]:
    """`worker.update`, and the gradients of its last optimizer step, by public name. Collective, as the update is."""
    from deepspeed.utils import safe_get_full_grad

    engine = worker.engine
    taken: dict[str, np.ndarray] = {}
    original = engine.deepspeed._take_model_step

    def take(lr_kwargs: Any) -> Any:
        for name, parameter in engine.policy.named_parameters():
            if parameter.requires_grad:
                gradient = safe_get_full_grad(parameter) if engine.conf.zero_stage else parameter.grad
                assert gradient is not None, f"{name} has no gradient"
                taken[engine.policy.public_name(name)] = gradient.detach().float().cpu().clone().numpy()
        return original(lr_kwargs)

    engine.deepspeed._take_model_step = take
    try:
        worker.update(steps, algorithm)
    finally:
        engine.deepspeed._take_model_step = original
    return taken
