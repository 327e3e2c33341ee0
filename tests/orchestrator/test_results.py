"""The results that a run and `evaluate` print: figures, data, settings, and the commands to serve the model."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from conf.compose import to_yaml
from conf.schema import Config, DataConf, EvaluateConf, RewardConf
from orchestrator.commands.evaluate import heading, without_hold_out
from orchestrator.tracking.results import result_lines, serving_lines
from orchestrator.tracking.serving import ask_command, serve_command
from orchestrator.training.evaluation import protocol
from rollout.prompt import Prompt


def of_level(accuracy: float | None, problems: int, unjudged: int = 0) -> dict[str, Any]:
    figures = {"accuracy": accuracy, "reward": accuracy, "think_rate": 0.5, "tokens": 20.0}
    return figures | {"n": 2 * problems - unjudged, "problems": problems, "unjudged": unjudged}


def prompts(**levels: int) -> list[Prompt]:
    return [
        Prompt(
            f"{level}/{i}",
            f"{level} {i}?",
            np.empty(0, np.int32),
            str(i),
            "own/problems",
            None if level == "none" else level,
        )
        for level, count in levels.items()
        for i in range(count)
    ]


def measured(conf: Config, **levels: int) -> dict[str, Any]:
    """What heading() is given, of that many problems a level."""
    return protocol(conf, prompts(**levels)) | {"model": "/models/mine", "too_long": 3, "instruction": None}


OWN = Config(data=DataConf(path="problems.jsonl", revision="abc"), evaluate=EvaluateConf(temperature=0.6, samples=2))


def test_the_table_names_what_was_measured() -> None:
    data, sampling, prompt = heading(measured(OWN, none=5))[1:]
    assert prompt == "prompt: the question alone, as in training"
    assert heading(measured(OWN, none=5) | {"instruction": "Think."})[-1] == "prompt: the question and: Think."
    assert "own/problems (path problems.jsonl, revision abc): 5 problems, held out of it" in data
    assert "3 more were left out" in data and "evaluate.questions" not in data
    assert sampling == "sampling: temperature 0.6, top_p 1, 2 to a problem, at most 128 tokens, seed 1234"
    other = measured(Config(data=DataConf(path="openai/gsm8k")), none=5)
    assert "subset main, split train, revision 740312add" in heading(other)[1]  # the pinned one


def test_the_table_names_every_file() -> None:
    conf = replace(OWN, data=DataConf(path=["a.jsonl", "b.jsonl"]))
    measured_prompts = [replace(prompt, source=f"own/{prompt.uid[0]}") for prompt in prompts(a=1, b=1)]
    found = protocol(conf, measured_prompts) | {"model": "m", "too_long": 0, "instruction": None}
    assert "data: own/a and 1 more (path a.jsonl, b.jsonl): 2 problems" in heading(found)[1]


def test_the_table_says_if_only_the_first_problems_were_measured() -> None:
    conf = replace(OWN, evaluate=replace(OWN.evaluate, questions=8))
    assert "5 problems, held out of it (no more than evaluate.questions=8)" in heading(measured(conf, none=5))[1]


def test_data_without_training_is_measured_as_a_whole() -> None:
    """No part of it is held out of the other; a validation set that was named stays."""
    alone = without_hold_out(OWN)
    assert (alone.validation.path, alone.validation.revision) == ("problems.jsonl", "abc")
    assert "held out" not in heading(measured(alone, none=5))[1]
    named = replace(OWN, validation=replace(OWN.validation, path="other.jsonl"))
    assert without_hold_out(named) == named and without_hold_out(Config()) == Config()


def test_the_hash_identifies_the_problems() -> None:
    one, same, other = (protocol(OWN, prompts(none=n))["data"]["sha256"] for n in (5, 5, 6))
    assert one == same != other


# ---- the end of a run ----


def finished(folder: Path, conf: Config, evaluation: dict[str, Any]) -> Path:
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "config.json").write_text("{}")
    (folder / "config.yaml").write_text(to_yaml(conf))
    (folder / "samples.jsonl").write_text(json.dumps({"step": 0, "problem": "it's 1+1?"}) + "\n")
    (folder / "evaluation.json").write_text(json.dumps(evaluation))
    return folder


def evaluated(conf: Config, accuracy: float) -> dict[str, Any]:
    ways = {way: {"all": of_level(accuracy, 16)} for way in ("free", "think", "short")}
    return protocol(conf, prompts(none=16)) | {"models": {"warmup": ways, "final": ways}}


def test_the_users_data_has_figures_and_no_goals(tmp_path: Path) -> None:
    text = "\n".join(result_lines(finished(tmp_path / "run", OWN, evaluated(OWN, 0.0625))))
    assert "goal" not in text and "met" not in text and "regret" in text
    assert "after it, free choice: 6.2 % right (95 %: 1.1 to 28.3 %), 20.0 tokens an answer" in text


def test_the_quickstart_has_goals(tmp_path: Path) -> None:
    lines = result_lines(finished(tmp_path / "run", Config(), evaluated(Config(), 0.0)))
    assert len(lines) == 8 and lines[0].split(":")[0].startswith("  not measured  regret")
    assert "  NOT met  accuracy over the mix: 0.0 % (goal: ≥ 93 %)" in lines


def test_rewards_are_those_of_the_runs_reward_function() -> None:
    own = Config(reward=RewardConf(function="mine:score"))
    assert protocol(own, prompts(none=1))["rewards"] == {"function": "mine:score"}
    assert protocol(Config(), [])["rewards"]["correct_think"] == 0.5


def test_the_commands_to_serve_a_model_are_valid_shell(tmp_path: Path) -> None:
    run = finished(tmp_path / "my runs" / "one", Config(), evaluated(Config(), 0.5))
    serve, ask = (shlex.split(line) for line in serving_lines(run)[1::2])
    assert serve[1:3] == ["serve", str(run / "model")] and Path(serve[0]).name == "vllm"
    flags = dict(zip(serve[3:-1:2], serve[4:-1:2], strict=True))
    assert flags["--served-model-name"] == "one" and flags["--dtype"] == "float32"
    assert flags["--max-model-len"] == "2048" and flags["--kv-cache-memory-bytes"] == "1G"
    assert serve[-1] == "--enforce-eager"
    request = json.loads(ask[ask.index("-d") + 1])
    assert request["messages"] == [{"role": "user", "content": "it's 1+1?"}] and request["model"] == "one"
    assert request["chat_template_kwargs"] == {"mode": "auto"} and request["max_tokens"] == 128
    assert flags["--reasoning-parser"] == "thinkless" and Path(flags["--reasoning-parser-plugin"]).is_file()
    on_gpu = serve_command(run / "model", {"rollout": {"device": "gpu", "max_model_len": 9}, "model": {}})
    assert "--enforce-eager" not in on_gpu and "--kv-cache" not in on_gpu and "--max-model-len 9" in on_gpu
    assert "curl" in ask_command(run / "model", {}, "1?") and not serving_lines(tmp_path)
