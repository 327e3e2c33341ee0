"""Random weights that behave more like trained ones. In: a model. Out: the same, changed. Must not know: its use."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def scale(model: Any) -> None:
    """Draw all matrices anew: layers by their width, the output head so that logits have a standard deviation of 4, as
    those of trained models do: sampled tokens then have a few nats."""
    import torch

    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0.0, parameter.shape[1] ** -0.5)
        model.get_output_embeddings().weight.mul_(4.0)


def ragged_model(folder: Path) -> str:
    """The quickstart's model with random weights, its end-of-sequence row scaled: answers end anywhere in 1..512."""
    from safetensors.torch import load_file, save_file

    from conf.schema import ModelConf, RandomModelConf
    from learner.model.prepare_model import random_model

    random_model(folder, RandomModelConf(), ModelConf(), seed=0)
    weights = load_file(folder / "model.safetensors")
    weights["model.embed_tokens.weight"][1] *= 1.5
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return str(folder)
