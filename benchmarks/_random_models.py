"""Random weights that behave more like trained ones. In: a model. Out: the same, changed. Must not know: its use."""

from __future__ import annotations

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
