"""The `thinkless` command: one line for every mistake, clean shutdown on Ctrl-C.

In: command-line arguments. Out: exit code 0, 1 (an error, printed in one line), 2 (usage), 130 (Ctrl-C), 143 (SIGTERM)
or 141 (the reader of `verify`'s output is gone).
"""

from __future__ import annotations

import os
import re
import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path

from conf import masking
from conf.flags import NO_FLAGS, Flags
from conf.schema import Config
from orchestrator.base import interrupt, leaving
from orchestrator.base.search_path import working_directory_last
from orchestrator.base.waiting import LIBRARIES, enable, say_reading, waiting
from orchestrator.commands.arguments import parsers, read
from orchestrator.commands.table import COMMANDS
from rollout.data.addresses import is_address


def main(argv: list[str] | None = None) -> None:
    if argv is None:
        working_directory_last()
    words = sys.argv[1:] if argv is None else argv
    if argv is None and words[:1] != ["verify"]:  # whose output is data
        masking.learn(words)
        masking.mask_output()
    if not words or words[0] in ("-h", "--help", "help"):
        print(parsers()[0].format_help(), end="")
        sys.exit(0 if words else 2)
    name, *rest = words
    if name not in COMMANDS:
        import difflib

        guess = difflib.get_close_matches(name, COMMANDS, 1)
        hint = f"did you mean {guess[0]!r}?" if guess else f"there are: {', '.join(COMMANDS)}"
        print(f"thinkless: unknown command {name!r}; {hint}", file=sys.stderr)
        sys.exit(2)
    sys.exit(guarded(lambda: run(name, rest)))


def run(name: str, words: list[str]) -> None:
    """Run one command. Its settings are read and checked before its libraries are imported, which takes seconds.

    One that does not take the whole configuration is `main(options)` of `orchestrator/commands/<name>.py`.
    """
    options = read(name, words)
    if os.getcwd() not in sys.path:  # so that reward.function=my_file:fn finds a file here, after all libraries
        sys.path.append(os.getcwd())
    if COMMANDS[name].configured:
        _run_configured(name, options, words)
    else:
        import_module(f"orchestrator.commands.{name}").main(options)


def _run_configured(name: str, options: Namespace, words: list[str]) -> None:
    flags = Flags.of(options)
    if options.help or flags.shows:  # nothing else is printed
        enable(False)
    else:
        say_reading(name)
    if options.help:
        print(_help(name, options.overrides, flags), end="")
    elif name == "warmup":
        _warmup(options.overrides, flags, words)
    elif name == "evaluate":
        _evaluate(options.overrides, flags, dial=options.dial)
    elif name == "distill":
        _distill(options.overrides, flags)
    elif name == "plan":
        _plan(options, flags)
    elif name == "model":
        _model(options, flags)
    else:
        _train(name, options.overrides, flags, words)


def _help(name: str, words: list[str], flags: Flags) -> str:
    """The help of a command; words choose settings by name, overrides change the values that are shown."""
    from conf.help import configuration_help

    names = [word for word in words if "=" not in word]
    overrides = ["experiment=quickstart"] if name == "quickstart" else []
    overrides += [word for word in words if "=" in word]
    values = None
    if overrides or flags.own_files:
        from conf.compose import composed

        values = composed(overrides, flags)
    settings = configuration_help(names, values)
    return settings if names else f"{parsers()[1][name].format_help()}\n{settings}"


def _train(name: str, arguments: list[str], flags: Flags, words: list[str]) -> None:
    from conf.compose import run_command

    def body(conf: Config, resume: Path | None = None) -> None:
        with waiting(LIBRARIES):
            from orchestrator.commands import train
        from orchestrator.sweeps.objective import progress
        from orchestrator.tracking.results import result_lines, serving_lines

        folder = train.command(conf, name, resume)
        figures = result_lines(folder)
        lines = [*serving_lines(folder), *(["result:", *figures] if figures else []), f"run folder: {folder}"]
        if conf.sweep.objective is not None and (value := progress(folder).value(conf.sweep.objective)) is not None:
            lines.append(f"objective: {conf.sweep.objective.value}={value!r}")  # for a sweep on another host
        print("\n".join(lines))

    resume, overrides = _taken("resume", arguments)
    if resume and is_address(resume):
        resume, overrides = _from_copies(resume, overrides)
    if resume in (None, "null"):
        from orchestrator.sweeps.sweep import Sweep

        settings = ["experiment=quickstart", *arguments] if name == "quickstart" else arguments
        run_command("train", body, settings, flags, Sweep([name, *words], flags))
    elif saved := _saved_run("train", resume, overrides, flags):
        conf, folder = saved
        body(replace(conf, resume=str(folder)), folder)


def _warmup(arguments: list[str], flags: Flags, words: list[str]) -> None:
    from conf.compose import run_command

    def body(conf: Config) -> None:
        with waiting(LIBRARIES):
            from orchestrator.commands import warmup

        warmup.command(conf, words)

    if flags.multirun:
        _each("warmup", arguments, flags, lambda own: run_command("warmup", lambda conf: None, own, flags.of_member))
    else:
        run_command("warmup", body, arguments, flags)


def _distill(arguments: list[str], flags: Flags) -> None:
    from conf.compose import run_command

    def body(conf: Config) -> None:
        with waiting(LIBRARIES):
            from orchestrator.commands import distill

        distill.command(conf)

    if flags.multirun:
        _each("distill", arguments, flags, lambda own: run_command("distill", lambda conf: None, own, flags.of_member))
    else:
        run_command("distill", body, arguments, flags)


def _evaluate(arguments: list[str], flags: Flags, only_check: bool = False, dial: bool = False) -> None:
    """With run.name=<run>: that run's configuration and final model, further overrides on top (model.path: another one,
    measured as the run's is)."""
    from conf.compose import run_command
    from orchestrator.training import run_dir

    def body(conf: Config, target: Path | None = None) -> None:
        if only_check:
            return
        with waiting(LIBRARIES):
            from orchestrator.commands import evaluate

        foreign = name is None or any(one.startswith("data.path=") for one in overrides)
        evaluate.command(evaluate.without_hold_out(conf) if foreign else conf, target, dial)

    if flags.multirun:
        options = ["--dial"] if dial else []
        _each("evaluate", arguments, flags, lambda own: _evaluate(own, flags.of_member, only_check=True), options)
        return
    name, overrides = _taken("run.name", arguments)
    if name is None:
        run_command("evaluate", body, arguments, flags)
    elif saved := _saved_run("evaluate", name, overrides, flags):
        conf, folder = saved
        if any(one.startswith("model.path=") for one in overrides):
            body(conf)
            return
        model = run_dir.final_model(folder, "give model.path=<folder>")
        body(replace(conf, model=replace(conf.model, path=str(model))), folder)


def _each(
    name: str, arguments: list[str], flags: Flags, check: Callable[[list[str]], None], options: Sequence[str] = ()
) -> None:
    """Members of a multirun in processes of their own; all are checked before the first one starts."""
    from conf.errors import BadConfig
    from conf.overrides import combinations
    from orchestrator.sweeps.one_by_one import run_each

    if flags.shows:
        raise BadConfig("--multirun, --cfg and --info exclude each other")
    if own := [word for word in arguments if word.lstrip("+~").startswith(("hydra.", "hydra/"))]:
        raise BadConfig(f"thinkless {name} --multirun runs its members one after the other and takes no {own[0]}")
    members = combinations(arguments)
    for member in members:
        check(member)
    run_each(name, members, flags, options)


def _plan(options: Namespace, flags: Flags) -> None:
    """With run=<run>: that run's configuration, corrected by its metrics, further overrides on top."""
    from conf.compose import run_command
    from orchestrator.commands import plan

    name = options.given.get("run")
    if name is None:
        run_command("plan", lambda conf: plan.command(conf, options), options.overrides, flags)
    elif saved := _saved_run("plan", name, options.overrides, flags):
        plan.command(saved[0], options, saved[1])


def _model(options: Namespace, flags: Flags) -> None:
    from conf.compose import run_command
    from orchestrator.commands import model

    path, settings = model.path_of(options.overrides)
    run_command("plan", lambda conf: model.command(conf, options), [*settings, f"model.path={path}"], flags)


def _saved_run(command: str, name: str, overrides: list[str], flags: Flags) -> tuple[Config, Path] | None:
    """The checked configuration of a run with overrides on top, and its folder; None where --cfg job printed it.

    Raises BadConfig for any other flag.
    """
    from conf.check import check
    from conf.compose import from_file, refuse_masked, to_yaml
    from conf.errors import BadConfig
    from orchestrator.training import run_dir

    folder = run_dir.find(name, overrides)
    conf = from_file(folder / "config.yaml", overrides)
    if flags not in (NO_FLAGS, Flags(cfg="job")):
        raise BadConfig("of the options, a saved run takes --cfg job alone; its settings change by key=value")
    if flags.cfg:
        print(to_yaml(conf), end="")
        return None
    refuse_masked(conf)
    check(conf, command)
    return conf, folder


def _from_copies(address: str, overrides: list[str]) -> tuple[str, list[str]]:
    """The folder here of a run whose checkpoints have copies at `address`, and the overrides with which it goes on."""
    from conf.errors import BadConfig
    from conf.overrides import quoted
    from orchestrator.training import copies, run_dir

    if there := [one for one in overrides if one.startswith("run.checkpoints=")]:
        raise BadConfig(f"resume={address} goes on with the copies there, and takes no {there[-1]}")
    with waiting(f"looking for the run at {address}"):
        folder = copies.bring(address, run_dir.run_root_of(overrides))
    return str(folder), [f"run.checkpoints={quoted(copies.split(address)[0])}", *overrides]


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
    """Run `body` and return its exit code. An error that the user can fix is printed as one line; any other is a bug of
    this program and is printed with its traceback and a request to report it."""
    from conf.errors import BadConfig
    from orchestrator.base.errors import RunError
    from rollout.base.errors import BadInput

    interrupt.install()
    code = 1
    try:
        body()
        code = 0
    except KeyboardInterrupt as error:
        code = interrupt.exit_code()
        _print_error(interrupt.reason() or "interrupted", error)
    except (BadConfig, BadInput, RunError, FloatingPointError) as error:
        _print_error(str(error), error)
    except OSError as error:
        _print_error(f"{type(error).__name__}: {error}", error)
    except Exception as error:
        _print_fault(error)
    leaving.said()
    if leaving.due():
        sys.stdout.flush()
        leaving.leave("", code)
    return code


def _print_error(message: str, error: BaseException) -> None:
    ours = ("the last checkpoint", "no training step")
    notes = [note for note in getattr(error, "__notes__", []) if note.startswith(ours)]
    if os.environ.get("THINKLESS_TRACEBACK"):
        import traceback

        traceback.print_exception(error)
    line = re.sub(r"\s*\n\s*", " ", message.strip())  # paths keep their spaces
    line = re.sub(r"[\x00-\x1f\x7f-\x9f]", lambda control: repr(control[0])[1:-1], line)
    print(f"thinkless: {'; '.join([line, *notes])}", file=sys.stderr, flush=True)


def _print_fault(error: Exception) -> None:
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
