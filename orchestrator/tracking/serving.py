"""How to serve a run's model: the commands that a person pastes to start vLLM and to ask it something.

In: a run folder and its configuration as plain objects (config.yaml). Out: text. Must not know: vLLM.

vLLM's own defaults do not fit a small machine: its CPU backend claims 92 % of a NUMA node's memory, however little is
free, casts a float32 model to bfloat16, and compiles for half a minute. A chat completion uses the model's chat
template, which ends where the mode is chosen unless the request names one; `rollout.reasoning_parser` divides the
answer into reasoning and content, `rollout.vllm_steering` applies a dial that is stored with the model.
"""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from conf.shell import program
from rollout.steering import stored_dial

HOST, PORT = "127.0.0.1", 8000
PLUGIN = "rollout.vllm_steering:FirstTokenBias"  # likewise; vLLM imports it by name
PARSER = Path(__file__).parents[2] / "rollout" / "reasoning_parser.py"  # not imported: it needs vLLM


def serve_command(model: Path, config: Mapping[str, Any]) -> str:
    """`vllm serve` of `model` with the context length, the number format and, on a CPU, the cache of its run."""
    rollout, dtype = config.get("rollout") or {}, (config.get("model") or {}).get("dtype")
    words = [*program("vllm"), "serve", str(model), "--served-model-name", served_name(model), "--host", HOST]
    words += ["--reasoning-parser-plugin", str(PARSER), "--reasoning-parser", "thinkless"]
    if stored_dial(json.loads((model / "config.json").read_text())):
        words += ["--logits-processors", PLUGIN]
    if length := rollout.get("max_model_len"):
        words += ["--max-model-len", str(length)]
    if dtype:
        words += ["--dtype", str(dtype)]
    if rollout.get("device", "cpu") == "cpu":
        words += ["--kv-cache-memory-bytes", f"{math.ceil(rollout.get('kv_cache_gib') or 1)}G", "--enforce-eager"]
    return shlex.join(words)


def ask_command(model: Path, config: Mapping[str, Any], problem: str) -> str:
    """`curl` for one sampled answer; "mode" may be auto, think or short."""
    rollout = config.get("rollout") or {}
    request = {
        "model": served_name(model),
        "messages": [{"role": "user", "content": problem}],
        "max_tokens": rollout.get("max_response_tokens") or 128,
        "temperature": rollout.get("temperature", 1.0),
        "top_p": rollout.get("top_p", 1.0),
        "chat_template_kwargs": {"mode": "auto"},
    }
    address = f"http://{HOST}:{PORT}/v1/chat/completions"
    body = json.dumps(request, ensure_ascii=False)
    return shlex.join(["curl", "-s", address, "-H", "Content-Type: application/json", "-d", body])


def commands(folder: Path, config: Mapping[str, Any], problem: str) -> tuple[str, str] | None:
    """(`serve_command`, `ask_command`) of the run's final model; None if it has none. problem "": one of ours."""
    model = folder / "model"
    if not (model / "config.json").is_file():
        return None
    return serve_command(model, config), ask_command(model, config, problem or "What is 7 + 2?")


def served_name(model: Path) -> str:
    """The run's name, or that of a folder of its own: what requests call the model by."""
    folder = model.absolute()
    return folder.parent.name if folder.name == "model" else folder.name
