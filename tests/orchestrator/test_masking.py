"""Secrets of the command line and of the environment are in nothing that is printed or written.

The same of a whole run's folder and output: `members` (conftest.py).
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from conf import masking
from conf.compose import composed, from_file, refuse_masked, to_yaml
from conf.errors import BadConfig
from conf.flags import NO_FLAGS
from conf.masking import mask, masked
from conf.shell import command_line
from orchestrator.jobs import submission
from rollout.base.errors import BadInput

ROOT = Path(__file__).parents[2]
ENDPOINT = "distill.think.endpoint=https://me:pa55word@teacher.invalid/v1"


@pytest.fixture(autouse=True)
def nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(masking, "_known", set())


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("train wandb.api_key=abc123 run.steps=1", "train wandb.api_key=*** run.steps=1"),
        ("--api-key=abc +hydra.job.env_set.HF_TOKEN=abc", "--api-key=*** +hydra.job.env_set.HF_TOKEN=***"),
        ("db.password='two words' x", "db.password=*** x"),
        ("https://me:pa55@host/a?token=abc&part=1", "https://me:***@host/a?token=***&part=1"),
        ("redis://:pa@55@host:6379", "redis://:***@host:6379"),
        ("it said, {auth_token=abc}", "it said, {auth_token=***}"),
    ],
)
def test_what_looks_secret_is_masked(text: str, wanted: str) -> None:
    assert mask(text) == wanted == mask(wanted)


@pytest.mark.parametrize(
    "text",
    [
        "model.think_token=<think> model.think_end_token=</think> model.short_token=<short>",
        "rollout.max_response_tokens=5 distill.think.key_env=MY_API_KEY run.name=monkey=1",
        "write key=value; http://127.0.0.1:8265/#/jobs/a and s3://bucket/a@b",
    ],
)
def test_what_does_not_is_left_alone(text: str) -> None:
    assert mask(text) == text


@pytest.mark.timeout(120)
@pytest.mark.parametrize("part", ["z", "-", "+", "_", "a-", "a.", "a://", "a:", "://:", "a@", "token=", "'", "key-"])
def test_however_long_a_text_is_a_look_at_it_suffices(part: str) -> None:
    """(Where the time grew with the square of the length, 100,000 characters took 20 s, a million would take half an
    hour.)"""
    text = part * (1_000_000 // len(part))
    masking.learn([f"run.name={text}", text])
    assert isinstance(mask(text), str)


def test_secrets_of_the_environment_are_known_by_their_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_SERVICE_API_KEY", "sk-0123456789")
    monkeypatch.setenv("SHORT_TOKEN", "none")  # a word that any text may have
    monkeypatch.setenv("SOME_PATH", "/a/long/folder")
    assert mask("refused sk-0123456789 in /a/long/folder: none") == "refused *** in /a/long/folder: none"


def test_the_working_directory_is_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PWD", "/srv/runs")
    assert mask("written to /srv/runs/mine") == "written to /srv/runs/mine"


def test_secrets_of_the_command_line_are_known_wherever_they_stand() -> None:
    masking.learn(["train", "some.hf_token='abc def'", "data.path=https://me:p%40ss@host/x", "run.steps=12345678"])
    assert mask("no abc def, p%40ss or 12345678") == "no ***, *** or 12345678"


def test_values_within_values() -> None:
    found: dict[str, Any] = {"a": ["https://me:x1@h", 1, None], "api_key": "abc", "think_token": "<think>", "key": 2}
    wanted = {"a": ["https://me:***@h", 1, None], "api_key": "***", "think_token": "<think>", "key": 2}
    assert masked(found) == wanted


def test_commands_in_messages_are_masked() -> None:
    assert command_line("train", ENDPOINT, "x.token=abc").endswith(
        "train 'distill.think.endpoint=https://me:***@teacher.invalid/v1' 'x.token=***'"
    )


def test_a_saved_configuration_asks_for_its_secrets_again(tmp_path: Path) -> None:
    conf = composed(["experiment=quickstart", ENDPOINT], NO_FLAGS)
    assert conf.distill.think.endpoint == "https://me:pa55word@teacher.invalid/v1"
    saved = tmp_path / "config.yaml"
    saved.write_text(to_yaml(conf))
    assert "pa55word" not in saved.read_text()
    with pytest.raises(BadConfig, match=r"distill\.think\.endpoint was saved as https://me:\*\*\*@.*again"):
        refuse_masked(from_file(saved, []))
    refuse_masked(again := from_file(saved, [ENDPOINT]))
    assert again == conf


def test_a_job_is_given_no_secret_on_its_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """But may take one from the environment of its host."""
    with pytest.raises(BadInput, match=r"\*\*\*@teacher\.invalid.*\$\{oc\.env:NAME\}") as refused:
        submission.read(["train", "experiment=quickstart", ENDPOINT], NO_FLAGS)
    assert "pa55word" not in str(refused.value)
    monkeypatch.setenv("TEACHER", "pa55word")
    fine = ENDPOINT.replace("pa55word", "${oc.env:TEACHER}").replace("https", '"https') + '"'
    assert fine in submission.read(["train", "experiment=quickstart", fine], NO_FLAGS).words


@pytest.mark.parametrize(
    "arguments", [["data.path=nowhere?token=pa55word"], ["--cfg", "job", ENDPOINT]], ids=["error", "shown"]
)
def test_what_a_command_prints_is_masked(arguments: list[str], tmp_path: Path) -> None:
    """An error that names a value, and the configuration."""
    done = subprocess.run(
        [sys.executable, "-m", "orchestrator", "train", "experiment=quickstart", *arguments],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    said = done.stdout + done.stderr
    assert "pa55word" not in said and "***" in said, said
