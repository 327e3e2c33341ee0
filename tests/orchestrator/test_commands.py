"""The command line: help, and every mistake that a user can make, each reported in one line that says what to do.

In this process, as the console script would (`orchestrator.commands.cli.main`), so that a case costs no start; what
needs actors starts a real Ray.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from multiprocessing import resource_tracker
from pathlib import Path

import numpy as np
import psutil
import pytest
import yaml

from conf.compose import to_yaml
from conf.groups import description, groups, options
from conf.schema import ClusterConf, Config
from conf.settings import settings
from orchestrator.base.lock import locked
from orchestrator.cluster.hardware import hardware
from orchestrator.commands import cli
from orchestrator.commands.table import COMMANDS
from orchestrator.training import run_dir as run_folders
from rollout.base.errors import BadInput
from rollout.data.stream import PromptStream

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "vllm", "ray", "deepspeed", "transformers", "datasets")


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str

    @property
    def line(self) -> str:
        """The one line of a refused command."""
        assert self.code not in (0, 130), self.out[-2000:]
        assert "Traceback" not in self.err and self.err.count("thinkless: ") == 1, self.err[-4000:]
        assert self.err.rstrip().splitlines()[-1].startswith("thinkless: "), self.err[-4000:]
        return self.err[self.err.index("thinkless: ") :].strip()


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Stand in an empty folder, whose path a shell would split; signal handlers, search path and environment are put
    back."""
    tmp_path /= "it's  mine; here"
    tmp_path.mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield tmp_path
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def thinkless(capfd: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """`thinkless(*arguments)`: what it printed and its exit code; no process of it may stay."""

    def call(*arguments: str) -> Done:
        children = {child.pid for child in psutil.Process().children(recursive=True)}
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main(list(arguments))
        printed = capfd.readouterr()
        new = [child for child in psutil.Process().children(recursive=True) if child.pid not in children]
        _, there = psutil.wait_procs(new, timeout=30)
        tracker = resource_tracker._resource_tracker._pid  # type: ignore[attr-defined]
        assert not [child.cmdline() for child in there if child.pid != tracker]
        code = ended.value.code
        assert isinstance(code, int), code
        return Done(code, printed.out, printed.err)

    return call


@pytest.fixture
def runs(here: Path) -> Callable[[], list[str]]:
    """Names of the run folders below runs/."""
    return lambda: sorted(
        path.name for path in (here / "runs").glob("*") if path.name not in ("warmup", "multirun.yaml")
    )


def problems(path: Path, *rows: object) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


# ---- help ----


def test_usage_names_every_command(thinkless: Callable[..., Done]) -> None:
    for arguments, code in (((), 2), (("--help",), 0), (("-h",), 0), (("help",), 0)):
        done = thinkless(*arguments)
        assert len(COMMANDS) == 21 and done.code == code and all(f"  {name} " in done.out for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(thinkless: Callable[..., Done], name: str) -> None:
    done = thinkless(name, "--help")
    said = [line for line in done.err.splitlines() if line.startswith(("thinkless", "Traceback"))]
    assert done.code == 0 and not said  # torch's threads of earlier tests may say something
    assert done.out.startswith(f"usage: thinkless {name} ") and f"\nexamples:\n  thinkless {name}" in done.out
    if name == "report":
        assert "run.name=<run>" in done.out
    elif name == "replay":
        assert "part=sampling|learning" in done.out and "repeat=" in done.out
    elif name == "watch":
        assert "run.root" in done.out and "--terminal" in done.out and "(8270)" in done.out
    elif name == "dashboards":
        assert "out=<folder>" in done.out and "discovery" in done.out
    elif name == "plan":
        assert "--json" in done.out and "gpus" in done.out and "run=<run>" in done.out
    elif name == "doctor":
        assert "run.root=<folder>" in done.out
    elif name == "chat":
        assert "--dial" in done.out and "--mode" in done.out
    elif name == "export":
        assert "dial=<bias>" in done.out and "out=<folder>" in done.out
    elif name == "compare":
        assert "--json" in done.out and "thinkless evaluate wrote" in done.out
    elif name in ("submit", "jobs", "logs", "stop", "resume"):
        assert "--address URL" in done.out and ("--detach" in done.out) == (name not in ("jobs", "stop"))
    elif name == "verify":
        assert re.search(r"^  --timeout SECONDS .*\(5\)$", done.out, re.M) and '"gold": "0.5"' in done.out
    else:
        assert "experiment=thinkless_1p5b" in done.out and "--config-dir" in done.out
        size = 32 if name == "quickstart" else 16  # its own preset's
        assert f"  rollout.prompts_per_step={size} " in done.out and "  rollout.group_size=8 " in done.out


def test_help_lists_every_setting_with_meaning_and_range(thinkless: Callable[..., Done]) -> None:
    """From one source each: a comment of the schema, its type, the table of ranges."""
    out = " ".join(thinkless("train", "--help").out.split())
    for key, setting in settings().items():
        assert setting.meaning, f"{key} has no comment in conf/schema.py"
        assert f" {key}=" in out and setting.meaning in out
        assert setting.valid in out or setting.form is not None  # forms of texts are told where one is refused
        for choice in setting.kind if isinstance(setting.kind, type) and issubclass(setting.kind, Enum) else ():
            assert choice.value in out
    for group in groups():
        for option in options(group):
            assert f" {group}={option} " in out and description(group, option) in out


def test_help_is_filtered_by_a_word_and_shows_overridden_values(thinkless: Callable[..., Done]) -> None:
    out = thinkless("train", "--help", "dynamic_sampling", "experiment").out
    keys = re.findall(r"^  ([\w.]+)=", out, re.M)
    assert set(keys) == {
        "experiment",
        "rollout.dynamic_sampling.rounds",
        "rollout.dynamic_sampling.factor",
        "rollout.dynamic_sampling.abort",
    }
    assert "rollout.group_size=64 " in thinkless("train", "rollout.group_size=64", "--help", "group").out
    assert "rollout.max_response_tokens=24576" in thinkless("train", "--help", "experiment=thinkless_1p5b").out
    assert "nosuchword" in thinkless("train", "--help", "nosuchword").line
    assert "'rollout.workers'" in thinkless("train", "--help", "rollout.wokers=2").line


@pytest.mark.parametrize("columns", [40, 60, 100, 250])
def test_help_fits_the_width_of_the_terminal(
    thinkless: Callable[..., Done], monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    settings_ = thinkless("train", "--help", "a", "e", "o").out.splitlines()
    assert len(settings_) > 150
    long = [line for line in settings_ if len(line) > min(columns, 120) and len(line.split()) > 1]
    assert not [line for line in long if not re.match(r"  [\w.]+=\S+$|.* in [\[(]\S+ \S+[\])]", line)], long


def test_heavy_libraries_are_imported_after_the_settings_are_checked() -> None:
    """Help and mistakes are answered before torch, Ray and the like are imported: seconds, tens of them on a slow disk.
    In a fresh process, one case after the other, so that the first offender is named."""
    modules = ["quickstart", "warmup", "train", "evaluate"]
    cases = [[name, "--help"] for name in COMMANDS]
    cases += [[name, "experiment=quickstart", "rollout.wokers=2"] for name in modules]
    cases += [["train", "experiment=quickstart", "learner.lr=3"], ["train", "resume=nothing"]]
    cases += [["evaluate", "run.name=nothing"], ["train"], ["replay", "run=nothing"], ["report", "run.name=nothing"]]
    script = (
        "import runpy, sys\n"
        "from orchestrator.commands import cli\n"
        f"for name, case in [('orchestrator', case) for case in {cases!r}] + [('orchestrator.train', ['--help'])]:\n"
        "    sys.argv = [name, *case]\n"
        "    sys.modules.pop(name, None)\n"
        "    try:\n"
        "        runpy.run_module(name, run_name='__main__')\n"
        "        sys.exit(f'{name} {case} has not ended')\n"
        "    except SystemExit as end:\n"
        "        assert end.code in (0, 1), (name, case, end.code)\n"
        f"    loaded = [heavy for heavy in {HEAVY!r} if heavy in sys.modules]\n"
        "    assert not loaded, f'{name} {case} loads {loaded}'\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]


def test_python_m_and_the_console_script_behave_alike() -> None:
    """`thinkless train`, `python -m orchestrator train` and `python -m orchestrator.train` print the same and end the
    same: help, mistakes, and the configuration that would run."""
    target = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]["thinkless"]
    module, _, function = target.partition(":")
    script = f"import sys; sys.argv[0] = 'thinkless'; from {module} import {function}; sys.exit({function}())"
    cases = [["--help"], ["--help", "experiment=quickstart", "lr"], ["rollout.wokers=2"], ["--cfg"]]
    cases += [["experiment=quickstart", "run.steps=7", "--cfg", "job"]]
    for case in cases:
        ways = (["-c", script, "train"], ["-m", "orchestrator", "train"], ["-m", "orchestrator.train"])
        done = [
            subprocess.run([sys.executable, *way, *case], cwd=ROOT, capture_output=True, text=True, timeout=120)
            for way in ways
        ]
        first, *others = [(one.returncode, one.stdout, one.stderr) for one in done]
        assert first[0] == (0 if "wokers" not in case[0] and case != ["--cfg"] else 1), first
        assert first[1 if first[0] == 0 else 2] and all(other == first for other in others)


def test_examples_in_the_help_are_valid_commands(thinkless: Callable[..., Done]) -> None:
    """Each example of a command that takes the configuration is composed, as `--cfg job` does, but for those of saved
    runs and of files that a reader would have."""
    absent = ("--help", "--config-dir", "resume=", "run.name=quickstart-001", "run=quickstart-001")
    for name, command in COMMANDS.items():
        for example in command.examples if command.configured else ():
            if not any(word in example for word in absent):
                words = [word for word in shlex.split(example, comments=True) if word not in ("--cfg", "job")]
                several = ["run.seed=1,2,3"] if "--multirun" in words else []
                words = [word for word in words if word not in ("--multirun", *several)]
                assert thinkless(name, *words, "--cfg", "job").code == 0, example


def test_a_saved_runs_configuration_can_be_printed(thinkless: Callable[..., Done], here: Path) -> None:
    finished_run(here / "runs" / "mine", steps=3)
    done = thinkless("train", "resume=mine", "run.steps=9", "--cfg", "job")
    assert done.code == 0 and "  steps: 9\n" in done.out and not done.err
    assert "--cfg job alone" in thinkless("train", "resume=mine", "--multirun", "run.steps=9").line


def test_a_run_goes_on_from_the_address_of_its_copies(thinkless: Callable[..., Done], here: Path) -> None:
    """Where nothing of it is here: below run.root, and copied to that address again."""
    finished_run(here / "copies" / "mine", steps=3)
    address = f"file://{here}/copies/mine"
    done = thinkless("train", f"resume={address}", "run.root=elsewhere", "run.steps=9", "--cfg", "job")
    run = yaml.safe_load(done.out)["run"]
    assert (run["steps"], run["checkpoints"]) == (9, f"file://{here}/copies")
    assert [path.name for path in (here / "elsewhere" / "mine").iterdir()] == ["config.yaml"]
    line = thinkless("train", f"resume={address}", "run.checkpoints=s3://bucket/x").line
    assert line.endswith("goes on with the copies there, and takes no run.checkpoints=s3://bucket/x")
    line = thinkless("train", f"resume=file://{here}/copies/yours").line
    assert line.endswith("copies/yours: no config.yaml is there, so it holds no copies of a run")


def test_an_internal_error_asks_for_a_report_and_names_its_place(capsys: pytest.CaptureFixture[str]) -> None:
    def body() -> None:
        raise KeyError("absent\nkey")

    assert cli.guarded(body) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("Traceback") and lines[-1].startswith("thinkless: this is a fault of Thinkless itself")
    place = f"tests/orchestrator/test_commands.py:{body.__code__.co_firstlineno + 1}"
    assert place in lines[-1] and "KeyError" in lines[-1] and "open an issue" in lines[-1]


def test_cfg_prints_the_configuration_that_would_run(
    thinkless: Callable[..., Done], runs: Callable[[], list[str]]
) -> None:
    done = thinkless("train", "experiment=thinkless_1p5b", "--cfg", "job")
    assert done.code == 0 and "max_response_tokens: 24576" in done.out and not runs()


def test_an_unknown_command_is_rejected_with_the_nearest_one(thinkless: Callable[..., Done]) -> None:
    assert "did you mean 'train'?" in thinkless("trian").line
    assert f"there are: {', '.join(COMMANDS)}" in thinkless("--cfg").line


# ---- rejected before starting: no process is started, nothing is written ----


def rejected(done: Done, *said: str) -> None:
    assert done.code == 1
    for part in said:
        assert part in done.line, done.line
    assert not any(Path().iterdir()) or {path.name for path in Path().iterdir()} <= {"data.jsonl", "data.json", "model"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("train experiment=quikstart", "experiment=quickstart"),
        ("train", "experiment=quickstart"),
        ("train experiment=quickstart rollout.group_size=1", "in [2, 1e5], got 1"),
        ("train experiment=quickstart learner.ranks=0", "learner.ranks"),
        ("quickstart rollout.wokers=2", "'rollout.workers'"),
        ("warmup", "warmup.path=<pairs>"),
        ("evaluate", "run.name=<run>, or model.path=<folder>"),
        ("evaluate run.name=nothing", "no run is there yet"),
        ("report", "thinkless quickstart"),
        ("train --nonsense", "thinkless train --help"),
        ("train experiment=quickstart zzz.qqq=1", "thinkless train --help"),
        ("report run.name=nothing", "no run is there yet"),
        ("report nothing", "run.name=<run>"),
        ("train resume=nothing", "no run is there yet"),
        ("resume", "required: NAME;"),
        ("train experiment=quickstart run.name=../up", "without '..', or null, got '../up'"),
        ("train experiment=quickstart data.arithmetic.levels=[2]", "one weight each"),
        ("train experiment=quickstart warmup.path=nothing.jsonl model=tiny", "warmup.path=nothing.jsonl: no such file"),
    ],
)
def test_mistakes_on_the_command_line_are_one_line_with_the_fix(
    thinkless: Callable[..., Done], arguments: str, said: str
) -> None:
    rejected(thinkless(*arguments.split()), said)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "no such file"),
        ("", "is empty"),
        ("\n \n", "is empty"),
        ('{"question": "1+1"\n', "line 1: not JSON"),
        ('{"question": "1+1", "answer": "2"}\nnot json\n', "line 2: not JSON"),
        ('{"question": "1+1", "anwser": "2"}\n' * 3, "its columns are question, anwser"),
        ('{"text": "1+1", "answer": "2"}\n' * 3, "data.problem_column"),
        ("[1, 2]\n", "must be an object"),
        ('{"question": "1+1", "answer": null}\n' * 3, "none is left"),
    ],
)
def test_bad_data_files_are_rejected_before_starting(
    thinkless: Callable[..., Done], here: Path, content: str | None, said: str
) -> None:
    if content is not None:
        (here / "data.jsonl").write_text(content)
    rejected(thinkless("train", "experiment=quickstart", "data.path=data.jsonl"), said, "data")


def test_a_missing_column_is_rejected_before_starting(thinkless: Callable[..., Done], here: Path) -> None:
    problems(here / "data.jsonl", *[{"question": str(i), "answer": "2"} for i in range(9)])
    done = thinkless("train", "experiment=quickstart", "data.path=data.jsonl", "data.answer_column=answr")
    rejected(done, "'answr'", "nearest: answer")


@pytest.mark.parametrize("command", ["train", "warmup"])
def test_a_generated_warm_up_is_rejected_for_the_users_own_problems(
    thinkless: Callable[..., Done], here: Path, command: str
) -> None:
    problems(here / "data.jsonl", *[{"question": str(i), "answer": "2"} for i in range(9)])
    done = thinkless(command, "experiment=quickstart", "data.path=data.jsonl", "validation.size=2")
    rejected(done, "data.path=data.jsonl", "generated arithmetic", "warmup.path=<pairs>", "model.path=")


def test_a_missing_model_folder_is_rejected_before_starting(thinkless: Callable[..., Done]) -> None:
    done = thinkless("train", "experiment=quickstart", "warmup=none", "model.path=./model")
    rejected(done, "model.path=./model", "Hugging Face")


def test_a_model_folder_without_a_tokenizer_is_rejected_before_starting(
    thinkless: Callable[..., Done], here: Path, tiny_model: Path
) -> None:
    (here / "model").mkdir()
    shutil.copyfile(tiny_model / "config.json", here / "model" / "config.json")
    done = thinkless("train", "experiment=quickstart", "warmup=none", "model.path=model")
    rejected(done, "model.path=model", "no tokenizer")


# ---- runs that exist ----


def finished_run(folder: Path, steps: int, zero_stage: int = 0) -> None:
    """What a run of `steps` steps leaves, as far as `resume` looks at it."""
    from conf.schema import DataConf, LearnerConf, ModelConf, RandomModelConf, RunConf, WarmupConf
    from orchestrator.training import manifest

    conf = Config(run=RunConf(steps=steps), model=ModelConf(random=RandomModelConf()), warmup=WarmupConf(steps=1))
    conf.learner = LearnerConf(zero_stage=zero_stage)
    prompts = PromptStream(None, lambda text: np.zeros(1, np.int32), DataConf(), 0).state()
    state = folder / "checkpoints" / f"step_{steps:06d}" / "state.json"
    state.parent.mkdir(parents=True)
    state.write_text(json.dumps({"step": steps, "prompts": prompts, "best": None}))
    manifest.write(state.parent, {})
    (folder / "config.yaml").write_text(to_yaml(conf))
    (folder / "evaluation.json").write_text(json.dumps({"models": {"final": {}}}))
    (folder / "model").mkdir()
    (folder / "model" / "tokenizer_config.json").write_text("{}")


def pasted(line: str) -> list[str]:
    """What a shell that stands elsewhere makes of the command at the end of `line`: the arguments of this program."""
    text = line.rpartition(": ")[2]
    script = f"printf '%s\\0' {text}"
    words = subprocess.run(["bash", "-c", script], cwd="/", capture_output=True, check=True).stdout
    first, *arguments = [word.decode() for word in words.split(b"\0")[:-1]]
    assert first == "thinkless" or (Path(first).is_absolute() and os.access(first, os.X_OK)), line
    return arguments


def test_a_second_run_of_the_same_name_is_rejected(
    thinkless: Callable[..., Done], here: Path, runs: Callable[[], list[str]]
) -> None:
    finished_run(here / "runs" / "mine", steps=3)
    done = thinkless("train", "experiment=quickstart", "run.name=mine")
    assert "another run.name" in done.line and pasted(done.line) == ["train", f"resume={here / 'runs' / 'mine'}"]
    assert runs() == ["mine"] and len(list((here / "runs" / "mine").iterdir())) == 4


def test_a_finished_run_goes_on_only_with_more_steps(
    thinkless: Callable[..., Done], here: Path, runs: Callable[[], list[str]]
) -> None:
    finished_run(here / "runs" / "mine", steps=3)
    for name in ("mine", "runs/mine", str(here / "runs" / "mine")):
        line = thinkless("train", f"resume={name}").line
        assert pasted(line) == ["train", f"resume={here / 'runs' / 'mine'}", "run.steps=4"]
    assert "'run.steps'" in thinkless("train", "resume=mine", "run.stesp=9").line
    assert "runs there: mine" in thinkless("train", "resume=yours").line
    line = thinkless("evaluate", "run.name=mine").line
    assert "holds no final model" in line and pasted(line) == ["train", f"resume={here / 'runs' / 'mine'}"]
    line = thinkless("evaluate", "run.name=mine", "model.path=./nowhere").line
    assert "nowhere" in line and "final model" not in line
    assert runs() == ["mine"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("model.lora.rank=8", "model.lora.rank was null in this run and cannot become 8"),
        ("model.dtype=bfloat16", "model.dtype was float32"),
        ("model.random.layers=4", "model.random.layers was 3"),
        ("model.revision=main", "model.revision was null in this run"),
        ("warmup.steps=7", "the run began with that warm-up"),
        ("run.seed=5", "seed was 0, is 5"),
        ("data.arithmetic.width=20", "prompts cannot continue from the saved position: data was"),
    ],
)
def test_settings_that_a_checkpoint_depends_on_cannot_be_changed_on_resume(
    thinkless: Callable[..., Done], here: Path, change: str, said: str
) -> None:
    """Done before anything is started, not once the engines are up."""
    finished_run(here / "runs" / "mine", steps=3, zero_stage=1)
    before = (here / "runs" / "mine" / "config.yaml").read_bytes()
    line = thinkless("train", "resume=mine", "run.steps=9", change).line
    assert said in line and (here / "runs" / "mine" / "config.yaml").read_bytes() == before


def test_an_interruption_before_the_first_step_says_that_the_run_folder_is_removed(
    thinkless: Callable[..., Done], here: Path, runs: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its folder has been announced, and is removed: so that is announced as well."""
    monkeypatch.setattr("orchestrator.commands.train.Cluster", lambda conf: signal.raise_signal(signal.SIGTERM))
    done = thinkless("train", "experiment=quickstart", "run.name=mine")
    folder = here / "runs" / "mine"
    assert done.code == 143 and f"run folder: {folder}" in done.out and runs() == []
    last = done.err.rstrip().splitlines()[-1]
    assert last == (
        f"thinkless: interrupted; no training step had finished, and {folder} is removed; the same command begins again"
    )


def test_a_run_in_progress_is_not_resumed(thinkless: Callable[..., Done], here: Path) -> None:
    """Two processes would write to one folder. Before the first step it says why nothing is to be seen yet."""
    folder = here / "runs" / "mine"
    finished_run(folder, steps=3)
    with locked(run_folders.lock(folder)):
        line = thinkless("train", "resume=mine", "run.steps=9").line
        assert f"{folder} is running (process {os.getpid()} on " in line and "still in its warm-up or starting" in line
        done = thinkless("report", "run.name=mine")
        assert (
            done.code == 0 and "is running (process" in done.out and "its figures begin with the first step" in done.out
        )
    assert "has stopped before its first step" in thinkless("report", "run.name=mine").out


def test_a_run_stopped_before_its_first_step_has_a_report(thinkless: Callable[..., Done], here: Path) -> None:
    """A run that was stopped before its first step has a page, too."""
    finished_run(here / "runs" / "mine", steps=3)
    done = thinkless("report", "run.name=mine")
    assert done.code == 0 and str(here / "runs" / "mine" / "report.html") in done.out


def test_a_truncated_model_folder_is_rejected(thinkless: Callable[..., Done], here: Path, tiny_model: Path) -> None:
    shutil.copytree(tiny_model, here / "model")
    weights = (tiny_model / "model.safetensors").read_bytes()
    for size, said in ((len(weights) // 2, "truncated"), (100, "cannot be read"), (0, "cannot be read")):
        (here / "model" / "model.safetensors").write_bytes(weights[:size])
        for command in (["train", "experiment=quickstart", "warmup=none"], ["evaluate"]):
            rejected(thinkless(*command, "model.path=model"), "model.path=model", ".safetensors", said)


def test_a_missing_reward_function_is_rejected_before_starting(thinkless: Callable[..., Done], here: Path) -> None:
    done = thinkless("train", "experiment=quickstart", "reward.function=json:laods")
    rejected(done, "reward.function=json:laods", "loads")


# ---- what only actors can tell: nothing stays of the run ----


def test_a_control_token_of_several_ids_is_rejected_before_starting(
    thinkless: Callable[..., Done], tiny_model: Path, runs: Callable[[], list[str]]
) -> None:
    """`evaluate` adds no tokens: the model has been trained, or it has not."""
    line = thinkless("evaluate", f"model.path={tiny_model}", "model.think_token='<reason>'").line
    assert "model.think_token='<reason>'" in line and "exactly one id" in line and not runs()


def test_a_chat_template_that_thinks_before_the_mode_is_sampled_is_rejected(
    thinkless: Callable[..., Done], here: Path, tiny_model: Path
) -> None:
    (here / "thinks.jinja").write_text("{{ messages[0].content }}:<think>Well.</think>")
    line = thinkless("evaluate", f"model.path={tiny_model}", "model.chat_template=thinks.jinja").line
    assert "the chat template begins the answer with ':<think>Well.'" in line and "model.chat_template=<file>" in line


@pytest.mark.heavy
def test_more_ranks_than_cpus_are_rejected(thinkless: Callable[..., Done], runs: Callable[[], list[str]]) -> None:
    line = thinkless("train", "experiment=quickstart", "learner.ranks=1000").line
    assert "learner.ranks=1000" in line and "CPU" in line and "its num_cpus" in line and not runs()


@pytest.mark.heavy
def test_a_port_in_use_is_rejected(thinkless: Callable[..., Done], runs: Callable[[], list[str]]) -> None:
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        line = thinkless("train", "experiment=quickstart", f"cluster.port={port}").line
    assert f"cluster.port={port}" in line and "in use" in line and not runs()


@pytest.mark.heavy
def test_an_address_without_a_ray_cluster_is_rejected(
    thinkless: Callable[..., Done], runs: Callable[[], list[str]]
) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{nobody.getsockname()[1]}"
        line = thinkless("train", "experiment=quickstart", f"cluster.address={address}").line
    assert address in line and "cluster.address" in line and not runs()


@pytest.mark.heavy
def test_a_folder_that_ray_cannot_use_is_rejected(
    thinkless: Callable[..., Done], here: Path, monkeypatch: pytest.MonkeyPatch, runs: Callable[[], list[str]]
) -> None:
    """A cluster's temporary folder with a long path; one that is not there; a file where Ray's own folder would be."""
    for name, path in (("TMPDIR", here / ("long" * 20)), ("RAY_TMPDIR", Path("/no-such-folder"))):
        monkeypatch.setenv(name, str(path))
        line = thinkless("train", "experiment=quickstart").line
        assert f"{name}={path}" in line and "set RAY_TMPDIR to a short path of your own" in line
        assert "PROBLEM" in (done := thinkless("doctor")).out and done.code == 1 and f"{name}={path}" in done.out
    (short := Path(tempfile.mkdtemp(dir="/tmp"))).joinpath("ray").touch()
    monkeypatch.setenv("RAY_TMPDIR", str(short))
    assert f"Ray cannot write to {short}/ray, which belongs to" in thinkless("train", "experiment=quickstart").line
    shutil.rmtree(short)
    assert not runs()


def test_doctor_names_missing_packages_without_needing_any() -> None:
    """-S: an interpreter without the environment's packages."""
    command = [sys.executable, "-S", "-m", "orchestrator.commands.cli", "doctor"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if "cannot be imported: run `make setup`" in line]
    assert line.startswith("PROBLEM  torch, vllm, ray, deepspeed") and "GiB of memory free" in done.stdout


@pytest.mark.parametrize("script", ["echo No devices were found", "exit 9", "echo Driver mismatch >&2; exit 18"])
def test_a_driver_without_a_gpu_is_no_gpu(script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NVIDIA's tool says so in words, with and without an exit code, or says nothing."""
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert hardware()["gpus"] == []


@pytest.mark.heavy
def test_doctor_finds_nothing_wrong_on_a_machine_that_runs_the_tests(
    thinkless: Callable[..., Done], here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = thinkless("doctor", f"run.root={here / 'results'}")
    assert done.code == 0 and "nothing prevents a run" in done.out and "PROBLEM" not in done.out
    for part in ("torch 2.", "CPU(s)", "/dev/shm", f"run.root={here / 'results'}", "RAY_ADDRESS is not set"):
        assert part in done.out
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        monkeypatch.setenv("RAY_ADDRESS", address := f"127.0.0.1:{nobody.getsockname()[1]}")
        done = thinkless("doctor")
    assert done.code == 1 and f"PROBLEM  RAY_ADDRESS={address}: nobody answers" in done.out
    assert "takes run.root=<folder> and model.path=<folder> and" in thinkless("doctor", "steps=3").line


def test_rays_start_up_errors_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own slow start is a plain Exception."""
    from orchestrator.cluster.ray_connection import cannot_start

    slow = Exception("The current node timed out during startup. This could happen because\nsome of the raylet failed")
    line = str(cannot_start(None, slow))
    assert "did not start in time" in line and "try again" in line and "\n" not in line
    assert "doctor" in str(cannot_start(None, OSError("No space left")))
    line = str(cannot_start("host:6379", ConnectionError("Failed to connect\nto it")))
    assert "cannot join Ray at host:6379 (Failed to connect to it)" in line and "RAY_ADDRESS" in line
    assert "asks for a token: export RAY_AUTH_MODE=token" in line
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    assert "token" not in str(cannot_start("host:6379", ConnectionError("Failed to connect\nto it")))


def test_a_dashboards_address_is_refused_where_ray_is_joined() -> None:
    from orchestrator.cluster.ray_connection import connect

    with pytest.raises(BadInput, match=r"the address of a Ray dashboard.* its head: host:port"):
        connect(ClusterConf(address="http://127.0.0.1:8265"))


def test_a_run_root_that_cannot_be_made_is_rejected_and_nothing_is_written(
    here: Path, thinkless: Callable[..., Done]
) -> None:
    """A folder where run folders cannot be made."""
    (here / "file").write_text("")
    line = thinkless("train", "experiment=quickstart", "run.root=file/runs").line
    assert "run.root=" in line and os.listdir(here) == ["file"]
