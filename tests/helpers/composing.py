"""Configurations as the command line composes them, in this process."""

from __future__ import annotations

from conf.compose import run_command
from conf.flags import Flags
from conf.schema import Config
from orchestrator.commands.arguments import read


def composed(*arguments: str, command: str = "train") -> list[Config]:
    """What the command would have run with; several for a multirun."""
    found: list[Config] = []
    options = read(command, arguments)
    run_command(command, found.append, options.overrides, Flags.of(options))
    return found
