"""The `thinkless` command: one line for every mistake, clean shutdown on Ctrl-C.

In: command-line arguments. Out: exit code 0, 1 (an error that was told), 2 (usage), 130 (interrupted) or
141 (nobody reads the output of `verify` any more).
"""

from __future__ import annotations

import functools
import os
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

USAGE = """usage: thinkless <command> [key=value ...]

  quickstart   the whole idea on this machine: warm-up, DeGRPO, evaluation, report
  warmup       supervised fine-tuning on paired long and short answers
  train        reinforcement learning; experiment=<preset>, resume=<run> to go on
  evaluate     measure a model in free and forced modes; run.name=<run> or model.path=<folder>
  report       write report.html of a run; run.name=<run>, the newest by default
  verify       grade answers: JSON lines with a response and its gold in, verdicts out
  replay       run a recorded step again, sampling or learning alone; run=<run> step=<number> part=<which>

thinkless <command> --help lists groups and settings; --cfg job prints the configuration that would run.
"""
COMMANDS = ("quickstart", "warmup", "train", "evaluate", "report", "verify", "replay")


def main(argv: list[str] | None = None) -> None:
    arguments = sys.argv[1:] if argv is None else argv
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(USAGE, end="")
        sys.exit(0 if arguments else 2)
    name, rest = arguments[0], arguments[1:]
    if name not in COMMANDS:
        import difflib

        guess = difflib.get_close_matches(name, COMMANDS, 1)
        hint = f"did you mean {guess[0]!r}?" if guess else f"there are: {', '.join(COMMANDS)}"
        print(f"thinkless: unknown command {name!r}; {hint}", file=sys.stderr)
        sys.exit(2)
    sys.exit(guarded(lambda: run(name, rest)))


def module_main(name: str) -> None:
    """Entry point of `python -m orchestrator.<name>`."""
    sys.exit(guarded(lambda: run(name, sys.argv[1:])))


def run(name: str, arguments: list[str]) -> None:
    """Run one command with Hydra overrides (`verify`: with options of its own)."""
    if name == "verify":  # before anything heavy is imported: it begins at once
        from orchestrator import verify

        verify.main(arguments)
        return
    from conf.compose import run_command

    if os.getcwd() not in sys.path:  # so that reward.function=my_file:fn finds a file here
        sys.path.insert(0, os.getcwd())
    if name in ("train", "quickstart"):
        _train(name, arguments)
    elif name == "warmup":
        from orchestrator import warmup

        run_command("warmup", functools.partial(warmup.command, arguments=arguments), arguments)
    elif name == "evaluate":
        from orchestrator import evaluate

        evaluate.main(arguments)
    elif name == "replay":
        from orchestrator import replay

        replay.main(arguments)
    else:
        from orchestrator.report import __main__ as report

        report.main(arguments)


def _train(name: str, arguments: list[str]) -> None:
    from conf.compose import run_command
    from conf.schema import Config
    from orchestrator import train
    from orchestrator.results import result_lines, serving_lines

    def show(folder: Path) -> None:
        figures = result_lines(folder)
        lines = [*serving_lines(folder), *(["result:", *figures] if figures else []), f"run folder: {folder}"]
        print("\n".join(lines))

    resume = next((a.partition("=")[2] for a in arguments if a.startswith("resume=")), None)
    if resume and resume != "null":
        conf, folder = train.resumed(resume, [a for a in arguments if not a.startswith("resume=")])
        show(train.command(conf, resume=folder))
        return
    if name == "quickstart":
        arguments = ["experiment=quickstart", *arguments]

    def body(conf: Config) -> None:
        show(train.command(conf, prefix=name))

    run_command("train", body, arguments)


def guarded(body: Callable[[], None]) -> int:
    """Run `body`; every failure that a user can mend is one line on standard error."""
    from conf.errors import BadConfig
    from orchestrator.errors import RunError
    from rollout.errors import BadInput

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    try:
        body()
        return 0
    except KeyboardInterrupt as error:
        _tell("interrupted", error)
        return 130
    except (BadConfig, BadInput, RunError, FloatingPointError) as error:
        _tell(str(error), error)
        return 1
    except OSError as error:
        _tell(f"{type(error).__name__}: {error}", error)
        return 1


def _interrupt(number: int, frame: FrameType | None) -> None:
    """The first signal ends the run; further ones do not disturb its clean-up."""
    for again in (signal.SIGINT, signal.SIGTERM):
        signal.signal(again, signal.SIG_IGN)
    raise KeyboardInterrupt


def _tell(message: str, error: BaseException) -> None:
    notes = [note for note in getattr(error, "__notes__", []) if note.startswith("the last checkpoint")]
    if os.environ.get("THINKLESS_TRACEBACK"):
        import traceback

        traceback.print_exception(error)
    line = re.sub(r"\s*\n\s*", " ", message.strip())  # paths keep their spaces
    print(f"thinkless: {'; '.join([line, *notes])}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
