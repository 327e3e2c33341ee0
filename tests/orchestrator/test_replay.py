"""Recorded steps: files round-trip bit for bit, and replaying a real run's steps gives the same results."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conf.compose import to_yaml
from conf.schema import Config, RunConf
from learner.metrics.efficiency import Efficiency
from learner.metrics.report import NonfiniteSequence, StepReport
from orchestrator.base.errors import RunError
from orchestrator.base.observer import FinishedStep
from orchestrator.commands import cli
from orchestrator.replay.compare import compare_reports, compare_trajectories, relative
from orchestrator.replay.recorder import Recorder
from orchestrator.replay.step_format import RecordedStep, read, recorded_steps, refuse_damage, write
from reward.group import Group, JudgedBatch
from reward.verdict import Failure, Outcome, Verdict
from rollout.base.errors import BadInput
from rollout.mode import MODES, ControlTokens
from rollout.prompt import Prompt
from rollout.trajectory import Finish, Trajectory
from tests.helpers.launched import Watched, one_line_error, succeeded, thinkless
from tests.helpers.runs import read_lines

CONTROL = ControlTokens(think=4, short=6, think_end=5, eos=1)
NAN = float("nan")


def same(one: Any, other: Any) -> bool:
    """Equal to the last bit, in type too; NaN is itself."""
    if type(one) is not type(other):
        return False
    if is_dataclass(one):
        return all(same(getattr(one, f.name), getattr(other, f.name)) for f in fields(one))
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
    if isinstance(one, (tuple, list)):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    return one == other or (isinstance(one, float) and math.isnan(one) and math.isnan(other))


# ---- any step round-trips ----

TEXT = st.text(max_size=12)
REAL = st.floats(allow_nan=True, allow_infinity=True)
I32 = st.integers(-(2**31), 2**31 - 1)


@st.composite
def steps(draw: st.DrawFn) -> RecordedStep:
    """Any step: groups that lost siblings or all of them, answers of all kinds, figures that are no numbers."""

    def array(length: int, dtype: type) -> np.ndarray:
        elements = st.floats(width=32) if dtype is np.float32 else I32
        return np.array(draw(st.lists(elements, min_size=length, max_size=length)), dtype)

    trajectories: list[Trajectory] = []
    groups: list[Group] = []
    for number in range(draw(st.integers(0, 3))):
        answer = draw(st.one_of(TEXT, st.lists(TEXT, max_size=3).map(tuple)))
        prompt = Prompt(
            f"{draw(TEXT)}/{number}", draw(TEXT), array(draw(st.integers(1, 5)), np.int32), answer, draw(TEXT),
            draw(st.none() | TEXT), draw(st.booleans()),
        )  # fmt: skip
        siblings = []
        for sibling in range(draw(st.integers(0, 3))):
            length = draw(st.integers(1, 6))
            siblings.append(
                Trajectory(
                    prompt,
                    sibling,
                    array(length, np.int32),
                    array(length, np.float32),
                    draw(st.sampled_from([*MODES, None])),
                    draw(st.sampled_from(Finish)),
                    array(length, np.int32),
                    draw(st.booleans()),
                )
            )
        trajectories += siblings
        judged = [one for one in siblings if draw(st.booleans())]
        verdicts = tuple(
            Verdict(draw(st.sampled_from(Outcome)), draw(st.none() | TEXT), draw(REAL), draw(st.none() | REAL))
            for _ in judged
        )
        failure = Failure(draw(TEXT), draw(st.none() | TEXT), draw(st.none() | TEXT), draw(TEXT))
        failed = (Verdict(Outcome.RAISED, None, draw(REAL), think_token=draw(st.booleans()), failure=failure),) * (
            len(siblings) - len(judged)
        )
        groups.append(Group(prompt, tuple(judged), verdicts, array(len(judged), np.float32), failed))
    offender = NonfiniteSequence(3, 0, "gradient", array(4, np.int32), -1, draw(REAL), draw(REAL))
    report = StepReport(
        draw(st.integers(0, 9)), 1, 7, draw(REAL), draw(REAL), nonfinite=(offender,) * draw(st.integers(0, 2)),
        memory=draw(st.none() | st.dictionaries(TEXT, REAL, max_size=2)), peak=draw(st.none() | REAL),
        efficiency=draw(st.none() | st.just(Efficiency(1.5, None, 0.25, None, 0.0, 1.0, 1.0))), loss=draw(REAL),
        kl=draw(REAL),
    )  # fmt: skip
    return RecordedStep(
        step=draw(st.integers(1, 2**40)),
        asked_for=draw(st.integers(0, 2**40)),
        seed=draw(I32),
        control=CONTROL,
        base=draw(TEXT),
        trajectories=tuple(trajectories),
        groups=tuple(groups),
        learnt=tuple(draw(st.booleans()) for _ in groups),
        report=draw(st.sampled_from([report, None])),
        metrics=draw(st.dictionaries(TEXT, st.none() | REAL | I32, max_size=4)),
        surroundings={"torch": "2", "cpu": draw(TEXT)},
        base_files={"model.safetensors": "0"},
    )


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(step=steps())
def test_a_recorded_step_is_read_back_equal(tmp_path_factory: pytest.TempPathFactory, step: RecordedStep) -> None:
    folder = tmp_path_factory.mktemp("step")
    write(folder, step)
    again = read(folder)
    assert same(step, again)
    places = {id(one): place for place, one in enumerate(again.trajectories)}
    assert all(id(one) in places for group in again.groups for one in group.trajectories)  # not copies
    shutil.rmtree(folder)


# ---- what is recorded when ----


def prompt(uid: str = "p/0") -> Prompt:
    return Prompt(uid, "1+1", np.array([2, 60, 3], np.int32), "2", "arithmetic", "2")


def trajectory(sibling: int = 0, uid: str = "p/0", version: int = 0, first: int = 6) -> Trajectory:
    ids = np.array([first, 7, 50 + sibling, 1], np.int32)
    logprobs = np.array([-0.5, -0.25, -1.5, -0.125], np.float32)
    return Trajectory(
        prompt(uid), sibling, ids, logprobs, CONTROL.mode_of(first), Finish.STOP, np.full(4, version, np.int32)
    )


def batch(version: int) -> JudgedBatch:
    trajectories = [trajectory(sibling, version=version) for sibling in range(3)]
    verdicts = (Verdict(Outcome.CORRECT, "2", 0.5), Verdict(Outcome.WRONG, None, 0.25))
    group = Group(
        trajectories[0].prompt,
        (*trajectories[:2],),
        verdicts,
        np.array([1, -1], np.float32),
        (Verdict(Outcome.CRASHED, None, 0.0),),
    )
    return JudgedBatch(trajectories, [group], [group])


class Learner:
    """Its weights are the number of updates."""

    def __init__(self) -> None:
        self.updates = 0
        self.saved: list[int] = []
        self.exported: list[int] = []
        self.disk: Callable[[Path], None] = lambda path: None

    def save(self, folder: str) -> None:
        self.disk(Path(folder) / "optimizer")
        (Path(folder) / "learner").write_text(str(self.updates))
        self.saved.append(self.updates)

    def export(self, folder: Path) -> None:
        folder.mkdir()
        (folder / "model.safetensors").write_text(str(self.updates))
        self.exported.append(self.updates)


def run(tmp_path: Path, record: list[int], steps: int, staleness: int = 0, begin: int = 0) -> Learner:
    """A run of `steps` steps; each batch was sampled `staleness` versions ago."""
    learner = Learner()
    learner.updates = begin
    conf = Config(run=RunConf(record=record, steps=steps, max_staleness=staleness, seed=5))
    recorder = Recorder(tmp_path, conf, learner, learner.export, CONTROL, "hub/model")
    recorder.begin(begin)
    for step in range(begin + 1, steps + 1):
        learner.updates += 1
        report = StepReport(step, 0, 30, 0.5, 1e-3, loss=step / 3)
        sampled = batch(max(step - 1 - staleness, begin))
        recorder.step(FinishedStep(step, sampled, report, {"reward/mean": step / 7}))
    return learner


def test_nothing_is_recorded_by_default(tmp_path: Path) -> None:
    learner = run(tmp_path, [], steps=3)
    assert not list(tmp_path.iterdir()) and not learner.saved and not learner.exported


def test_a_step_is_recorded_with_the_state_before_it(tmp_path: Path) -> None:
    learner = run(tmp_path, [1, 3], steps=4)
    assert recorded_steps(tmp_path) == [1, 3] and learner.saved == [0, 2] and learner.exported == [0, 2]
    assert sorted(path.name for path in (tmp_path / "recorded").iterdir()) == ["step_000001", "step_000003"]
    folder = tmp_path / "recorded" / "step_000003"
    assert (folder / "state" / "learner").read_text() == "2"
    assert (folder / "models" / "version_000002" / "model.safetensors").read_text() == "2"
    found = read(folder)
    assert (found.step, found.asked_for, found.seed, found.base) == (3, 2, 5, "hub/model")
    sampled = batch(2)
    assert same(found.trajectories, tuple(sampled.trajectories)) and same(found.groups, tuple(sampled.judged))
    assert found.learnt == (True,) and found.report and found.report.loss == 1.0
    assert found.metrics == {"reward/mean": 3 / 7} and "torch" in found.surroundings
    refuse_damage(folder, lambda name: True)


@pytest.mark.parametrize("staleness", [1, 2])
def test_a_record_has_the_weights_that_sampled_it(tmp_path: Path, staleness: int) -> None:
    """They were the learner's before it was known which versions would sample the step."""
    learner = run(tmp_path, [2, 6], steps=8, staleness=staleness)
    for step in (2, 6):
        model = tmp_path / "recorded" / f"step_{step:06d}" / "models"
        version = max(step - 1 - staleness, 0)
        assert [path.name for path in model.iterdir()] == [f"version_{version:06d}"]
        assert (model / f"version_{version:06d}" / "model.safetensors").read_text() == str(version)
    assert set(learner.exported) == {0, 1, *range(5 - staleness, 6)} and len(learner.exported) == staleness + 3
    assert not list((tmp_path / "recorded").glob(".*"))


def test_a_dynamically_sampled_batch_is_recorded_whole(tmp_path: Path) -> None:
    """Answers of the rounds too; groups that were thrown away are known as such."""
    learner = Learner()
    recorder = Recorder(tmp_path, Config(run=RunConf(record=[1])), learner, learner.export, CONTROL, "hub/model")
    recorder.begin(0)
    first = batch(0)
    more = trajectory(0, "p/1"), trajectory(1, "p/1")
    equal = Group(more[0].prompt, more, first.judged[0].verdicts, np.array([1, 1], np.float32))
    recorder.step(FinishedStep(1, replace(first, judged=[*first.judged, equal], rounds=1, asked=1), None, {}))
    found = read(tmp_path / "recorded" / "step_000001")
    assert same(found.trajectories, (*first.trajectories, *more)) and same(found.groups, (*first.judged, equal))
    assert found.learnt == (True, False) and found.report is None


def test_a_resumed_run_replaces_its_records(tmp_path: Path) -> None:
    """What a stopped run left half-written goes; a step that is done again replaces its record."""
    run(tmp_path, [3], steps=3)
    (tmp_path / "recorded" / ".step_000005.partial" / "state").mkdir(parents=True)
    (tmp_path / "recorded" / ".models" / "version_000004").mkdir(parents=True)
    run(tmp_path, [3, 4], steps=5, begin=2)
    assert sorted(path.name for path in (tmp_path / "recorded").iterdir()) == ["step_000003", "step_000004"]


def test_a_full_disk_costs_only_the_record(tmp_path: Path) -> None:
    def full(path: Path) -> None:
        with open("/dev/full", "w") as file:
            file.write("7" * 100_000)

    run(tmp_path, [1], steps=1)
    learner = Learner()
    learner.disk = full
    conf = Config(run=RunConf(record=[1, 2], steps=3))
    recorder = Recorder(tmp_path, conf, learner, learner.export, CONTROL, "hub/model")
    with pytest.raises(
        RunError, match=r"cannot record step 2 in .*No space left.*MiB free.*run.record=\[1, 2\]"
    ) as raised:
        recorder.begin(1)
    assert "\n" not in str(raised.value) and f"resume={tmp_path}" in str(raised.value)
    assert sorted(path.name for path in (tmp_path / "recorded").iterdir()) == ["step_000001"]
    assert read(tmp_path / "recorded" / "step_000001").step == 1


def test_damage_in_any_file_is_detected(tmp_path: Path) -> None:
    run(tmp_path, [1], steps=1)
    folder = tmp_path / "recorded" / "step_000001"
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "record.json"]
    assert {path.suffix for path in files} >= {".npz", ".jsonl", ".json", ".yaml", ".safetensors"}
    for path in files:
        content = path.read_bytes()
        for changed in (bytes([content[0] ^ 1]) + content[1:], content[:-1], None):
            path.unlink()
            if changed is not None:
                path.write_bytes(changed)
            with pytest.raises(BadInput, match=f"damaged: {path.relative_to(folder)} is"):
                refuse_damage(folder, lambda name: True)
            if path.parent == folder:
                with pytest.raises(BadInput, match="damaged"):
                    read(folder)
            path.write_bytes(content)
    read(folder)


# ---- compared ----


def test_equal_trajectories_compare_equal() -> None:
    ours = [trajectory(sibling) for sibling in range(3)]
    assert compare_trajectories([(t, trajectory(t.sibling, version=9)) for t in ours]) == (3, None, 0.0)


def test_the_first_difference_is_named() -> None:
    one = trajectory()
    near = np.array([-0.5, np.nextafter(np.float32(-0.25), np.float32(0)), -1.5, -0.125], np.float32)
    equal, first, gap = compare_trajectories([(one, one), (one, replace(one, behavior_logprobs=near)), (one, None)])
    assert equal == 1 and first and first.startswith("p/0, sibling 0, token 1: log-prob -0.24999") and 0 < gap < 1e-7
    other = replace(one, token_ids=np.array([6, 7, 99, 1], np.int32), behavior_logprobs=one.behavior_logprobs - 9)
    other.behavior_logprobs[:2] = one.behavior_logprobs[:2]
    assert compare_trajectories([(one, other)]) == (0, "p/0, sibling 0, token 2: id 99, recorded 50", 0.0)
    longer = replace(
        one,
        token_ids=np.append(one.token_ids, np.int32(8)),
        behavior_logprobs=np.append(one.behavior_logprobs, np.float32(0)),
        versions=np.zeros(5, np.int32),
    )
    assert compare_trajectories([(one, longer)])[1] == "p/0, sibling 0, token 4: id 8, recorded nothing"
    cut = replace(one, finish=Finish.LENGTH)
    assert compare_trajectories([(one, cut)])[1] == "p/0, sibling 0: finish length, recorded stop"
    assert compare_trajectories([(one, None)]) == (0, "p/0, sibling 0: not sampled", 0.0)


def test_every_figure_of_a_report_is_compared() -> None:
    report = StepReport(2, 0, 30, 0.5, 1e-3, loss=0.25, grad_norm=2.0)
    others = replace(report, seconds=9.0, memory={"learn": 1.0}, peak=1e12, bad_in_a_row=2)  # another machine
    assert all(found["relative"] == 0 for found in compare_reports(report, others).values())
    for name in compare_reports(report, report):
        value = getattr(report, name)
        change: dict[str, Any] = {name: value + 1 if value == value else 1.0}
        changed = replace(report, **change)
        apart = {key for key, found in compare_reports(report, changed).items() if found["relative"]}
        assert apart == {name}
    assert compare_reports(report, replace(report, grad_norm=2.5))["grad_norm"]["relative"] == 0.2
    assert compare_reports(report, None)["learnt"]["relative"] == 1
    assert compare_reports(None, None)["learnt"]["relative"] == 0
    assert relative(1e-9, 2e-9) < 1e-6 and relative(0.0, NAN) == relative(math.inf, 1.0) == math.inf


# ---- mistakes ----


@pytest.fixture
def failure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Iterator[Any]:
    """The error line of a rejected `thinkless replay`."""
    monkeypatch.chdir(tmp_path)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def call(*arguments: str) -> str:
        with pytest.raises(SystemExit) as ended:
            cli.main(["replay", *arguments])
        error = capfd.readouterr().err
        assert ended.value.code == 1 and error.count("thinkless: ") == 1 and "Traceback" not in error, error
        return error.strip()

    yield call
    for number, handler in handlers.items():
        signal.signal(number, handler)


def test_replay_has_help(failure: Any, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["replay", "--help"])
    assert ended.value.code == 0 and "part=sampling|learning" in capfd.readouterr().out


def test_mistakes_are_reported_in_one_line(failure: Any, tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "mine"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(to_yaml(Config()))
    assert "no run is there yet" in failure("run=mine", "run.root=elsewhere", "step=1", "part=learning")
    assert "runs there: mine" in failure("run=yours", "step=1", "part=learning")
    assert "has no recorded step" in failure("run=mine", "step=1", "part=learning")
    run(folder, [2, 4], steps=4)
    assert "step=3 is not recorded" in failure("run=mine", "step=3", "part=learning")
    assert failure("step=x", "part=learning").endswith("recorded steps: 2, 4")  # the newest run
    assert failure("run=mine").endswith("recorded steps: 2, 4")
    assert "part=sampling or part=learning, got part=both" in failure("run=mine", "step=2", "part=both")
    assert "repeat must be" in failure("run=mine", "step=2", "part=learning", "repeat=0")
    assert "out=no/where.json" in failure("run=mine", "step=2", "part=learning", "out=no/where.json")
    assert "'learner.ranks'" in failure("run=mine", "step=2", "part=learning", "learner.rank=2")
    assert "learner.ranks must be in [1, 1e5], got 0" in failure(
        "run=mine", "step=2", "part=learning", "learner.ranks=0"
    )
    assert "give run=<run>" in failure("run.name=mine", "step=2", "part=learning")
    assert "give step=<value>" in failure("run=mine", "stpe=2", "part=learning")
    assert "999 is not recorded" in failure("run=mine", f"step={'9' * 5000}", "part=learning")
    assert "repeat must be" in failure("run=mine", "step=2", "part=learning", f"repeat={'9' * 5000}")
    (folder / "recorded" / "step_000002" / "groups.jsonl").unlink()
    assert "damaged: groups.jsonl is missing" in failure("run=mine", "step=2", "part=learning")


def test_steps_to_record_lie_within_the_run() -> None:
    from conf.check import check
    from conf.errors import BadConfig

    for steps in ([101], [2, 101]):
        with pytest.raises(BadConfig, match=r"run.record=\[.*must lie within this run's steps, 1 to run.steps=100"):
            check(Config(run=RunConf(record=steps)), "train")


# ---- a real run ----

STEP = 3


@dataclass(frozen=True)
class Recording:
    folder: Path  # of the run
    environment: dict[str, dict[str, str]]  # part -> one in which what it must not import cannot be imported

    def replay(self, part: str, *arguments: str, run: Path | None = None) -> Watched:
        return thinkless(
            "replay",
            f"run={run or self.folder}",
            f"part={part}",
            *([] if any(a.startswith("step=") for a in arguments) else [f"step={STEP}"]),
            *arguments,
            folder=self.folder.parents[1],
            environment=self.environment[part],
        )

    def figures(self, part: str, run: Path | None = None) -> Any:
        return json.loads(((run or self.folder) / f"recorded/step_{STEP:06d}/replay_{part}.json").read_text())


@pytest.fixture(scope="module")
def recording(members: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Recording:
    folder = tmp_path_factory.mktemp("without")
    environment = {}
    for part, library in (("sampling", "deepspeed"), ("learning", "vllm")):
        (folder / part / library).mkdir(parents=True)
        (folder / part / library / "__init__.py").write_text(f"raise ImportError('{part} imports {library}')\n")
        environment[part] = {
            "PYTHONPATH": os.pathsep.join(filter(None, [str(folder / part), os.environ.get("PYTHONPATH")]))
        }
    return Recording(members[0], environment)


def test_a_run_records_the_requested_steps(recording: Recording) -> None:
    assert recorded_steps(recording.folder) == [1, STEP] and not list((recording.folder / "recorded").glob(".*"))
    folder = recording.folder / "recorded" / f"step_{STEP:06d}"
    found = read(folder)
    metrics = read_lines(recording.folder / "metrics.jsonl")
    (line,) = [line for line in metrics if line["step"] == STEP and "seconds/step" in line]
    assert found.metrics.items() <= line.items() and found.report and found.report.loss == line["loss/total"]
    assert len(found.trajectories) == 16 and len(found.groups) == 4 and all(found.learnt)
    versions = {int(v) for t in found.trajectories for v in t.versions}
    assert versions <= {STEP - 2, STEP - 1}
    models = {path.name for path in (folder / "models").iterdir()}
    assert models == {f"version_{version:06d}" for version in versions}
    for model in models:
        assert {"config.json", "model.safetensors", "tokenizer.json"} <= {
            path.name for path in (folder / "models" / model).iterdir()
        }


def test_replayed_sampling_is_bit_equal(recording: Recording) -> None:
    """Every token and log-prob, to the last bit, without DeepSpeed."""
    done = succeeded(recording.replay("sampling", "repeat=2"))
    assert "32 of 32 trajectories equal, bit for bit (16, 2 times)" in done.out and "tokens/s" in done.out
    figures = recording.figures("sampling")
    assert figures["equal"] and figures["must_be_equal"] and figures["left_out"] == 0
    assert len(figures["seconds"]) == 2 and figures["tokens"] > 16


def test_replayed_learning_is_bit_equal(recording: Recording) -> None:
    """Every figure of the report, to the last bit, without vLLM; the recorded state each time."""
    done = succeeded(recording.replay("learning", "repeat=2"))
    figures = recording.figures("learning")
    assert figures["equal"] and figures["must_be_equal"] and len(figures["figures"]) > 20, done.out
    recorded = read(recording.folder / "recorded" / f"step_{STEP:06d}").report
    assert recorded and figures["figures"]["grad_norm"]["now"] == recorded.grad_norm > 0
    assert "loss" in done.out and "equal" in done.out and len(figures["seconds"]) == 2


@pytest.mark.bench
def test_other_settings_are_compared_within_a_tolerance(recording: Recording) -> None:
    done = succeeded(recording.replay("learning", "learner.ranks=1", "learner.max_tokens=1500", "out=other.json"))
    assert "learner.ranks=1 (was 2)" in done.out and "learner.max_tokens=1500 (was 8192)" in done.out
    figures = json.loads((recording.folder.parents[1] / "other.json").read_text())
    assert figures["within_tolerance"] and not figures["must_be_equal"]
    assert figures["figures"]["tokens"]["relative"] == 0


@pytest.mark.bench
@pytest.mark.parametrize("part", ["sampling", "learning"])
def test_a_replay_that_differs_is_reported(recording: Recording, tmp_path: Path, part: str) -> None:
    """A record whose files are whole but tell of other answers: exit status 1, and where. What was sampled across a
    push is left out."""
    run = tmp_path / "forged"
    shutil.copytree(recording.folder, run)
    folder = run / "recorded" / "step_000001"
    found = read(folder)
    first, second, third, *rest = found.trajectories
    ids = second.token_ids.copy()
    ids[-1] ^= 1
    mixed = third.versions.copy()
    mixed[-1] += 1
    trajectories = (first, replace(second, token_ids=ids), replace(third, versions=mixed), *rest)
    groups = tuple(replace(group, rewards=-2 * group.rewards) for group in found.groups)
    write(folder, replace(found, trajectories=trajectories, groups=groups))

    done = recording.replay(part, "step=1", run=run)
    line = one_line_error(done)
    assert f"{part} of step 1 does not give what was recorded" in line and f"replay_{part}.json" in line
    if part == "sampling":
        assert "14 of 15 trajectories equal" in done.out and "1 of 16 trajectories cannot be repeated" in done.out
        assert f"{second.prompt.uid}, sibling 1, token {len(ids) - 1}" in done.out


def test_trajectories_that_cannot_be_repeated_are_reported(recording: Recording, tmp_path: Path, failure: Any) -> None:
    """Nothing is started for it."""
    run = tmp_path / "across"
    shutil.copytree(recording.folder, run)
    folder = run / "recorded" / "step_000001"
    found = read(folder)
    every = [replace(t, versions=np.arange(len(t.versions), dtype=np.int32)) for t in found.trajectories]
    write(folder, replace(found, trajectories=tuple(every)))
    assert "none of its 16 trajectories" in failure(f"run={run}", "step=1", "part=sampling")


def test_a_missing_initial_model_is_reported(recording: Recording, tmp_path: Path, failure: Any) -> None:
    run = tmp_path / "moved"
    shutil.copytree(recording.folder, run)
    folder = run / "recorded" / "step_000001"
    write(folder, replace(read(folder), base=str(tmp_path / "gone")))
    line = failure(f"run={run}", "step=1", "part=learning")
    assert "model.safetensors" in line and "is not there any more: give model.path=" in line
