"""The page's charts as JSON: the report's panels for one run, one line for each run where several are compared.

In: followed runs. Out: plain objects. Must not know: HTTP, how a browser draws them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from orchestrator.report import figures
from orchestrator.report.panels import Form, Line, Panel, Point, thinned
from orchestrator.report.read import by_level
from orchestrator.tracking.catalogue import find
from orchestrator.watch.index import Followed

POINTS = 2400  # of a chart: a few lines are finer than many
FEWEST, FINEST = 48, 500  # points of a line
RUN_COLORS = 12  # --r0 and so on; more runs take them again, dashed where a chart has few lines

JsonObject = dict[str, Any]

COMPARED: tuple[tuple[str, str, Form, str, str], ...] = (  # section, title, form, figure, note
    ("learning", "Think rate", "percent", "think_rate/all", "share of answers that begin by thinking"),
    ("learning", "Accuracy", "percent", "accuracy/all", "share of right answers in training"),
    ("learning", "Accuracy, thinking", "percent", "accuracy/think", "of answers that think"),
    ("learning", "Accuracy, short", "percent", "accuracy/short", "of short answers"),
    ("learning", "Tokens per answer", "number", "tokens/mean", "mean over all answers"),
    ("learning", "Reward", "number", "reward/mean", "mean over all answers"),
    ("learning", "Validation accuracy", "percent", "validation/accuracy", "on held-out questions"),
    ("speed", "Seconds per step", "number", "seconds/step", "wall time"),
    ("speed", "Sampling", "number", "rollout/tokens_per_s", "tokens per second, all samplers"),
    ("speed", "Learning", "number", "learner/tokens_per_s", "tokens per second, all ranks"),
    ("health", "Entropy", "number", "entropy", "nats"),
    ("health", "Gradient norm", "number", "grad_norm", ""),
    ("health", "Sampler/learner KL", "number", "mismatch/kl", "nats"),
    ("health", "Truncated answers", "percent", "truncated", "share of answers"),
)
PER_WORKER = (  # figure of each rollout worker, title
    ("rollout/tokens_per_s/worker/{worker}", "Tokens per second by worker"),
    ("busy/rollout/worker/{worker}", "Time at work by worker"),
)


def charts(runs: Sequence[Followed], since: int = -1) -> JsonObject:
    """All charts of the chosen runs; of several runs, only the lines of those that changed after version `since`.

    complete: whether these are all lines, or the others stay as they are.
    """
    if len(runs) == 1:
        run = runs[0]
        shown = [
            *_of(figures.learning(run), "learning"),
            *_of(_speed(run), "speed"),
            *_of(figures.health(run), "health"),
        ]
        return {
            "complete": True,
            "ramp": figures.level_colors(run),
            "charts": [_chart(panel, section, run.id) for section, panel in shown if panel.known],
        }
    changed = [(k, run) for k, run in enumerate(runs) if run.changed > since]
    return {
        "complete": len(changed) == len(runs),
        "ramp": {"light": [], "dark": []},
        "charts": [_compared(changed, len(runs), *of) for of in COMPARED],
    }


def _of(panels: Iterable[Panel], section: str) -> list[tuple[str, Panel]]:
    return [(section, panel) for panel in panels]


def _speed(run: Followed) -> list[Panel]:
    """What the report shows of the machinery, and every sampler's own speed where there are several."""
    return [
        *figures.machinery(run),
        *(panel for pattern, title in PER_WORKER if (panel := _by_worker(run, pattern, title))),
    ]


def _by_worker(run: Followed, pattern: str, title: str) -> Panel | None:
    lines = []
    prefix = pattern.partition("{")[0]
    workers = sorted((key[len(prefix) :] for key in run.training.keys if key.startswith(prefix)), key=by_level)
    for k, worker in enumerate(workers):
        lines.append(Line(f"worker {worker}", run.curve(prefix + worker), f"--r{k % RUN_COLORS}", k >= RUN_COLORS))
    if not lines:
        return None
    found = find(prefix + workers[0])
    note, share = (found[0].help, found[0].unit == "share") if found else ("", False)
    form: Form = "percent" if share else "number"
    return Panel(title, note, lines, form=form, x_end=run.last_step, y=(0, 1) if share else None)


def _compared(
    runs: Sequence[tuple[int, Followed]], among: int, section: str, title: str, form: Form, key: str, note: str
) -> JsonObject:
    """One figure of some runs, each with its place among all that are compared."""
    lines, most = [], _most(among)
    for k, run in runs:
        points = [point for point in run.training.curve(key, most) if point[1] is not None]
        lines.append(_line(run.id, points, f"--r{k % RUN_COLORS}", k >= RUN_COLORS, run.id))
    return _head(Panel(title, note, [], form=form), section) | {"lines": lines}


def _most(lines: int) -> int:
    return min(FINEST, max(FEWEST, POINTS // max(lines, 1)))


def _chart(panel: Panel, section: str, run: str) -> JsonObject:
    most = _most(len(panel.lines))
    lines = [thinned(line, most) for line in panel.lines if line.known]
    drawn = [_line(line.name or panel.title, line.points, line.color, line.dashed, run) for line in lines]
    return _head(panel, section) | {"lines": drawn}


def _head(panel: Panel, section: str) -> JsonObject:
    return {
        "id": f"{section}/{panel.title}",
        "section": section,
        "title": panel.title,
        "note": panel.note,
        "about": panel.about,
        "kind": panel.kind,
        "form": panel.form,
        "log": panel.log,
        "markers": panel.markers,
        "y": panel.y,
        "x_end": panel.x_end,
    }


def _line(name: str, points: Sequence[Point], color: str, dashed: bool, run: str) -> JsonObject:
    values = [None if value is None else float(f"{value:.4g}") for _, value in points]
    return {"name": name, "color": color, "dashed": dashed, "run": run, "x": [int(x) for x, _ in points], "y": values}
