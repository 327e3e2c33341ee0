"""thinkless chat: ask a trained model on the terminal.

In: a run or a model's folder (a server is started for it), or the URL of one that runs. Out: answers. Must not know:
how an answer is asked for.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rollout.base.errors import BadInput
from rollout.steering import refuse_dial


def main(options: Namespace) -> None:
    from orchestrator.chat.server import served
    from orchestrator.chat.session import HELP, Session

    refuse_dial(options.dial, "--dial")
    if options.budget is not None and options.budget < 0:
        raise BadInput(f"--budget={options.budget} must be a number of tokens, 0 or more; without it there is no limit")
    with ExitStack() as stack:
        if options.url is None:
            model, config = _model(options.model)
            url = stack.enter_context(served(model, config))
        elif options.model is not None:
            raise BadInput("give a run or --url, not both")
        else:
            url = options.url
        session = Session.at(
            url, sys.stdout, mode=options.mode, dial=options.dial, budget=options.budget,
            temperature=options.temperature, max_tokens=options.max_tokens,
        )  # fmt: skip
        if sys.stdin.isatty():
            print(f"{session.model}; a line is a question, by itself\n{HELP}")
        session.run(_lines())


def _lines() -> Iterator[str]:
    """Of a terminal with a prompt; Ctrl-D ends them."""
    if not sys.stdin.isatty():
        yield from sys.stdin
        return
    import readline  # noqa: F401  # editing and history of input()

    while True:
        try:
            yield input("> ")
        except EOFError:
            return


def _model(name: str | None) -> tuple[Path, Mapping[str, Any]]:
    """The folder of a run's final model with the run's configuration, or of a model without one."""
    from orchestrator.tracking.results import read_config
    from orchestrator.training import run_dir

    if name is not None and (folder := Path(name).expanduser()).is_dir() and (folder / "config.json").is_file():
        return folder.absolute(), {"model": {"dtype": "auto"}}
    run = run_dir.find(name, []) if name is not None else run_dir.newest([], "<run>")
    return run_dir.final_model(run, "give a model's folder"), read_config(run)
