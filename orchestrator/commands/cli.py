"""The `thinkless` command: one line for every mistake, clean shutdown on Ctrl-C.

In: command-line arguments. Out: exit code 0, 1 (an error that was told), 2 (usage), 130 (Ctrl-C), 143 (SIGTERM) or
141 (nobody reads the output of `verify` any more).
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from orchestrator.base import interrupt
from orchestrator.base.waiting import enable, waiting

USAGE = """usage: thinkless <command> [key=value ...]

  quickstart   the whole idea on this machine: warm-up, DeGRPO, evaluation, report
  warmup       supervised fine-tuning on paired long and short answers
  train        reinforcement learning; experiment=<preset>, resume=<run> to go on
  evaluate     measure a model in free and forced modes; run.name=<run> or model.path=<folder>
  report       write report.html of a run; run.name=<run>, the newest by default
  verify       grade answers: JSON lines with a response and its gold in, verdicts out
  replay       run a recorded step again, sampling or learning alone; run=<run> step=<number> part=<which>
  doctor       whether this machine can run, and what to do about it

thinkless <command> --help lists groups and settings; --cfg job prints the configuration that would run.
"""
CONFIGURED = {  # commands that take the whole configuration: what their --help says first
    "quickstart": """usage: thinkless quickstart [key=value ...]

The whole idea on this machine: a tiny model is warmed up on generated arithmetic, learns when to think, and is
evaluated. The same as thinkless train experiment=quickstart.
""",
    "warmup": """usage: thinkless warmup model.path=<folder or hub id> warmup.path=<pairs> [key=value ...]

Supervised fine-tuning on paired long and short answers, so that a model answers in both modes. train does it by itself
where a warm-up is configured, and takes a finished one from warmup.cache.
""",
    "train": """usage: thinkless train experiment=<preset> [key=value ...]
       thinkless train model.path=<folder or hub id> data.path=<problems> warmup.path=<pairs> [key=value ...]
       thinkless train resume=<run> [key=value ...]

Reinforcement learning: the model learns when to think. A run goes on from its last checkpoint with resume=<run>.
""",
    "evaluate": """usage: thinkless evaluate run.name=<run> [key=value ...]
       thinkless evaluate model.path=<folder or hub id> data.path=<problems> [key=value ...]

Measures a model on held-out problems, free and with each mode forced. run.name=<run>: with the run's own settings.
""",
}
LIBRARIES = "loading the libraries"
COMMANDS = ("quickstart", "warmup", "train", "evaluate", "report", "verify", "replay", "doctor")


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


def run(name: str, arguments: list[str]) -> None:
    """Run one command. Its settings are read and checked before its libraries are imported, which takes seconds."""
    if os.getcwd() not in sys.path:  # so that reward.function=my_file:fn finds a file here
        sys.path.insert(0, os.getcwd())
    if any(argument.startswith("-") for argument in arguments):  # --help and --cfg: what was asked for alone
        enable(False)  # until a command runs after all
    elif name in (*CONFIGURED, "replay"):
        print(f"{name}: reading the settings", file=sys.stderr, flush=True)
    if name == "verify":
        from orchestrator.commands import verify

        verify.main(arguments)
    elif name == "doctor":
        from orchestrator.commands import doctor

        if not doctor.main(arguments):
            sys.exit(1)
    elif name == "replay":
        with waiting(LIBRARIES):
            from orchestrator.replay import replay

        replay.main(arguments)
    elif name == "report":
        from orchestrator.commands import report

        report.main(arguments)
    elif any(argument in ("-h", "--help") for argument in arguments):
        print(_help(name, arguments), end="")
    elif name == "warmup":
        _warmup(arguments)
    elif name == "evaluate":
        _evaluate(arguments)
    else:
        _train(name, arguments)


def _help(name: str, arguments: list[str]) -> str:
    """Words choose settings by their names; overrides are taken into the values that are shown."""
    from conf.help import configuration_help

    words = [argument for argument in arguments if "=" not in argument and not argument.startswith("-")]
    overrides = ["experiment=quickstart"] if name == "quickstart" else []
    overrides += [argument for argument in arguments if "=" in argument and not argument.startswith("-")]
    values = None
    if overrides:
        from conf.compose import composed

        values = composed(overrides)
    settings = configuration_help(words, values)
    return settings if words else f"{CONFIGURED[name]}\n{settings}"


def _train(name: str, arguments: list[str]) -> None:
    from conf.check import check
    from conf.compose import from_file, run_command
    from conf.schema import Config
    from orchestrator.training import run_dir as run_folders

    def body(conf: Config, resume: Path | None = None) -> None:
        with waiting(LIBRARIES):
            from orchestrator.commands import train
        from orchestrator.tracking.results import result_lines, serving_lines

        folder = train.command(conf, name, resume)
        figures = result_lines(folder)
        lines = [*serving_lines(folder), *(["result:", *figures] if figures else []), f"run folder: {folder}"]
        print("\n".join(lines))

    resume, overrides = _taken("resume", arguments)
    if resume not in (None, "null"):
        folder = run_folders.find(resume, overrides)
        conf = replace(from_file(folder / "config.yaml", overrides), resume=str(folder))
        check(conf, "train")
        body(conf, folder)
    else:
        run_command("train", body, ["experiment=quickstart", *arguments] if name == "quickstart" else arguments)


def _warmup(arguments: list[str]) -> None:
    from conf.compose import run_command
    from conf.schema import Config

    def body(conf: Config) -> None:
        with waiting(LIBRARIES):
            from orchestrator.commands import warmup

        warmup.command(conf, arguments)

    run_command("warmup", body, arguments)


def _evaluate(arguments: list[str]) -> None:
    """With run.name=<run>: that run's configuration and final model, further overrides on top."""
    from conf.check import check
    from conf.compose import from_file, run_command
    from conf.schema import Config
    from conf.shell import command_line
    from orchestrator.training import run_dir as run_folders
    from rollout.base.errors import BadInput

    def body(conf: Config, target: Path | None = None) -> None:
        with waiting(LIBRARIES):
            from orchestrator.commands import evaluate

        foreign = target is None or any(one.startswith("data.path=") for one in overrides)
        evaluate.command(evaluate.whole(conf) if foreign else conf, target)

    name, overrides = _taken("run.name", arguments)
    if name is None:
        run_command("evaluate", body, arguments)
        return
    folder = run_folders.find(name, overrides)
    conf = from_file(folder / "config.yaml", overrides)
    check(conf, "evaluate")
    if not (folder / "model" / "config.json").is_file():
        raise BadInput(
            f"{folder} holds no final model: give model.path=<folder>, or finish the run: "
            + command_line("train", f"resume={folder}")
        )
    body(replace(conf, model=replace(conf.model, path=str(folder / "model"))), folder)


def _taken(key: str, arguments: list[str]) -> tuple[str | None, list[str]]:
    """The last value that `arguments` give to `key`, quotes around it taken off, and the arguments that remain."""
    given = [argument for argument in arguments if argument.startswith(f"{key}=")]
    rest = [argument for argument in arguments if argument not in given]
    if not given:
        return None, rest
    text = given[-1].partition("=")[2]
    if text.startswith(("'", '"')):
        from conf.overrides import read_overrides

        text = str(read_overrides(given[-1:])[0].value())
    return text, rest


def guarded(body: Callable[[], None]) -> int:
    """Run `body`; every failure that a user can mend is one line on standard error. Any other is a fault of this
    program: its traceback, and a line that says so."""
    from conf.errors import BadConfig
    from orchestrator.base.errors import RunError
    from rollout.base.errors import BadInput

    interrupt.install()
    try:
        body()
        return 0
    except KeyboardInterrupt as error:
        _tell("interrupted", error)
        return interrupt.exit_code()
    except (BadConfig, BadInput, RunError, FloatingPointError) as error:
        _tell(str(error), error)
        return 1
    except OSError as error:
        _tell(f"{type(error).__name__}: {error}", error)
        return 1
    except Exception as error:
        _tell_fault(error)
        return 1


def _tell(message: str, error: BaseException) -> None:
    notes = [note for note in getattr(error, "__notes__", []) if note.startswith("the last checkpoint")]
    if os.environ.get("THINKLESS_TRACEBACK"):
        import traceback

        traceback.print_exception(error)
    line = re.sub(r"\s*\n\s*", " ", message.strip())  # paths keep their spaces
    print(f"thinkless: {'; '.join([line, *notes])}", file=sys.stderr, flush=True)


def _tell_fault(error: Exception) -> None:
    import traceback

    root = Path(__file__).parents[2]
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if Path(frame.filename).is_relative_to(root) and ".venv" not in frame.filename]
    place = f"{Path(ours[-1].filename).relative_to(root)}:{ours[-1].lineno}" if ours else "outside of it"
    said = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    traceback.print_exception(error)
    print(
        f"thinkless: this is a fault of Thinkless itself, at {place}: {said}. Please open an issue of the project "
        "with the lines above and the command",
        file=sys.stderr,
        flush=True,
    )


if __name__ == "__main__":
    main()
