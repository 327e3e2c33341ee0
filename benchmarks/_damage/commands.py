"""Every command that reads a run folder, as far as it goes without Ray, in this process.

In: a run folder. Out: what the command shows or leaves, as text. Must not know: what was damaged.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

from benchmarks._damage.folder import CHECKPOINT, EVALUATED, FILES, OTHER, STEPS, more_steps
from conf.errors import BadConfig
from orchestrator.base.errors import RunError
from orchestrator.base.journal import Journal, Key
from orchestrator.base.lock import locked
from orchestrator.base.record import readable
from orchestrator.commands import chat, cli, train
from orchestrator.commands.warmup import kept_bound
from orchestrator.evaluation.answers import Answer
from orchestrator.jobs.progress import of_folder
from orchestrator.sweeps.members import finished
from orchestrator.sweeps.results import write_outcome
from orchestrator.sweeps.state import load
from orchestrator.tracking.chrome_trace import Trace
from orchestrator.tracking.results import read_config, result_lines, serving_lines
from orchestrator.tracking.serving import serve_command
from orchestrator.tracking.tracker import Tracker
from orchestrator.training import run_dir
from orchestrator.training.unjudged import UnjudgedLog
from orchestrator.watch.answers import Answers, Wanted
from orchestrator.watch.index import Index
from orchestrator.watch.terminal import screen
from orchestrator.watch.views import answers, overview, templates, timeline
from rollout.base.errors import BadInput
from tests.helpers.watched import BEGAN

OURS = (BadConfig, BadInput, RunError, OSError)  # which the command line prints as one line
NOW = BEGAN + 1000.0


class Reached(Exception):
    """The command would start Ray now."""


@contextlib.contextmanager
def without_ray() -> Iterator[None]:
    def reached(conf: Any) -> Any:
        raise Reached

    before, train.Cluster = train.Cluster, reached  # type: ignore[assignment, misc]
    try:
        yield
    finally:
        train.Cluster = before  # type: ignore[misc]


def printed(*words: Any) -> str:
    """What `thinkless` prints on stdout."""
    command, *arguments = words
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
        cli.run(command, [*map(str, arguments)])
    return out.getvalue()


def reported(folder: Path) -> str:
    printed("report", f"run.name={folder}")
    return (folder / "report.html").read_text()


def watched(folder: Path) -> str:
    index = Index([folder])
    index.refresh(None)
    made = templates()
    parts = [overview(made, index.runs, NOW), *screen(index.runs, NOW, 120, None)]
    for run in index.runs:
        parts += [timeline(made, run, STEPS), answers(made, run, Answers(folder / "samples.jsonl"), Wanted(), 0)]
    return "\n".join(parts)


def exported(folder: Path) -> str:
    out = folder / "out"
    said = printed("export", f"run={folder}", "dial=1", f"out={out}")
    return "\n".join([said, *(f"{path.name} {_digest(path)}" for path in sorted(out.rglob("*")) if path.is_file())])


def evaluated(folder: Path) -> str:
    """What `evaluate run.name=` reads before it goes on; answers that are missing are asked for again, and are the same
    (the other evaluation has them)."""
    found: dict[Key, Answer] = {}
    for one in (folder.parent / OTHER, folder / "evaluate-x"):
        journal = Journal(one / "answers.jsonl", lambda line, place: Answer.of(dict(line)), by="way")
        journal.close()
        found |= journal.kept
    return f"{kept_bound(str(folder / 'model'))} {found}"


def ended(folder: Path) -> str:
    return "\n".join([*result_lines(folder), *serving_lines(folder)])


def swept(folder: Path) -> str:
    state = load(folder.parent / "sweep")
    finished(folder)  # else the sweep goes on with it, and says why not
    return "\n".join(
        [*write_outcome(state), *((state.folder / f"sweep.{kind}").read_text() for kind in ("json", "html"))]
    )


def resumed(folder: Path) -> str:
    """`train resume=`, to the cluster; then what it does with the folder when its parts are there."""
    conf = more_steps(folder)
    with contextlib.suppress(Reached):
        train.command(conf, resume=folder)
    with locked(run_dir.lock(folder)):
        run_dir.record(folder, conf, "0" * 64)
        run_dir.add(folder, {"model": "m"})
        run_dir.mark(folder, ["export"], 0)
        config = read_config(folder)
        tracker = Tracker(folder, conf.tracker, STEPS, STEPS, lambda ids: "", 0, config)
        UnjudgedLog(conf.reward, tracker.note, tracker.files, STEPS)
        Trace(folder / "timeline.json", {}).close()
        run_dir.set_aside(folder / "evaluation.json", "what it had measured")
        tracker.close()
        run_dir.ended(folder)
    found = json.loads((folder / "provenance.json").read_text())
    assert found.pop("sessions")[-1]["ended"]
    kept = ("metrics.jsonl", "samples.jsonl", "samples.txt", "timeline.json", "unjudged.jsonl")
    there = [f"{name} {_digest(folder / name)}" for name in kept if (folder / name).is_file()]
    there.append(f"evaluation.json {readable(folder / 'evaluation.json')}")
    return "\n".join(
        [*there, *(f"{key}: {found[key]}" for key in ("data_hash", "seed", "model", "stages") if key in found)]
    )


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


COMMANDS: dict[str, tuple[Callable[[Path], str], Collection[str]]] = {  # and the files that each of them reads
    "report": (reported, {*FILES} - {"warmup.json", ".lock", "../sweep/sweep.yaml", *EVALUATED}),
    "watch": (watched, FILES[:4] + ("timeline.json", "warmup.jsonl", ".lock")),
    "plan": (lambda folder: printed("plan", f"run={folder}"), FILES[:3]),
    "export": (exported, ("config.yaml", EVALUATED[0])),
    "chat": (lambda folder: str(serve_command(*chat._model(str(folder)))), ("config.yaml",)),
    "compare": (lambda folder: printed("compare", folder / "evaluate-x", folder.parent / OTHER), EVALUATED),
    "evaluate": (evaluated, ("warmup.json", EVALUATED[2])),
    "jobs": (lambda folder: str(of_folder(folder)), ("metrics.jsonl", "provenance.json")),
    "end of a run": (ended, ("config.yaml", "provenance.json", "evaluation.json", "samples.jsonl")),
    "sweep": (swept, (*FILES[:3], "evaluation.json", "../sweep/sweep.yaml")),
    "resume": (resumed, {*FILES, *CHECKPOINT} - {"warmup.json", *EVALUATED}),
}
