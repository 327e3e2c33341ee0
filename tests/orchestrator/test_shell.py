"""Commands in messages run in a real shell from another folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from conf.overrides import pasted, read_overrides
from conf.shell import command_line, program
from orchestrator.training.run_dir import arguments_of

ODD = [
    "/a b/c",
    "it's",
    "a\\'b",
    "ends in \\",
    "x,y",
    "[1]",
    "a=b",
    "null",
    "{a}",
    "(x)",
    "a\\b",
    "~/x",
    "",
    "1e5",
    '"q"',
    "ß#",
]


def shell(text: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", text], cwd=folder, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )


def elsewhere(python: str, **environment: str) -> str:
    """What a process started so prints as the command for its help."""
    code = "from conf.shell import command_line; print(command_line('--help'))"
    done = subprocess.run(
        [python, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.mark.parametrize("value", ODD)
def test_quoted_arguments_survive_the_shell_and_hydra(value: str) -> None:
    done = shell(f"printf '%s\\0' {pasted('model.path', value)}", Path("/"))
    (argument,) = done.stdout.split("\0")[:-1]
    override = OverridesParser.create().parse_override(argument)
    assert override.key_or_group == "model.path" and override.value() == value
    assert read_overrides([argument])[0].value() == value  # a saved run's settings are not read by Hydra alone


def test_a_printed_command_runs_without_our_path(tmp_path: Path) -> None:
    """Nothing of ours on PATH: the absolute path, although the environment puts itself on PATH in this process."""
    text = elsewhere(sys.executable, PATH="/usr/bin:/bin")
    assert Path(text.split()[0]).is_absolute()
    done = shell(text, tmp_path, PATH="/usr/bin:/bin")
    assert done.returncode == 0 and "usage: thinkless" in done.stdout, done.stderr


def test_the_bare_name_is_printed_only_where_the_shell_finds_ours(tmp_path: Path) -> None:
    mine = str(Path(sys.executable).parent)
    assert elsewhere(sys.executable, PATH=f"{mine}:/usr/bin:/bin") == "thinkless --help"
    other = tmp_path / "thinkless"
    other.write_text("#!/bin/sh\nexit 3\n")
    other.chmod(0o755)
    text = elsewhere(sys.executable, PATH=f"{tmp_path}:{mine}:/usr/bin:/bin")
    assert shell(text, Path("/"), PATH=f"{tmp_path}:{mine}:/usr/bin:/bin").returncode == 0


def test_commands_of_a_source_tree_that_was_never_installed_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An interpreter without our console script beside it; the packages it needs are found by PYTHONPATH."""
    python = tmp_path / "an environment" / "python"
    python.parent.mkdir()
    python.symlink_to(sys.executable)
    monkeypatch.setattr(sys, "executable", str(python))
    assert program("thinkless")[:2] == ["env", f"PYTHONPATH={Path(__file__).parents[2]}"]
    done = shell(command_line("--help"), tmp_path)
    assert done.returncode == 0 and "usage: thinkless" in done.stdout, done.stderr


@pytest.mark.parametrize(
    "argv",
    [
        ["python", "/env/bin/thinkless", "train", "run.steps=3"],
        ["python", "-m", "orchestrator", "train", "run.steps=3"],
        ["python", "-B", "-m", "orchestrator.train", "run.steps=3"],
    ],
)
def test_the_recorded_command_is_a_thinkless_command_however_it_was_started(argv: list[str]) -> None:
    assert arguments_of(argv) == ["train", "run.steps=3"]
