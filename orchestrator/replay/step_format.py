"""A recorded step on disk: what it consumed and produced, in plain files, read back bit for bit.

In: a `RecordedStep`. Out: a folder, and the step again. Must not know: when a step is recorded, how it is run again.

    record.json          step, seed, control tokens, base model, versions of packages, every file's size and digest
    config.yaml          the configuration of the step
    prompts.jsonl        uid, problem, gold answer, source, level
    trajectories.jsonl   prompt (line), sibling, mode, finish, forced
    groups.jsonl         prompt (line), trajectories (lines), verdicts, failed (without a verdict), learnt
    arrays.npz           prompt_ids, token_ids, versions i32, logprobs, rewards f32, row after row; their lengths
    report.json          the learner's StepReport, null when there was nothing to learn
    metrics.json         the step's record, as in metrics.jsonl
    state/               the learner before the update, as in a checkpoint
    models/version_*/    Hugging Face folders with tokenizer: the weights that sampled, one for each version
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import platform
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from enum import Enum
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from learner.metrics.efficiency import Efficiency
from learner.metrics.report import NonfiniteSequence, StepReport
from orchestrator.base.files import write_json
from orchestrator.base.record import read_record, write_record
from orchestrator.tracking.metrics import with_current_names
from reward.group import Group
from reward.verdict import Failure, Outcome, Verdict
from rollout.base.errors import BadInput
from rollout.mode import MODES, ControlTokens, Mode
from rollout.prompt import Prompt
from rollout.trajectory import Finish, Trajectory

FOLDER, FORMAT, READABLE = "recorded", 2, (1, 2)
FACTS, CONFIG, STATE, MODELS = "record.json", "config.yaml", "state", "models"
PROMPT_FIELDS = ("uid", "problem", "answer", "source", "level", "all_answers")
FORMER_FIELDS = {"effort": "efficiency", "offenders": "nonfinite"}  # of report.json
TRAJECTORY_FIELDS = ("sibling", "mode", "finish", "forced")
STEP_FIELDS = ("step", "asked_for", "seed", "base", "surroundings", "base_files")


@dataclass(frozen=True, slots=True, eq=False)
class RecordedStep:
    """One training step: `step` finished steps after it, `step` - 1 before."""

    step: int
    asked_for: int  # the step number that the seeds of its trajectories follow from
    seed: int  # of the run
    control: ControlTokens
    base: str  # model that training began with: a folder, or a hub id; also the KL term's reference
    trajectories: tuple[Trajectory, ...]  # of the batch, those without a verdict included
    groups: tuple[Group, ...]  # all that were judged, of these very trajectories
    learnt: tuple[bool, ...]  # of each group: whether it was learnt from (dynamic sampling drops some)
    report: StepReport | None
    metrics: dict[str, float | int | None]
    surroundings: dict[str, str]  # package -> version, and "cpu"
    base_files: dict[str, str]  # weights file of the base folder -> digest; empty for a hub id


def step_name(step: int) -> str:
    return f"step_{step:06d}"


def version_name(version: int) -> str:
    return f"version_{version:06d}"


def recorded_steps(run_folder: Path) -> list[int]:
    """Steps with a complete record, in order."""
    found = (re.fullmatch(r"step_(\d+)", path.parent.name) for path in (run_folder / FOLDER).glob(f"step_*/{FACTS}"))
    return sorted(int(m.group(1)) for m in found if m)


def write(folder: Path, recorded: RecordedStep) -> None:
    """Write a step into `folder`, and the size and digest of all that it then holds."""
    prompts = {p.uid: p for p in (*(t.prompt for t in recorded.trajectories), *(g.prompt for g in recorded.groups))}
    line_of = {uid: line for line, uid in enumerate(prompts)}
    place_of = {(t.prompt.uid, t.sibling): place for place, t in enumerate(recorded.trajectories)}
    about_prompts = [{name: getattr(p, name) for name in PROMPT_FIELDS} for p in prompts.values()]
    _write_lines(folder / "prompts.jsonl", about_prompts)
    about = [{name: getattr(t, name) for name in TRAJECTORY_FIELDS} for t in recorded.trajectories]
    lines = [{"prompt": line_of[t.prompt.uid], **rest} for t, rest in zip(recorded.trajectories, about, strict=True)]
    _write_lines(folder / "trajectories.jsonl", lines)
    groups = [
        {
            "prompt": line_of[g.prompt.uid],
            "trajectories": [place_of[t.prompt.uid, t.sibling] for t in g.trajectories],
            "verdicts": [asdict(v) for v in g.verdicts],
            "failed": [asdict(v) for v in g.failed],
            "learnt": learnt,
        }
        for g, learnt in zip(recorded.groups, recorded.learnt, strict=True)
    ]
    _write_lines(folder / "groups.jsonl", groups)
    np.savez(
        folder / "arrays.npz",
        prompt_lengths=np.array([len(p.token_ids) for p in prompts.values()], np.int64),
        prompt_ids=_joined([p.token_ids for p in prompts.values()], np.int32),
        lengths=np.array([len(t.token_ids) for t in recorded.trajectories], np.int64),
        token_ids=_joined([t.token_ids for t in recorded.trajectories], np.int32),
        logprobs=_joined([t.behavior_logprobs for t in recorded.trajectories], np.float32),
        versions=_joined([t.versions for t in recorded.trajectories], np.int32),
        rewards=_joined([g.rewards for g in recorded.groups], np.float32),
    )
    write_json(folder / "report.json", asdict(recorded.report) if recorded.report else None, _plain)
    write_json(folder / "metrics.json", recorded.metrics, _plain)
    facts = {name: getattr(recorded, name) for name in STEP_FIELDS}
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != FACTS)
    digests = {str(path.relative_to(folder)): [path.stat().st_size, digest(path)] for path in files}
    record = {"format": FORMAT, **facts, "control": asdict(recorded.control), "files": digests}
    write_record(folder / FACTS, record, _plain)


def read(folder: Path) -> RecordedStep:
    """The step that `write` wrote there. Raises BadInput when a file of it is missing or not as it was written."""
    facts = _facts(folder)
    if facts.get("format") not in READABLE:
        raise BadInput(f"{folder / FACTS}: format {facts.get('format')} is none of {READABLE}: record the step again")
    refuse_damage(folder, lambda name: "/" not in name)
    with np.load(folder / "arrays.npz") as file:
        arrays = dict(file)
    ids = _rows(arrays["prompt_ids"], arrays["prompt_lengths"])
    prompts = []
    for token_ids, line in zip(ids, _read_lines(folder / "prompts.jsonl"), strict=True):
        answer = tuple(line["answer"]) if isinstance(line["answer"], list) else line["answer"]
        prompts.append(Prompt(**{**line, "token_ids": token_ids, "answer": answer}))
    columns = [_rows(arrays[name], arrays["lengths"]) for name in ("token_ids", "logprobs", "versions")]
    control = _control(facts["control"])
    by_name = {mode.name: mode for mode in control.modes}
    trajectories = []
    for line, token_ids, logprobs, versions in zip(_read_lines(folder / "trajectories.jsonl"), *columns, strict=True):
        mode = None if line["mode"] is None else by_name[line["mode"]]
        prompt, finish = prompts[line["prompt"]], Finish(line["finish"])
        trajectories.append(
            Trajectory(prompt, line["sibling"], token_ids, logprobs, mode, finish, versions, line["forced"])
        )
    lines = _read_lines(folder / "groups.jsonl")
    rewards = _rows(arrays["rewards"], np.array([len(line["trajectories"]) for line in lines], np.int64))
    groups = tuple(
        Group(
            prompts[line["prompt"]],
            tuple(trajectories[place] for place in line["trajectories"]),
            tuple(map(_verdict, line["verdicts"])),
            of_group,
            _failed(line),
        )
        for line, of_group in zip(lines, rewards, strict=True)
    )
    report = _load(folder / "report.json")
    return RecordedStep(
        **{name: facts[name] for name in STEP_FIELDS},
        control=control,
        trajectories=tuple(trajectories),
        groups=groups,
        learnt=tuple(line["learnt"] for line in lines),
        report=None if report is None else _report(report),
        metrics=with_current_names(_load(folder / "metrics.json")),
    )


def refuse_damage(folder: Path, chosen: Callable[[str], bool]) -> None:
    """BadInput unless all files whose names are `chosen` are as they were written."""
    for name, (size, written) in _facts(folder)["files"].items():
        path = folder / name
        if chosen(name) and not (path.is_file() and path.stat().st_size == size and digest(path) == written):
            wrong = "is not as it was written" if path.is_file() else "is missing"
            raise BadInput(f"the record {folder} is damaged: {name} {wrong}; record the step again")


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def surroundings() -> dict[str, str]:
    """What else decides on a result's last bit: versions of packages, the kind of CPU."""
    from orchestrator.training.run_dir import PACKAGES

    found: dict[str, str] = {}
    for name in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    cpu = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    return {**found, "cpu": cpu.group(1).strip() if cpu else platform.machine()}


def _verdict(line: dict[str, Any]) -> Verdict:
    failure = Failure(**line["failure"]) if line.get("failure") else None
    return Verdict(**{**line, "outcome": Outcome(line["outcome"]), "failure": failure})


def _failed(line: dict[str, Any]) -> tuple[Verdict, ...]:
    """A group's responses without a verdict. Format 1 has only their number: how each failed is not known."""
    if "unjudged" in line:
        return (Verdict(Outcome.CRASHED, None, 0.0),) * line["unjudged"]
    return tuple(map(_verdict, line["failed"]))


def _control(facts: dict[str, Any]) -> ControlTokens:
    between = tuple((name, one) for name, one in facts.get("between", ()))
    return ControlTokens(**{**facts, "other_ends": tuple(facts.get("other_ends", ())), "between": between})


def _report(line: dict[str, Any]) -> StepReport:
    line = {FORMER_FIELDS.get(name, name): value for name, value in line.items()}
    if "loss_by_mode" not in line:  # there were two
        line["loss_by_mode"] = {mode.name: line.pop(f"loss_{mode.name}") for mode in MODES}
    line["efficiency"] = None if line["efficiency"] is None else Efficiency(**line["efficiency"])
    nonfinite = [{**one, "token_ids": np.array(one["token_ids"], np.int32)} for one in line["nonfinite"]]
    return StepReport(**{**line, "nonfinite": tuple(NonfiniteSequence(**one) for one in nonfinite)})


def _joined(parts: Sequence[np.ndarray], dtype: type) -> np.ndarray:
    for part in parts:
        assert part.dtype == dtype, f"{part.dtype} is not {dtype}"  # a conversion would not be noticed
    return np.concatenate(parts) if parts else np.empty(0, dtype)


def _rows(values: np.ndarray, lengths: np.ndarray) -> list[np.ndarray]:
    return np.split(values, np.cumsum(lengths)[:-1]) if len(lengths) else []


def _facts(folder: Path) -> dict[str, Any]:
    return read_record(folder / FACTS, "record the step again")


def _load(path: Path) -> Any:
    """Raises BadInput when it cannot be read."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise BadInput(f"the record {path.parent} is damaged: {path.name} cannot be read ({error})") from error


def _write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row, default=_plain) + "\n" for row in rows))


def _read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def _plain(value: Any) -> Any:
    """What JSON does not know. (Numbers that are not finite it writes as Python does: NaN, Infinity.)"""
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, Mode):
        return value.name
    if isinstance(value, Enum):
        return value.value
    raise TypeError(f"{value!r} does not fit a record")
