"""thinkless replay: a recorded step run again, its sampling alone or its learning alone, and compared with the record.

In: a step that `run.record` recorded. Out: lines that say what is equal and how fast it was, the same as JSON; RunError
when the same settings gave something else. Must not know: rewards, how a step is recorded.

Each part brings up its own actors only: sampling needs no DeepSpeed, learning no vLLM.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from enum import Enum
from pathlib import Path
from typing import Any

from conf.errors import brief
from conf.schema import Config, Device, Dtype
from conf.settings import all_keys, settings
from orchestrator.base.errors import RunError
from orchestrator.base.files import write_json
from orchestrator.replay.compare import compare_reports, compare_trajectories
from orchestrator.replay.step_format import (
    CONFIG,
    FOLDER,
    MODELS,
    STATE,
    RecordedStep,
    digest,
    read,
    recorded_steps,
    refuse_damage,
    step_name,
    surroundings,
    version_name,
)
from orchestrator.training import run_dir as run_folders
from rollout.base.errors import BadInput
from rollout.trajectory import Trajectory

PARTS = ("sampling", "learning")
NAMES = ("run", "step", "part", "repeat", "out")
DECIDES = {  # settings that a part's result follows from
    "sampling": ("run.seed", "model.", "rollout."),
    "learning": ("run.steps", "model.", "learner.", "algorithm.", "rollout.temperature", "rollout.max_response_tokens"),
}
TOLERANCE = {Dtype.float32: 1e-5, Dtype.bfloat16: 1e-2}  # relative, of loss and gradient norm; bfloat16: not measured
CLOSE = {Dtype.float32: 1e-3, Dtype.bfloat16: 2.0}  # nats, of log-probs before the first token that differs
CHECKED = ("loss", "grad_norm")


@dataclass(frozen=True, slots=True)
class Arguments:
    folder: Path  # of the record
    part: str
    repeat: int
    out: Path


@dataclass(slots=True)
class Outcome:
    """What a replay found; the JSON file holds it as it is."""

    equal: bool = False  # bit for bit
    close: bool = False  # within the tolerance
    seconds: list[float] = field(default_factory=list)  # of each repetition
    tokens: int = 0  # of one repetition: sampled ones; learning: prompts included
    found: dict[str, Any] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)


def main(given: Mapping[str, str], overrides: list[str]) -> None:
    """given: run, step, part, repeat and out, as far as they were given; overrides: settings that differ from the
    record's."""
    from conf.check import check
    from conf.compose import from_file

    arguments = _arguments(given, overrides)
    saved = from_file(arguments.folder / CONFIG, [])
    conf = from_file(arguments.folder / CONFIG, overrides)
    check(replace(conf, warmup=None), "replay")  # no part of a step
    replay(arguments, saved, conf)


def replay(arguments: Arguments, saved: Config, conf: Config) -> None:
    """Run the part, print and write what it gave. Raises RunError when it should be equal and is not."""
    recorded = read(arguments.folder)
    changed = _changed(saved, conf, DECIDES[arguments.part])
    now = surroundings()
    elsewhere = [
        f"{name} {now.get(name, 'missing')} (was {was})"
        for name, was in recorded.surroundings.items()
        if now.get(name) != was
    ]
    samples = arguments.part == "sampling"
    device, threads = (conf.rollout.device, conf.rollout.threads) if samples else (conf.learner.device, 1)
    exact = not changed and not elsewhere and device is Device.cpu and threads == 1
    print(f"{arguments.part} of the recorded step {recorded.step}, {arguments.folder}", flush=True)
    for title, differences in (("other settings", changed), ("recorded elsewhere", elsewhere)):
        if differences:
            print(f"  {title}: {', '.join(differences)}", flush=True)
    outcome = (_sample if samples else _learn)(arguments, recorded, conf, changed)
    for number, seconds in enumerate(outcome.seconds, start=1):
        outcome.lines.append(
            f"{number}: {seconds:.3f} s, {outcome.tokens:,} tokens, {outcome.tokens / seconds:,.0f} tokens/s"
        )
    print(*(f"  {line}" for line in outcome.lines), sep="\n", flush=True)
    figures = {
        "part": arguments.part,
        "step": recorded.step,
        "equal": outcome.equal,
        "within_tolerance": outcome.close,
        "must_be_equal": exact,
        "other_settings": changed,
        "recorded_elsewhere": elsewhere,
        "seconds": outcome.seconds,
        "tokens": outcome.tokens,
        "tokens_per_s": [outcome.tokens / seconds for seconds in outcome.seconds],
        **outcome.found,
    }
    write_json(arguments.out, figures)
    print(f"written to {arguments.out}", flush=True)
    if not changed and not (outcome.equal if exact else outcome.close):
        raise RunError(
            f"{arguments.part} of step {recorded.step} does not give what was recorded"
            f"{'' if exact else ', beyond the tolerance'}: see the lines above and {arguments.out}"
        )


# ---- the two parts ----


def _sample(arguments: Arguments, recorded: RecordedStep, conf: Config, changed: list[str]) -> Outcome:
    from orchestrator.cluster.cluster import Cluster, started
    from orchestrator.cluster.object_store import sized
    from orchestrator.cluster.parts import make_sampler
    from rollout.request import SamplingParams

    by_version: dict[int, list[Trajectory]] = {}
    for one in recorded.trajectories:
        if one.versions[0] == one.versions[-1]:  # they never go down
            by_version.setdefault(int(one.versions[0]), []).append(one)
    kept = {v: ours for v, ours in by_version.items() if (arguments.folder / MODELS / version_name(v)).is_dir()}
    left_out = len(recorded.trajectories) - sum(map(len, kept.values()))
    if not kept:
        raise RunError(
            f"sampling of step {recorded.step} cannot be repeated: none of its {left_out} trajectories was sampled by "
            "one version of the weights that was kept (weights came in flight)"
        )
    refuse_damage(arguments.folder, lambda name: name.startswith(f"{MODELS}/"))
    rollout = conf.rollout
    sampling = SamplingParams.training(rollout)
    outcome = Outcome(seconds=[0.0] * arguments.repeat)
    pairs: list[tuple[Trajectory, Trajectory | None]] = []
    with Cluster(sized(conf)) as cluster:
        for version, ours in sorted(kept.items()):
            path = str(arguments.folder / MODELS / version_name(version))
            here = replace(conf, model=replace(conf.model, revision=None))
            sampler = make_sampler(cluster, here, path, recorded.control, sampling)
            started(sampler.workers, "ready", rollout.start_timeout_s)
            prompts = list({t.prompt.uid: t.prompt for t in ours}.values())
            for repetition in range(arguments.repeat):
                begin = time.monotonic()
                again = sampler.sample(prompts, rollout.group_size, recorded.asked_for).wait()
                outcome.seconds[repetition] += time.monotonic() - begin
                places = {(t.prompt.uid, t.sibling): t for t in again}
                pairs += [(one, places.get((one.prompt.uid, one.sibling))) for one in ours]
            outcome.tokens += sum(len(t.token_ids) for t in again)
            cluster.release(sampler.workers)
    compared = len(pairs) // arguments.repeat
    equal, first, gap = compare_trajectories(pairs)
    outcome.equal, outcome.close = equal == len(pairs), gap <= CLOSE[conf.model.dtype]
    times = f" ({compared}, {arguments.repeat} times)" if arguments.repeat > 1 else ""
    versions = f"weights of version {', '.join(map(str, sorted(kept)))}"
    outcome.lines.append(f"{equal} of {len(pairs)} trajectories equal, bit for bit{times}; {versions}")
    if first:
        outcome.lines.append(f"first difference: {first}")
        outcome.lines.append(f"largest difference of log-probs before a token that differs: {gap:.3g} nats")
    if left_out:
        outcome.lines.append(
            f"{left_out} of {len(recorded.trajectories)} trajectories cannot be repeated bit for bit: their tokens "
            "have several weight versions (weights came in flight), or one that was not kept"
        )
    outcome.found = {"trajectories": compared, "equal_trajectories": equal, "left_out": left_out}
    outcome.found |= {"versions": sorted(kept), "first_difference": first, "largest_difference_nats": gap}
    return outcome


def _learn(arguments: Arguments, recorded: RecordedStep, conf: Config, changed: list[str]) -> Outcome:
    from orchestrator.cluster.cluster import Cluster
    from orchestrator.cluster.object_store import sized
    from orchestrator.cluster.parts import make_learner, start_learner

    moved = next((key for key in changed if key.startswith("model.path=")), None)
    path = conf.model.path if moved and conf.model.path else recorded.base
    if path == recorded.base:
        _refuse_other_base(recorded)
    refuse_damage(arguments.folder, lambda name: name.startswith(f"{STATE}/"))
    updates = conf.run.steps * conf.algorithm.optimizer_steps
    outcome, reports = Outcome(), []
    with Cluster(sized(conf)) as cluster:
        learner = make_learner(cluster, conf, conf.learner, path, conf.rollout.temperature, updates)
        start_learner(learner, conf)
        groups = [group for group, learnt in zip(recorded.groups, recorded.learnt, strict=True) if learnt]
        batches = learner.pack(groups, conf.algorithm, conf.rollout.max_response_tokens)
        for _ in range(arguments.repeat):
            learner.load(str(arguments.folder / STATE))
            begin = time.monotonic()
            reports.append(learner.apply(batches, conf.algorithm))
            outcome.seconds.append(time.monotonic() - begin)
    outcome.tokens = sum(batch.tokens for batch in batches)
    compared = [compare_reports(recorded.report, report) for report in reports]
    worst = {name: max((one[name] for one in compared), key=lambda found: found["relative"]) for name in compared[0]}
    same = sum(found["relative"] == 0 for found in worst.values())
    outcome.equal = same == len(worst)
    outcome.close = all(worst[name]["relative"] <= TOLERANCE[conf.model.dtype] for name in CHECKED if name in worst)
    informative = sum(g.informative for g, learnt in zip(recorded.groups, recorded.learnt, strict=True) if learnt)
    outcome.lines.append(f"{informative} informative of {len(recorded.groups)} groups, {len(batches)} optimizer steps")
    for name in [name for name in CHECKED if name in worst]:
        found = worst[name]
        verdict = f"relative difference {found['relative']:.2e}" if found["relative"] else "equal"
        outcome.lines.append(f"{name} {found['now']:.9g}, recorded {found['recorded']:.9g}: {verdict}")
    outcome.lines.append(f"{same} of {len(worst)} figures equal, bit for bit")
    if not outcome.equal:
        name = max(worst, key=lambda name: worst[name]["relative"])
        outcome.lines.append(f"largest relative difference: {worst[name]['relative']:.2e}, {name}")
    outcome.found = {"figures": worst}
    return outcome


def _refuse_other_base(recorded: RecordedStep) -> None:
    """The model that training began with lies where it lay, unless it is a hub's."""
    base = Path(recorded.base)
    for name, written in recorded.base_files.items():
        path = base / name
        if not path.is_file() or digest(path) != written:
            state = "has changed" if path.is_file() else "is not there any more"
            raise BadInput(f"{path}, of the model that the run began with, {state}: give model.path=<where it is now>")


# ---- arguments ----


def _arguments(given: Mapping[str, str], overrides: list[str]) -> Arguments:
    """Raises BadInput for a step that was not recorded, and for arguments that do not exist or make no sense."""
    for key in [a.partition("=")[0] for a in overrides]:
        meant = "run" if key in ("run.name", "resume") else next(iter(get_close_matches(key, NAMES, 1)), None)
        if meant and (meant == "run" or key not in all_keys()):
            raise BadInput(f"replay takes no {key}: give {meant}=<{'run' if meant == 'run' else 'value'}>")
    run = run_folders.find(given["run"], overrides) if "run" in given else run_folders.newest(overrides, "run")
    there = recorded_steps(run)
    if not there:
        raise BadInput(f"{run} has no recorded step: a run with run.record=[2,10] records steps 2 and 10")
    known = ", ".join(map(str, there))
    step = next((number for number in there if str(number) == given.get("step")), None)
    if step is None:
        said = f"step={given['step']} is not recorded in {run}" if "step" in given else f"give step=<step> of {run}"
        raise BadInput(brief(f"{said}; recorded steps: {known}"))
    if given.get("part") not in PARTS:
        either = " or ".join(f"part={part}" for part in PARTS)
        got = f", got part={given['part']}" if "part" in given else ""
        raise BadInput(f"give {either}{got}")
    repeat = given.get("repeat", "1")
    if not re.fullmatch("[1-9][0-9]{0,5}", repeat):
        raise BadInput(brief(f"repeat must be a number of times in [1, 999999], got {repeat}"))
    folder = run / FOLDER / step_name(step)
    out = Path(given.get("out") or folder / f"replay_{given['part']}.json").expanduser()
    if not out.absolute().parent.is_dir():
        raise BadInput(f"out={out}: there is no such folder")
    return Arguments(folder, given["part"], int(repeat), out)


def _changed(saved: Config, conf: Config, decisive: tuple[str, ...]) -> list[str]:
    """["learner.max_tokens=4096 (was 8192)", ...] of the settings that a result follows from."""
    found = []
    for key, setting in settings().items():
        was, value = setting.of(saved), setting.of(conf)
        if value != was and key.startswith(decisive):
            was, value = (one.value if isinstance(one, Enum) else one for one in (was, value))
            found.append(f"{key}={value} (was {was})")
    return found
