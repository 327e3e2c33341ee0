"""Log-probs of sampled tokens: the learner in bfloat16, packed, against transformers in float32 with the same weights;
and where vLLM is installed, sampler against learner.

In: nothing but `small`. Out: figures. Must not know: how either does it.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks._figures import figure, pass_on, say
from benchmarks._gpu.setup import TINY, random_folder, the_device
from benchmarks._random_models import scale
from learner.data.flops import Shape
from learner.model.attention import Layout

SHAPE = Shape(hidden=512, layers=8, heads=8, kv_heads=2, head_dim=64, ffn=1536, vocab=32_768)
PROMPTS, PROMPT, LONGEST = 128, 16, 240  # tokens
TEMPERATURE = 0.6


def mismatch(small: bool) -> None:
    device, shape = the_device(small), TINY if small else SHAPE
    prompts, longest = (4, 24) if small else (PROMPTS, LONGEST)
    with tempfile.TemporaryDirectory(prefix="thinkless-bench-") as scratch:
        path = random_folder(Path(scratch), shape, torch.bfloat16, device, tied=False)
        redraw(path)
        tokens, wanted = sampled(path, device, prompts, longest)
        means = {}
        for head in (True, False):
            gaps = (learnt(path, device, tokens, head) - wanted).abs()
            means[head] = float(gaps.mean())
            if head:
                figure("learner_mismatch_mean", means[head], "nats")
                figure("learner_mismatch_p999", float(gaps.quantile(0.999)), "nats")
                figure("learner_mismatch_max", float(gaps.max()), "nats")
        say(f"{wanted.numel():,} tokens; mean with a float32 head {means[True]:.3g}, without {means[False]:.3g}")
        figure("learner_mismatch_head", means[True] / means[False], "ratio")
        figure("head_error", head_error(path, device, tokens, True), "nats", 1e-4)
        figure("head_error_bfloat16", head_error(path, device, tokens, False), "nats")


def sampler(small: bool) -> None:
    """benchmarks/mismatch.py on the GPU, in a process of its own, as it needs vLLM."""
    if small:
        return say("left out: benchmarks/mismatch.py --small has it")
    if importlib.util.find_spec("vllm") is None:
        return say("left out: vLLM is not installed")
    script = Path(__file__).parents[1] / "mismatch.py"
    command = [sys.executable, str(script), "--device", "gpu", "--models", "wide", "--kinds", "bfloat16_head"]
    with subprocess.Popen([*command, "--tokens", "2000"], stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout or ():  # as it arrives: this part may be ended before that process ends
            pass_on(line)
    if process.returncode:
        raise SystemExit(f"benchmarks/mismatch.py ended with exit code {process.returncode}")


def redraw(path: str) -> None:
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16)
    scale(model)
    model.save_pretrained(path)


def sampled(path: str, device: torch.device, prompts: int, longest: int) -> tuple[Tensor, Tensor]:
    """Tokens [prompts, PROMPT + longest] that the float32 model sampled, and its log-probs [prompts, longest]."""
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    model.to(device).eval()
    torch.manual_seed(1)
    tokens = torch.randint(0, model.config.vocab_size, (prompts, PROMPT), device=device)
    cache, last = None, tokens
    with torch.no_grad():
        for _ in range(longest):
            out = model(last, past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            last = torch.multinomial((out.logits[:, -1] / TEMPERATURE).softmax(-1), 1)
            tokens = torch.cat([tokens, last], 1)
        logprobs = []
        for row in tokens:  # anew, without a cache
            table = (model(row[None], use_cache=False).logits[0, PROMPT - 1 : -1] / TEMPERATURE).log_softmax(-1)
            logprobs.append(table.gather(-1, row[PROMPT:, None])[:, 0])
    return tokens, torch.stack(logprobs)


def learnt(path: str, device: torch.device, tokens: Tensor, float32_head: bool) -> Tensor:
    """The learner's log-probs [prompts, longest] of the same tokens: packed rows of eight sequences, in bfloat16."""
    from learner.model.policy import load_policy

    policy = load_policy(path, "bfloat16", float32_head=float32_head).to(device)
    count, each, found = *tokens.shape, []
    with torch.no_grad():
        for first in range(0, count, 8):
            rows = tokens[first : first + 8]
            position = torch.arange(each, device=device).repeat(len(rows))
            layout = Layout([each] * len(rows), device)
            logprobs, _ = policy(rows.flatten(), position, position >= PROMPT, layout, TEMPERATURE, 1024)
            found.append(logprobs.view(len(rows), each)[:, PROMPT:])
    return torch.cat(found)


def head_error(path: str, device: torch.device, tokens: Tensor, float32_head: bool) -> float:
    """Mean |difference| of the learner's log-probs and those by float64 logits of the same bfloat16 hidden states and
    weights, nats: what the head alone adds. A bfloat16 head rounds logits to 8 bits."""
    from learner.model.policy import load_policy

    policy = load_policy(path, "bfloat16", float32_head=float32_head).to(device)
    given: list[Tensor] = []
    policy.head.register_forward_pre_hook(lambda _, arguments: given.append(arguments[0]))
    rows = tokens[:4]
    each = rows.shape[1]
    position = torch.arange(each, device=device).repeat(len(rows))
    with torch.no_grad():
        layout, response = Layout([each] * len(rows), device), position >= PROMPT
        logprobs, _ = policy(rows.flatten(), position, response, layout, TEMPERATURE, 1024)
        at = response.nonzero()[:, 0]
        logits = given[0][at - 1].double() @ policy.head.weight.double().T / TEMPERATURE
        exact = logits.log_softmax(-1).gather(-1, rows.flatten()[at, None])[:, 0]
    return float((logprobs[at] - exact).abs().mean())
