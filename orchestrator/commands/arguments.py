"""The arguments of every command: one parser, which also prints `thinkless --help` and `thinkless <command> --help`.

In: the words behind `thinkless <command>`. Out: `argparse.Namespace`; BadConfig for words that the command does not
take. Must not know: Hydra, the settings, what a command does.
"""

from __future__ import annotations

import argparse
import os
import shutil
from argparse import Namespace
from collections.abc import Sequence
from typing import Any, NoReturn

from conf.errors import BadConfig
from conf.shell import command_line
from orchestrator.commands.table import ANY_SETTING, COMMANDS, Command


class Parser(argparse.ArgumentParser):
    """Raises where argparse would print and exit: `orchestrator.commands.cli.guarded` reports every mistake alike."""

    def error(self, message: str) -> NoReturn:
        raise BadConfig(f"{message}; all options: {command_line(*self.prog.split()[1:], '--help')}")


def parsers() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """(the parser of `thinkless`, those of its commands)"""
    wide = max(map(len, COMMANDS)) + 3
    whole = Parser(
        prog="thinkless",
        usage="thinkless <command> [key=value ...]",
        epilog="\n".join(f"  {name:<{wide}}{command.about}" for name, command in COMMANDS.items())
        + "\n\nthinkless <command> --help: its options, examples and, where key=value are settings, all of them.",
        formatter_class=_layout,
        add_help=False,
        allow_abbrev=False,
    )
    commands = whole.add_subparsers(help=argparse.SUPPRESS)
    return whole, {name: _add_command(commands, name, command) for name, command in COMMANDS.items()}


def read(name: str, words: Sequence[str]) -> Namespace:
    """What `thinkless <name>` was given; options and key=value may stand in any order. Raises BadConfig.

    `given` holds the values of the command's own keys, `overrides` all other words in their order. Commands that take
    the whole configuration have `help` set by --help; the others print it and end by SystemExit.
    """
    options, keys = parsers()[1][name].parse_intermixed_args(words), COMMANDS[name].keys
    pairs = [word.partition("=") for word in getattr(options, "words", ())]
    for key, _, value in pairs:
        if value.startswith("~") and "\0" not in value and os.path.expanduser(value) == value:
            raise BadConfig(f"{key}={value}: this machine has no user {value.partition('/')[0][1:] or '~'}")
    options.given = {key: value for key, equals, value in pairs if equals and key in keys}
    options.overrides = ["".join(pair) for pair in pairs if not pair[1] or pair[0] not in keys]
    if options.overrides and keys and ANY_SETTING not in keys:
        taken = " and ".join(f"{key}=<{'run' if key == 'run.name' else 'folder'}>" for key in keys)
        raise BadConfig(f"thinkless {name} takes {taken}, got {' '.join(options.overrides)}")
    return options


def _layout(prog: str) -> argparse.HelpFormatter:
    """As wide as the terminal, within limits; descriptions and examples keep their lines."""
    width = min(120, max(40, shutil.get_terminal_size((100, 24)).columns))
    return argparse.RawDescriptionHelpFormatter(prog, max_help_position=32, width=width)


def _add_command(commands: Any, name: str, command: Command) -> argparse.ArgumentParser:
    wide = max(map(len, command.keys), default=0) + 3
    keys = [f"  {key:<{wide}}" + text.replace("\n", f"\n  {'':{wide}}") for key, text in command.keys.items()]
    examples = [f"  thinkless {name} {example}".rstrip() for example in command.examples]
    added: argparse.ArgumentParser = commands.add_parser(
        name,
        prog=f"thinkless {name}",
        help=command.about,
        usage=f"\n{'':7}".join(f"thinkless {name} {one}" for one in command.usage),
        description=command.description,
        epilog="\n".join([*(["arguments:", *keys, ""] if keys else []), "examples:", *examples]),
        formatter_class=_layout,
        allow_abbrev=False,
        add_help=not command.configured,
    )
    for names, arguments, meaning in command.options:
        added.add_argument(*names, help=meaning, **arguments)
    return added
