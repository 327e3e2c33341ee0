"""What a run and the stages before it leave on disk, at most at a time.

In: a configuration, models' shapes, the stages. Out: bytes by item. Must not know: seconds, GPUs' memory.

A checkpoint holds float32 weights and Adam's two float32 moments, each value once, whatever the ranks and the model's
dtype. The next one is written before an old one is dropped.
Text is counted with 4 bytes a token. Not counted: recorded steps, logs, metrics.
"""

from __future__ import annotations

from collections.abc import Sequence

from conf.schema import Config
from orchestrator.plan.model_shape import ModelShape
from orchestrator.plan.stages import Stage

TEXT = 4  # bytes a token


def disk(conf: Config, model: ModelShape, stages: Sequence[Stage]) -> dict[str, float]:
    """Bytes."""
    found: dict[str, float] = {}
    fetched = {one.name: float(one.weight_bytes) for one in (model, *(stage.model for stage in stages)) if one.from_hub}
    if fetched:
        found["models from the hub"] = sum(fetched.values())
    answers = sum(one.tokens for one in stages if one.name != "warm-up")
    if answers:
        found["teachers' answers"] = TEXT * answers
    if any(one.name == "warm-up" for one in stages):
        found["the warm-up's checkpoints"] = 2.0 * checkpoint(model)
        found["the warmed-up model"] = float(model.weight_bytes)
    run = conf.run
    kept = run.keep_checkpoints + (run.keep_best is not None) + (run.steps // run.keep_every if run.keep_every else 0)
    saved = kept + 1 if run.keep_checkpoints else run.steps // run.save_every if run.save_every else 1
    found[f"{saved} of the run's checkpoints"] = saved * float(checkpoint(model))
    best = 2 if conf.evaluate.every and conf.validation.size else 0  # the new one is written beside
    found["the trained and the best model" if best else "the trained model"] = (1.0 + best) * model.weight_bytes
    return found


def checkpoint(model: ModelShape) -> int:
    """Bytes of one, without adapters."""
    return 12 * model.parameters
