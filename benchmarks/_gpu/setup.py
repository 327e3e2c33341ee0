"""What the parts of benchmarks/gpu.py share: the device, random models without a hub, a started learner rank.

In: shapes. Out: devices, model folders, configurations. Must not know: what is measured.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks._figures import say
from benchmarks._learner.setup import QWEN
from conf.schema import Device, LearnerConf
from learner.data.flops import Shape

TINY = Shape(hidden=32, layers=1, heads=2, kv_heads=1, head_dim=16, ffn=48, vocab=264)


def the_device(small: bool) -> torch.device:
    """The first GPU, or the CPU in the small form. SystemExit if there is no GPU."""
    if small:
        torch.set_num_threads(1)
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise SystemExit(
            f"no GPU: torch {torch.__version__} "
            + ("sees none" if torch.version.cuda else "is a CPU build")
            + "; --small runs on a CPU"
        )
    device = torch.device("cuda", 0)
    torch.cuda.set_device(device)
    memory = torch.cuda.get_device_properties(device).total_memory / 1e9
    say(f"{torch.cuda.get_device_name(device)}, {memory:.0f} GB; torch {torch.__version__}")
    return device


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(device: torch.device, call: Callable[[], Any]) -> float:
    """Of one call, with all that it started on the device."""
    wait(device)
    begin = time.perf_counter()
    call()
    wait(device)
    return time.perf_counter() - begin


def shape_for(small: bool) -> Shape:
    return TINY if small else QWEN


def as_config(shape: Shape, tied: bool) -> dict[str, Any]:
    """As in a model folder's config.json."""
    return {
        "model_type": "qwen2", "vocab_size": shape.vocab, "hidden_size": shape.hidden,
        "num_hidden_layers": shape.layers, "num_attention_heads": shape.heads, "num_key_value_heads": shape.kv_heads,
        "intermediate_size": shape.ffn, "max_position_embeddings": 32768, "tie_word_embeddings": tied,
        "attention_dropout": 0.0,
    }  # fmt: skip


def random_folder(folder: Path, shape: Shape, dtype: torch.dtype, device: torch.device, tied: bool = True) -> str:
    """A model with random weights, without a tokenizer; made on the device, where that takes seconds."""
    from transformers import AutoConfig, AutoModelForCausalLM

    given = as_config(shape, tied)
    config = AutoConfig.for_model(given.pop("model_type"), **given)
    torch.manual_seed(0)
    with device:
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    model.save_pretrained(folder)
    del model
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return str(folder)


def learner_conf(device: torch.device, **settings: Any) -> LearnerConf:
    given = {"lr": 1e-6, "zero_stage": 2, "gradient_checkpointing": True, **settings}
    return LearnerConf(device=Device.gpu if device.type == "cuda" else Device.cpu, **given)
