"""What `thinkless submit` uploads and asks for, before any head is asked; and what it shows of a log."""

from __future__ import annotations

import io
import json
import random
import shlex
import shutil
import subprocess
import zipfile
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace

import pytest

from conf.errors import BadConfig
from conf.flags import NO_FLAGS, Flags
from orchestrator.base import source
from orchestrator.base.source import NOTE, SOURCE
from orchestrator.commands.jobs import main as list_jobs
from orchestrator.commands.jobs import table
from orchestrator.jobs import submission
from orchestrator.jobs.ignore import kept, read_rules
from orchestrator.jobs.install import install, pinned
from orchestrator.jobs.job import Job, chosen_address
from orchestrator.jobs.progress import Progress, Screen, of_folder, of_log, parsed, run_folder
from orchestrator.jobs.working_dir import CODE, collect
from orchestrator.tracking.console import plain_line
from rollout.base.errors import BadInput


def made(top: Path, *names: str, size: int = 1) -> None:
    for name in names:
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_bytes(b"x" * size)


def job(name: str, job_id: str = "", status: str = "SUCCEEDED", **metadata: str) -> Job:
    return Job(job_id or name, name, status, "", metadata, 1e9, 1e9 + 75 if status != "RUNNING" else None, "", None)


# ---- ignore files ----

RULES = [
    "*.log\n!keep.log\n", "/data\n", "data/\n", "a/b\n", "**/tmp\n", "a/**/z.txt\n", "logs/**\n", "*.t?t\n",
    "[a-c].txt\n", "[!a-c].txt\n", "\\#odd\n", "# comment\n\nx\n", "data/*\n!data/keep.log\n", "b/\n!b/\n",
    "*\n!*/\n!*.py\n", "trailing.txt   \n", "a/*/c\n", "[!]a].txt\n", "[]d].txt\n",
]  # fmt: skip


def test_a_pattern_that_is_none_is_left_out() -> None:
    assert [rule.matches("b.txt", False) for rule in read_rules("a[z-a].txt\n*.txt\n")] == [True]


FOLDERS = ["a", "b", "c", "data", "logs", "tmp", "x"]
PARTS = [*FOLDERS, "keep.log", "z.txt", "d.txt", "a.txt", "m.py", "#odd", "trailing.txt"]


@pytest.mark.parametrize("rules", RULES)
def test_ignore_files_mean_what_they_mean_to_git(rules: str, tmp_path: Path) -> None:
    """Compared with git itself, over a tree of every depth up to four, and with a second file further down."""
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    rng = random.Random(rules)
    for _ in range(60):
        names = [rng.choice(FOLDERS) for _ in range(rng.randrange(4))] + [rng.choice(PARTS)]
        path = tmp_path / "/".join(names)
        if not path.exists() and not any(parent.is_file() for parent in path.parents):
            made(tmp_path, "/".join(names))
    (tmp_path / ".gitignore").write_text(rules)
    if (tmp_path / "a").is_dir():
        (tmp_path / "a" / ".gitignore").write_text("/b\n!*.log\n")
    for command in (["init", "-q"], ["ls-files", "-z", "--others", "--exclude-standard"]):
        listed = subprocess.run(["git", *command], cwd=tmp_path, capture_output=True, check=True).stdout
    theirs = sorted(name for name in listed.decode().split("\0") if name)
    assert sorted(kept(tmp_path)) == theirs and theirs


def test_runs_environments_and_caches_are_never_uploaded(tmp_path: Path) -> None:
    made(
        tmp_path, "runs/a/metrics.jsonl", ".git/HEAD", "x/.venv/lib.py", "x/__pycache__/m.pyc", ".mypy_cache/x", "m.pyc"
    )
    made(tmp_path, "env/pyvenv.cfg", "env/lib/torch.py", "train.jsonl", "x/run.py")
    (tmp_path / ".thinklessignore").write_text("!runs\n!.git\n")
    (tmp_path / "x" / "round").symlink_to(tmp_path)  # a link to a folder above
    assert [name for name in kept(tmp_path) if "round" not in name] == [".thinklessignore", "train.jsonl", "x/run.py"]
    assert not [name for name in kept(tmp_path) if "runs/" in name or name.count("round") > 1]


# ---- the working directory ----


def test_in_the_checkout_its_code_and_the_users_files_are_uploaded() -> None:
    found = collect(SOURCE)
    tops = {name.split("/")[0] for name in found.files}
    assert tops >= {*CODE} and not tops & {"tests", "docs", "benchmarks", "docker", "runs", ".venv", ".git"}
    assert "orchestrator/train.py" in found.files and "orchestrator/report/page.html.jinja" in found.files
    assert not [name for name in found.files if name.endswith(".pyc")] and found.size < 4 * 2**20


def test_elsewhere_the_code_is_put_beside_the_users_files(tmp_path: Path) -> None:
    """Settings name files that ignore files leave out; equal files make an equal archive, which is uploaded once."""
    made(
        tmp_path, "problems.jsonl", "secret/key", "my_rewards.py", "shards/1.jsonl", "shards/2.jsonl", "runs/m/model/w"
    )
    (tmp_path / ".gitignore").write_text("*.jsonl\n")
    (tmp_path / ".thinklessignore").write_text("secret/\n")
    found = collect(
        tmp_path, ["problems.jsonl", "shards/*.jsonl", "openai/gsm8k", "s3://b/x", "/data/x", "runs/m/model"]
    )
    own = {name for name in found.files if name.split("/")[0] not in CODE and not name.startswith(".")}
    assert own == {"problems.jsonl", "shards/1.jsonl", "shards/2.jsonl", "my_rewards.py", "runs/m/model/w"}
    assert found.files["orchestrator/train.py"] == SOURCE / "orchestrator" / "train.py"
    archives = [tmp_path / "1.zip", tmp_path / "2.zip"]
    for archive in archives:
        found.pack(archive)
    assert archives[0].read_bytes() == archives[1].read_bytes()
    with zipfile.ZipFile(archives[0]) as archive_:
        assert set(archive_.namelist()) == {*found.files, NOTE} and archive_.read("problems.jsonl") == b"x"


def test_a_job_knows_the_commit_of_its_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its working directory has no .git. One that is submitted from a job is of the same commit."""
    top = tmp_path / "checkout"
    made(top, "a.py")
    git = ["git", "-C", str(top), "-c", "user.name=x", "-c", "user.email=x@y"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "one"]):
        subprocess.run([*git, *words], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    assert source.commit(top) == {"git_commit": head, "dirty": False}
    made(top, "a.py", size=2)
    known = source.commit(top)
    assert known == {"git_commit": head, "dirty": True}
    monkeypatch.setattr("orchestrator.jobs.working_dir.commit", lambda: known)
    for name in ("first", "second"):
        made(tmp_path / name, "x.jsonl")
        collect(tmp_path / name).pack(tmp_path / f"{name}.zip")
        with zipfile.ZipFile(tmp_path / f"{name}.zip") as archive:
            archive.extractall(tmp_path / name)
        assert source.commit(tmp_path / name) == known
        made(tmp_path / "second", NOTE)  # that of another job is not taken along


def test_too_much_is_refused_with_the_largest_folders(tmp_path: Path) -> None:
    made(tmp_path, "data/big/a.bin", "data/big/b.bin", size=3 * 2**20)
    made(tmp_path, "notes/c.bin", size=2 * 2**20)
    with pytest.raises(BadInput, match=r"more than 5 \(largest: data/big/ 6\.0 MiB, notes/c.bin 2\.0 .*\.thinkless"):
        collect(tmp_path, limit_mib=5)
    (tmp_path / ".thinklessignore").write_text("big\n")
    assert "notes/c.bin" in collect(tmp_path, limit_mib=5).files


@pytest.mark.parametrize("name", ["numpy.py", "json/__init__.py"])
def test_a_file_that_hides_a_library_is_refused(name: str, tmp_path: Path) -> None:
    """A job's folder comes first where Python looks for modules."""
    made(tmp_path, "problems.jsonl", "my_rewards.py", "data/numpy.py", "test/__init__.py", "yaml/notes.txt")
    assert "my_rewards.py" in collect(tmp_path).files
    made(tmp_path, name)
    with pytest.raises(BadInput, match=rf"{name} has the name of a library.*\.thinklessignore"):
        collect(tmp_path)
    (tmp_path / ".thinklessignore").write_text(f"/{name.partition('/')[0]}\n")
    assert name not in collect(tmp_path).files


def test_paths_that_lead_out_and_folders_named_like_ours_are_refused(tmp_path: Path) -> None:
    made(tmp_path, "data.jsonl", "mine/x")
    with pytest.raises(BadInput, match=r"^\.\./data\.jsonl lies outside of .*mine"):
        collect(tmp_path / "mine", ["../data.jsonl"])
    made(tmp_path, "mine/reward/score.py")
    with pytest.raises(BadInput, match=r"mine/reward has the name of a package of Thinkless"):
        collect(tmp_path / "mine")


def test_of_a_home_folder_only_what_settings_name_is_uploaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    made(tmp_path, "letters/private.txt", "train.jsonl")
    assert {name for name in collect(tmp_path, ["train.jsonl"]).files if name.split("/")[0] not in CODE} == {
        "train.jsonl"
    }


# ---- settings, name, folder ----


def test_a_run_is_named_at_submission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next free name, among the head's jobs and the runs that are seen from here; a given one stays."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    words = ["train", "experiment=quickstart", "run.steps=7", f"run.root={tmp_path}"]
    one = submission.read(words, NO_FLAGS)
    made(tmp_path, "train-004/config.yaml")
    named = submission.chosen(one, [job("train-002"), job("quickstart-009")])
    assert (named.name, named.folder, named.steps) == ("train-005", f"{tmp_path}/train-005", 7)
    assert named.entrypoint == ["python3", "-m", "orchestrator.train", *words[1:], "run.name=train-005"]
    facts = named.metadata("1", Path("/proj"))
    assert (facts["folder"], facts["steps"], facts["from"]) == (named.folder, "7", "/proj")
    mine = submission.chosen(submission.read(["quickstart", "run.name=mine"], NO_FLAGS), [])
    assert (mine.name, mine.folder) == ("mine", "~/thinkless/runs/mine")
    assert mine.entrypoint == ["python3", "-m", "orchestrator", "quickstart", "run.name=mine"]
    with pytest.raises(BadInput, match=r"the run .*train-004 exists: .* resume train-004$"):
        submission.chosen(submission.read([*words, "run.name=train-004"], NO_FLAGS), [])
    warmup = submission.chosen(submission.read(["warmup", "experiment=quickstart"], NO_FLAGS), [])
    assert (warmup.name, warmup.folder, warmup.words) == ("warmup-001", None, ("experiment=quickstart",))
    assert submission.again(shlex.join(warmup.entrypoint)) == ["warmup", "experiment=quickstart"]
    assert submission.again(shlex.join(mine.entrypoint)) is None


@pytest.mark.parametrize(
    ("settings", "name", "makes"),
    [
        ([], "distill-distilled", "~/thinkless/runs/distilled"),
        (["distill.out=pairs"], "distill-pairs", "~/thinkless/pairs"),
        (["distill.out=/data/pairs"], "distill-pairs", "/data/pairs"),
    ],
)
def test_a_distillation_is_named_after_its_folder(settings: list[str], name: str, makes: str) -> None:
    """So that the same command again goes on there. What it names is sent: teachers, problems, evaluation sets."""
    words = ["distill", "data.path=a.jsonl", "distill.against=[b.jsonl,c.jsonl]", "distill.think.model=reasoner"]
    words += ["distill.short.endpoint=http://host/v1", "distill.short.key_env=KEY", *settings]
    one = submission.chosen(submission.read(words, NO_FLAGS), [])
    assert (one.name, one.makes, one.folder, one.keys) == (name, makes, None, ("KEY",))
    assert {*one.named} >= {"a.jsonl", "b.jsonl", "c.jsonl", "reasoner"}
    assert submission.again(shlex.join(one.entrypoint)) == words


def test_a_job_goes_on_from_the_address_of_a_runs_copies() -> None:
    """It is there, in run.root, that they are brought."""
    one = submission.read(["train", "resume=s3://bucket/runs/mine", "run.root=/data/runs"], NO_FLAGS)
    assert (one.name, one.folder) == ("mine", "/data/runs/mine")
    assert "resume=s3://bucket/runs/mine" in one.words


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], r"takes a command and its settings: quickstart, train, distill, warmup, evaluate$"),
        (["verify"], r"got verify$"),
        (
            ["train", "experiment=quickstart", "rollout.wokers=2"],
            r"unknown key 'rollout.wokers'; did you mean 'rollout.w",
        ),
        (["train", "experiment=quickstart", "learner.lr=3"], r"learner\.lr must be in \[1e-12, 1\), got 3"),
        (["train", "resume=gone", "run.stps=3"], r"unknown key 'run.stps'; did you mean 'run.steps'"),
        (["train"], r"model\.path"),
    ],
)
def test_settings_are_checked_before_anything_is_uploaded(words: list[str], message: str) -> None:
    with pytest.raises(BadConfig, match=message):
        submission.read(words, NO_FLAGS)


def test_files_that_settings_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made(tmp_path, "conf_of_mine/experiment/mine.yaml")
    (tmp_path / "conf_of_mine/experiment/mine.yaml").write_text("# @package _global_\nrun:\n  steps: 3\n")
    words = ["train", "experiment=mine", "model.path=my-model", "'data.path=[a.jsonl,b*.jsonl]'".strip("'")]
    words += ["reward.function=own.rewards:score", "warmup=none"]
    one = submission.read(words, Flags(config_dir="conf_of_mine"))
    assert {*one.named} >= {"my-model", "a.jsonl", "b*.jsonl", "own/rewards.py", "conf_of_mine"}
    assert one.words[:2] == ("--config-dir", "conf_of_mine") and one.steps == 3


def test_the_head_that_is_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    assert chosen_address(None) == ("http://127.0.0.1:8265", "the default")
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert chosen_address(None) == ("10.0.0.1:6379", "RAY_ADDRESS")
    assert chosen_address("http://head:1") == ("http://head:1", "--address")


# ---- hosts without the project ----


@pytest.mark.parametrize("gpu", [False, True])
def test_the_lock_as_a_runtime_environment(gpu: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every package of the lock with its version; short enough for one environment variable."""
    monkeypatch.delenv("UV_FIND_LINKS", raising=False)
    lock = (SOURCE / f"requirements-{'gpu' if gpu else 'cpu'}.lock").read_text()
    assert len(pinned(lock)) == sum(line[:1].isalnum() for line in lock.splitlines()) > 200
    uv, pip = install("uv", gpu), install("pip", gpu)
    assert uv["uv"]["packages"] == pip["pip"]["packages"] == pinned(lock)
    assert any(one.startswith("torch==2.") and one.endswith("+cpu") != gpu for one in pinned(lock))
    assert not any("\\" in one or "--hash" in one for one in pinned(lock)) and len(json.dumps(uv)) < 32768
    assert ("--torch-backend" in uv["uv"]["uv_pip_install_options"]) != gpu
    monkeypatch.setenv("UV_FIND_LINKS", "/wheels")  # torch is there: PyTorch's index is not asked, which may be far
    assert install("uv", gpu)["uv"]["uv_pip_install_options"] == ["--no-deps"]


def test_an_installation_without_a_lock_says_so(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"requirements-gpu\.lock, which is part of a checkout"):
        install("uv", True, tmp_path)


def test_of_a_failed_installation_the_cause_is_shown() -> None:
    from orchestrator.jobs.follow import cause

    ray = "setup failed: Traceback ...\n  File x, line 3\nUvError: cmd[5] failed.\nLast 50 lines of stdout:\n"
    assert cause(f"{ray}    error: no torch==9\n      cause: dns\n") == "error: no torch==9 cause: dns"
    assert cause(f"Traceback:\n{'x' * 900}\nValueError: at its end\n").endswith("x ValueError: at its end")


# ---- progress ----

RECORD = {
    "step": 12,
    "reward/mean": 0.31,
    "think_rate/all": 0.5,
    "rollout/tokens_per_s": 1234.0,
    "seconds/step": 2.0,
    "tokens/mean": 10.5,
}


def test_a_line_of_progress_is_read_back() -> None:
    line = plain_line(RECORD, 120, 75.0)
    assert parsed(line) == (RECORD, 120) and parsed(f"x {line}") is None and parsed("step=12 of them") is None
    log = f"begun\n{line}\nstep=15/120 validation_reward=+0.100\nreport: x\n"
    assert of_log(log) == Progress(12, 120, 0.5, 1234.0) and of_log("nothing\n") is None
    assert run_folder("run folder: /a b/c, going on from step 3\n") == "/a b/c" and run_folder("x") is None


def test_the_last_step_of_a_folder(tmp_path: Path) -> None:
    lines = [json.dumps(RECORD | {"step": step}) for step in range(1, 2000)]
    (tmp_path / "metrics.jsonl").write_text(
        "\n".join([*lines, '{"step": 1999, "validation/reward": 1}', '{"step": 20'])
    )
    assert of_folder(tmp_path, 3000) == Progress(1999, 3000, 0.5, 1234.0) and of_folder(tmp_path / "none") is None


def test_a_job_whose_run_was_resumed_tells_of_its_own_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "metrics.jsonl").write_text(json.dumps(RECORD) + "\n")
    folder, log = str(tmp_path), plain_line(RECORD | {"step": 5}, 120, 75.0)
    jobs = [job("a", status="STOPPED", folder=folder), job("a", "a.2", "RUNNING", folder=folder)]
    client = SimpleNamespace(list=lambda: jobs, logs={"a": log}.__getitem__, url="http://x")
    monkeypatch.setattr("orchestrator.jobs.client.connect", lambda address: client)
    list_jobs(Namespace(address=None))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:3] for line in lines[1:]] == [["a", "stopped", "5/120"], ["a.2", "running", "12/?"]]


def test_the_table_of_jobs() -> None:
    lines = table([(job("a", steps="9"), Progress(3, None, 0.25, 1234.5)), (job("b", "b.2", "RUNNING"), None)], 1e9 + 7)
    assert [line.split()[:5] for line in lines[1:]] == [
        ["a", "succeeded", "3/9", "25%", "1,234"],
        ["b.2", "running", "–", "–", "–"],
    ]
    assert lines[1].endswith("1:15") and lines[2].endswith("0:07")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_followed_log_is_a_table_on_a_terminal_and_itself_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    line = plain_line(RECORD, 120, 75.0)
    text = f"run folder: /x\n{line}\nnote: y\nno end"
    plain, terminal = io.StringIO(), Terminal()
    for file in (plain, terminal):
        screen = Screen(file)
        for at in range(0, len(text), 7):
            screen.write(text[at : at + 7])
        screen.close()
    shown = terminal.getvalue()
    assert plain.getvalue() == text
    assert "12/120" in shown and "+0.310" in shown and "step=12" not in shown
    assert shown.startswith("run folder: /x\n") and "note: y\n" in shown and "no end" in shown


def test_the_bar_of_a_followed_log_tells_what_the_log_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    """The log comes in pieces: many steps at once, and long after they were done."""
    monkeypatch.setenv("TERM", "xterm")
    file = Terminal()
    screen = Screen(file)
    screen.write("step=0/120 validation_reward=+0.100\n")
    screen.write("".join(plain_line(RECORD | {"step": step}, 120, 240.0 - step) + "\n" for step in range(1, 6)))
    screen.close()
    shown = file.getvalue()
    assert "3:55 left" in shown and "5/120" in shown and "-1/120" not in shown and "gone" not in shown
