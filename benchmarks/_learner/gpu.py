"""Model FLOPs utilization of the learner on a GPU.

In: nothing but `small`. Out: figures. Must not know: other sides.
"""

from __future__ import annotations

import tempfile
import time
from typing import Any

import numpy as np

from benchmarks._figures import figure, say
from benchmarks._learner.setup import GRPO, LONGEST, QWEN, as_batch, make_group, started_worker
from conf.schema import Device, Dtype, LearnerConf
from learner.data.flops import Shape, device_peak
from learner.metrics.memory import PeakMemory


def gpu(small: bool) -> None:
    """The small form: a tiny shape on the CPU, as if it had a peak."""
    if small:
        import torch

        tiny = Shape(hidden=32, layers=1, heads=2, kv_heads=2, head_dim=16, ffn=32, vocab=264)
        return utilization(tiny, torch.device("cpu"), 96, Dtype.float32, peak=1e12)
    try:
        import deepspeed  # noqa: F401
        import torch
        import transformers  # noqa: F401
    except ImportError as error:
        return say(f"mfu and hfu are left out: {error}")
    if not torch.cuda.is_available():
        return say("mfu and hfu are left out: no GPU")
    device = torch.device("cuda", 0)
    utilization(QWEN, device, LONGEST, Dtype.bfloat16, device_peak(device))


def utilization(shape: Shape, device: Any, tokens: int, dtype: Dtype, peak: float | None) -> None:
    """Two rows of `tokens` an update: one answer each, then eight. Median of three updates after two."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from learner.metrics.efficiency import efficiency

    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    say(f"{name}: {f'{peak / 1e12:.0f} TFLOP/s' if peak else 'unknown peak, no utilization'}")
    with tempfile.TemporaryDirectory(prefix="thinkless-bench-") as scratch:
        config = Qwen2Config(
            vocab_size=shape.vocab, hidden_size=shape.hidden, num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads, num_key_value_heads=shape.kv_heads, intermediate_size=shape.ffn,
            max_position_embeddings=32768, tie_word_embeddings=True, attention_dropout=0.0,
        )  # fmt: skip
        with device:
            Qwen2ForCausalLM(config).to(getattr(torch, dtype.value)).save_pretrained(scratch)
        if device.type == "cuda":
            torch.cuda.empty_cache()
        on = Device.gpu if device.type == "cuda" else Device.cpu
        conf = LearnerConf(device=on, lr=1e-6, zero_stage=1, gradient_checkpointing=True, max_tokens=tokens)
        worker = started_worker(scratch, conf, dtype)
        for kind, answers in (("", 1), ("_packed", 8)):
            rng, prompt = np.random.default_rng(answers), tokens // answers // 12
            ids = rng.integers(0, shape.vocab, (answers, 2, tokens // answers)).astype(np.int32)
            groups = [make_group(pair[0, :prompt], list(pair[:, prompt:]), rng, f"g{i}") for i, pair in enumerate(ids)]
            batch, memory, measured = as_batch(groups, conf, shape.cost), PeakMemory(device), []
            for _ in range(5):
                wait()
                begin = time.perf_counter()
                with memory.of("update"):
                    report = worker.update([batch.ranks[0]], GRPO)
                    wait()
                seconds = time.perf_counter() - begin
                measured.append(efficiency([batch], shape, 1, tokens, seconds, [0], True, peak))
                say(f"  {seconds:.2f} s, {measured[-1].tflops:.1f} TFLOP/s, gradient norm {report.grad_norm:.3g}")
            middle = sorted(measured[2:], key=lambda one: one.tokens_per_s)[1]
            if middle.mfu is not None and middle.hfu is not None:
                figure(f"mfu{kind}", middle.mfu, "share of the peak", None if kind else 0.35)
                figure(f"hfu{kind}", middle.hfu, "share of the peak", None if kind else 0.45)
            figure(f"gpu_tokens_per_s{kind}", middle.tokens_per_s, "tokens/s")
            figure(f"gpu_update_gib{kind}", memory.take()["update"], "GiB")
        worker.close()
