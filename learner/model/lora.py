"""Low-rank adapters (peft, imported nowhere else) in a loaded model, and the model's weights with adapters merged.

In: a causal language model, `LoraConf`. Out: the same model with adapters as its only trainable parameters; plain
Hugging Face names and merged tensors; peft's adapter folder. Must not know: DeepSpeed, batches, callers.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from conf.schema import LoraConf
from rollout.base.errors import BadInput

ADAPTER = "default"  # peft's name of the only adapter
FOLDER = "adapter"  # in an exported model's folder
RECORD = "lora.json"  # in a checkpoint's


def attach(causal_lm: Any, conf: LoraConf) -> None:
    """Add float32 adapters to the model and freeze everything else. B is zero, so the model's outputs do not change.

    Raises BadInput for a target that is not a linear layer, or is the output head (`learner.model.logprob` reads its
    weight).
    """
    from peft import inject_adapter_in_model
    from peft.tuners.lora import LoraLayer

    for target in [] if conf.targets == "all-linear" else conf.targets:
        if not _linear(causal_lm, target):
            known = ", ".join(_short_names(causal_lm))
            raise BadInput(f"model.lora.targets: the model has no linear layer {target!r} to adapt (it has {known})")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(conf.seed)  # the same on every rank
        inject_adapter_in_model(_peft_conf(conf, conf.targets), causal_lm)
    for layer in [module for module in causal_lm.modules() if isinstance(module, LoraLayer)]:
        layer.cast_input_dtype_enabled = False
        for part in (layer.lora_A, layer.lora_B):
            part[ADAPTER] = _Narrow(part.get_parameter(f"{ADAPTER}.weight"))
    assert all(".lora_" in name for name, parameter in causal_lm.named_parameters() if parameter.requires_grad)


class _Narrow(nn.Linear):
    """A matrix stored and trained in float32, and rounded to its input's dtype when used.

    peft would widen the input instead: a float32 copy of it in every adapted layer, and slow products on a GPU.
    """

    def __init__(self, weight: Tensor):
        super().__init__(weight.shape[1], weight.shape[0], bias=False, device="meta")
        self.weight = nn.Parameter(weight.detach().to(torch.promote_types(weight.dtype, torch.float32)))

    def forward(self, states: Tensor) -> Tensor:
        return functional.linear(states, self.weight.to(states.dtype))


def _linear(causal_lm: Any, target: str = "") -> list[str]:
    """Names of the linear layers that `target` matches (peft's rule: the name, or its end after a dot)."""
    head = causal_lm.get_output_embeddings()
    return [
        name
        for name, module in causal_lm.named_modules()
        if isinstance(module, nn.Linear) and module is not head and f".{name}".endswith(f".{target}" if target else "")
    ]


def _short_names(causal_lm: Any) -> list[str]:
    return sorted({name.removesuffix(".base_layer").rpartition(".")[2] for name in _linear(causal_lm)})


def _peft_conf(conf: LoraConf, targets: Any, **more: Any) -> Any:
    from peft import LoraConfig

    assert conf.rank
    alpha: Any = int(conf.alpha) if conf.alpha == int(conf.alpha) else conf.alpha  # other readers expect integers
    return LoraConfig(r=conf.rank, lora_alpha=alpha, lora_dropout=0.0, bias="none", target_modules=targets, **more)


class Unadapted:
    """A policy's engine with its adapters scaled to zero: the model before training, without a second copy.

    The same layers run in the same order as with adapters, which ZeRO-3 traces once; adding zero changes no bit.
    """

    def __init__(self, engine: Any, policy: nn.Module):
        from peft.tuners.lora import LoraLayer

        self.engine, self.layers = engine, [module for module in policy.modules() if isinstance(module, LoraLayer)]

    def __call__(self, *args: Any) -> tuple[Tensor, Tensor | None]:
        try:
            for layer in self.layers:
                layer.set_scale(ADAPTER, 0.0)
            return self.engine(*args)
        finally:
            for layer in self.layers:
                layer.set_scale(ADAPTER, 1.0)


def merged(named: Iterable[tuple[str, Tensor]], conf: LoraConf) -> Iterator[tuple[str, Tensor]]:
    """The model's parameters, adapters among them -> plain names, with new tensors W + alpha / rank * B A.

    Added in float32 and rounded once. The given tensors are not changed, and each is read only until the next one is
    requested (ZeRO-3 gathers one at a time). An adapted layer's weight comes before its A, and A before B.
    """
    assert conf.rank
    whole, base, a = "", None, None
    for name, tensor in named:
        if name.endswith(".base_layer.weight"):
            whole, base = name.replace(".base_layer", ""), tensor.detach().clone()
        elif ".lora_A." in name:
            a = tensor.detach().to(torch.promote_types(tensor.dtype, torch.float32), copy=True)
        elif ".lora_B." in name:
            assert base is not None and a is not None and name.startswith(whole.removesuffix("weight"))
            change = tensor.detach().to(a.dtype) @ a
            yield whole, base.to(a.dtype).add_(change, alpha=conf.alpha / conf.rank).to(base.dtype)
            base = a = None
        else:
            yield name.replace(".base_layer.", "."), tensor
    assert base is None


def record(folder: str, conf: LoraConf) -> None:
    """Record a checkpoint's adapters next to it."""
    if conf.rank:
        (Path(folder) / RECORD).write_text(json.dumps(_settings(conf)))


def refuse_others(folder: str, conf: LoraConf) -> None:
    """BadInput if the adapters of the checkpoint in `folder` are not those of the configuration."""
    path = Path(folder) / RECORD
    saved = json.loads(path.read_text()) if path.is_file() else {}
    if saved != _settings(conf):
        then, now = (
            ", ".join(f"{key}={value}" for key, value in each.items()) or "none" for each in (saved, _settings(conf))
        )
        raise BadInput(f"checkpoint {folder}: it was saved with these adapters: {then}; the configuration says: {now}")


def _settings(conf: LoraConf) -> dict[str, Any]:
    return {f"model.lora.{key}": getattr(conf, key) for key in ("rank", "alpha", "targets")} if conf.rank else {}


def save_adapter(folder: Path, named: dict[str, Tensor], conf: LoraConf, base: str) -> None:
    """The adapter as peft and vLLM load it on top of the model `base`, whose weights training did not change."""
    from safetensors.torch import save_file

    folder.mkdir(exist_ok=True)
    tensors = {
        "base_model.model." + name.replace(f".{ADAPTER}.", "."): tensor.contiguous()
        for name, tensor in named.items()
        if ".lora_" in name
    }
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    targets = conf.targets
    if targets == "all-linear":
        adapted = {name.rpartition(".lora_")[0].rpartition(".")[2] for name in tensors}
        targets = sorted(adapted)
    more = {"task_type": "CAUSAL_LM", "base_model_name_or_path": base, "inference_mode": True}
    _peft_conf(conf, targets, **more).save_pretrained(folder)
