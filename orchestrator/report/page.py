"""report.html: what a run learnt, as one page that needs nothing else.

In: a run folder, complete or still being written. Out: report.html in it.
Must not know: how the run was made; it reads files only.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from orchestrator.report import gantt
from orchestrator.report.plots import Dot, Line, line_plot, number, percent, scatter_plot, stacked_plot
from orchestrator.report.read import Record, Run, read_run
from orchestrator.tracking.serving import ask_command, serve_command
from orchestrator.tracking.summary import has_goals, interval, summarize_evaluation

MAX_LEVELS = 8  # drawn; of more, evenly spread ones
MAX_CAUSES = 3  # of answers without a verdict, that are shown
RECENT = 10  # steps whose mean is "lately"
CLIP, CLIP_HEAD, CLIP_TAIL = 1600, 1000, 400  # characters of a sample answer that are shown
LEVEL_RAMP = {  # easy to hard
    "light": ((124, 173, 62), (26, 148, 136), (46, 108, 168), (84, 46, 138)),
    "dark": ((176, 216, 100), (68, 200, 178), (104, 168, 232), (182, 148, 246)),
}
WAYS = {"free": "free choice", "think": "always think", "short": "always short"}
MODELS = {"warmup": "Warm-up", "final": "Final"}
HEALTH: tuple[tuple[str, tuple[tuple[str, str], ...], str], ...] = (  # title, (name, key), kind
    ("Entropy, nats", (("entropy", "entropy"),), ""),
    ("KL to the reference, nats", (("KL", "kl"),), ""),
    ("Clipped tokens", (("clipped", "clip_fraction"),), "share"),
    ("Ratio outside 0.9 to 1.1", (("outside", "ratio_outside"),), "share"),
    ("Gradient norm", (("norm", "grad_norm"),), ""),
    ("Sampler/learner |Δ log-prob|", (("max", "mismatch/max_abs"), ("mean", "mismatch/mean_abs")), "log"),
    ("Sampler/learner KL, nats", (("KL", "mismatch/kl"),), ""),
    ("Importance weight", (("max", "importance/max"), ("mean", "importance/mean")), "log"),
    ("Answer length, tokens", (("p50", "tokens/p50"), ("p95", "tokens/p95"), ("max", "tokens/max")), ""),
    ("Truncated answers", (("truncated", "truncated"),), "share"),
    ("Short answers that hold a think token", (("think_in_short", "think_in_short"),), "share"),
    ("Groups without a gradient", (("dropped", "groups/dropped_share"),), "share"),
    ("Answers without a verdict", (("unjudged", "unjudged"),), ""),
    ("Learning rate", (("lr", "lr"),), ""),
    (
        "Memory, GiB",
        (("all processes", "memory/host_gib"), ("learner", "learner/memory_gib/learn")),
        "",
    ),
)


def write_report(run_folder: Path) -> Path:
    """Write run_folder/report.html; an older one stays intact until the new one is complete."""
    run_folder = Path(run_folder)
    page = render(read_run(run_folder))
    path, unfinished = run_folder / "report.html", run_folder / f".report.html.{os.getpid()}"
    try:
        unfinished.write_text(page, encoding="utf-8")
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    return path


def render(run: Run) -> str:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["tight"] = lambda text: re.sub(r"(?<=[≤≥]) | (?=%|points)", "\u00a0", text)
    environment.filters |= {"percent": _or_dash(exact_percent), "number": _or_dash(number), "signed": _or_dash(signed)}
    goals = has_goals(run.config)
    summary = summarize_evaluation(run.evaluation, goals) if run.evaluation.get("models") else None
    return environment.get_template("page.html.jinja").render(
        run=run,
        ramp={scheme: ramp(stops, len(drawn_levels(run))) for scheme, stops in LEVEL_RAMP.items()},
        facts=facts(run),
        verdict=verdict(run, summary, goals),
        warnings=warnings(run),
        tiles=tiles(run, summary),
        learning=learning(run),
        summary=summary,
        goals=goals,
        measured=measured(run),
        scatter=Markup(modes_scatter(summary)) if summary else "",
        before_after=before_after(run, summary) if summary else None,
        machinery=machinery(run),
        timeline=gantt.section(run.timeline, run.last_step) if run.timeline else None,
        health=health(run),
        before=[sample_view(run, sample) for sample in pick_samples(run.before, run.levels, 4)],
        samples=[sample_view(run, sample) for sample in pick_samples(after(run.samples), run.levels)],
        circumstances=circumstances(run),
        serving=serving(run),
        packages=sorted((run.provenance.get("packages") or {}).items()),
        provenance=[(key, value) for key, value in run.provenance.items() if key != "packages"],
    )


# --- words -----------------------------------------------------------------------------------------------------------


def verdict(run: Run, summary: Record | None, goals: bool) -> str:
    """The run in one sentence."""
    if not run.steps:
        return "No step has been recorded yet."
    if summary is None or summary["accuracy"] is None:
        opening = f"Finished after {run.last_step} steps" if run.finished else f"At step {run.last_step}"
        if not run.finished:
            opening += f" of {run.setting('run.steps')}"
        lately = [
            form.format(show(value))
            for key, form, show in (
                ("accuracy/all", "{} of the answers are right", exact_percent),
                ("think_rate/all", "{} begin by thinking", exact_percent),
                ("tokens/mean", "one takes {} tokens", number),
            )
            if (value := recent(run, key)) is not None
        ]
        return f"{opening}: {', '.join(lately)}{'; ' if lately else ''}nothing was evaluated yet."
    missed = [check["name"] for check in summary["checks"] if check["met"] is False]
    met = sum(check["met"] is True for check in summary["checks"])
    choices = []
    for mode in ("think", "short"):
        levels = [level for level in summary["levels"] if level["should"] == mode and level["think_rate"] is not None]
        if levels:
            weight = sum(level["weight"] for level in levels)
            rates = (
                level["think_rate"] * (level["weight"] / weight if weight else 1 / len(levels)) for level in levels
            )
            worth = "where thinking pays" if mode == "think" else "where a short answer does"
            choices.append(f"on {exact_percent(sum(rates))} of the questions {worth}")
    thinks = (
        f"it thinks {' and '.join(choices)}"
        if choices
        else f"it thinks on {exact_percent(summary['think_rate'])} of the questions"
    )
    right = f"is right on {exact_percent(summary['accuracy'])} of {'the mix' if len(summary['levels']) > 1 else 'them'}"
    ratio = summary["tokens_vs_always_think"]
    cost = "" if ratio is None else f" with {exact_percent(ratio)} of always-think’s tokens"
    if not goals:
        opening = f"After {run.last_step} steps"
    elif missed or met < len(summary["checks"]):
        opening = f"{met} of {len(summary['checks'])} goals met"
    else:
        opening = "The model learnt when to think"
    return f"{opening}: {thinks}, and {right}{cost}{'; missed: ' + ', '.join(missed) if missed else ''}."


def warnings(run: Run) -> list[str]:
    """What the figures below do not show, and whoever reads them must know."""
    found = []
    affected = [record for record in run.steps if record.get("unjudged")]
    if affected:
        lost = sum(int(record["unjudged"]) for record in affected)
        asked = sum(map(_asked, affected))
        share = f" ({exact_percent(lost / asked)} of those steps’)" if asked else ""
        kinds = {"raised": "an exception was raised", "timed_out": "the check timed out", "crashed": "it crashed"}
        counts = {kind: sum(record.get(f"unjudged/{kind}") or 0 for record in run.steps) for kind in kinds}
        why = "; ".join(f"{words}: {counts[kind]:,}" for kind, words in kinds.items() if counts[kind])
        found.append(
            f"In {len(affected)} of {len(run.steps)} steps, {lost:,} answers{share} have no verdict"
            f"{f': {why}' if why else ''}. They are left out of training and of every figure here."
        )
    elif run.unjudged:
        found.append("Answers to a validation or an evaluation have no verdict; they are left out of its figures.")
    causes = {(line.get("outcome"), line.get("where") or str(line.get("error")).partition(":")[0]): line
              for line in reversed(run.unjudged)}  # fmt: skip
    for line in list(causes.values())[::-1][:MAX_CAUSES]:
        where = f" ({line['where']})" if line.get("where") else ""
        about = f", on {line['about']}" if line.get("about") else ""
        found.append(f"First at {line.get('during')}: {line.get('error')}{where}{about}")
    return found


def _asked(record: Mapping[str, Any]) -> float:
    """Answers of a step: those without a verdict are what the shares of the others lack."""
    judged = sum(value for key, value in record.items() if key.startswith("outcome/") and value is not None)
    unjudged = record.get("unjudged") or 0
    return unjudged / (1 - judged) if unjudged and judged < 1 else 0.0


def measured(run: Run) -> str:
    """How the evaluation was made."""
    evaluation = run.evaluation
    counts, rewards = evaluation.get("questions"), evaluation.get("rewards")
    per_level = evaluation.get("questions_per_level") if run.setting("data.path") is None else None
    if per_level:
        on = f"{per_level} fresh questions per level"
    elif isinstance(counts, dict):
        on = f"{sum(counts.values()):,} held-out problems in all"
    else:
        on = "held-out problems"
    out = f"Measured on {on}"
    if (evaluation.get("samples") or 1) > 1:
        out += f", {evaluation['samples']} answers to each,"
    if evaluation.get("temperature") is not None:
        out += f" at temperature {evaluation['temperature']:g}"
    out += ", with the mode left to the model and with either mode forced."
    kinds = (
        ("correct_short", "a right short answer"),
        ("correct_think", "a right one with thinking"),
        ("wrong", "a wrong one"),
    )
    if function := run.setting("reward.function"):
        out += f" Rewards: those that {function} gives."
    elif isinstance(rewards, dict) and all(rewards.get(key) is not None for key, _ in kinds):
        parts = [f"{rewards[key]:g} for {name}".replace("-", "−") for key, name in kinds]
        out += f" Rewards: {', '.join(parts)}."
    return out


def facts(run: Run) -> list[str]:
    """The small print under the title."""
    total = run.setting("run.steps")
    out = [f"{run.last_step} of {total} steps" + ("" if run.finished else ", unfinished") if total else ""]
    wall, times = run.wall_seconds, [record["time"] for record in run.steps if record.get("time") is not None]
    if len(times) > 1:
        within = f"{spell(wall)} in all, " if wall else ""
        out.append(f"{within}{spell(times[-1] - times[0])} of {'it ' if wall else ''}training")
    loss = run.setting("algorithm.loss")
    out.append({"degrpo": "DeGRPO", "grpo": "GRPO", "dr_grpo": "Dr. GRPO"}.get(loss, str(loss)) if loss else "")
    out.append(
        f"started {str(run.provenance['started'])[:16].replace('T', ' ')}" if run.provenance.get("started") else ""
    )
    if commit := run.provenance.get("git_commit"):
        out.append(f"commit {str(commit)[:10]}{', modified' if run.provenance.get('dirty') else ''}")
    out.append(f"seed {run.provenance['seed']}" if run.provenance.get("seed") is not None else "")
    return [fact for fact in out if fact]


def circumstances(run: Run) -> list[tuple[str, str]]:
    """Command, time, machine and memory, as far as they were recorded."""
    provenance, times = run.provenance, [r["time"] for r in run.steps if r.get("time") is not None]
    found = [("command", str(provenance.get("command") or "")), ("given in", str(provenance.get("folder") or ""))]
    found.append(("started", str(provenance.get("started") or "").replace("T", " ")))
    sessions = provenance.get("sessions")
    if isinstance(sessions, list) and len(sessions) > 1:
        found.append(("resumed", ", ".join(str(s.get("started")).replace("T", " ") for s in sessions[1:])))
    if run.wall_seconds:
        steps = (
            f", of which {spell(times[-1] - times[0])} between the first step and the last" if len(times) > 1 else ""
        )
        found.append(("wall time", f"{spell(run.wall_seconds)}{steps}"))
    machine = provenance.get("hardware")
    if isinstance(machine, dict):
        gpus = machine.get("gpus") or []
        found.append(
            (
                "driver’s host",
                f"{machine.get('cpu')}, {machine.get('cores')} cores, {machine.get('memory_gib')} GiB of memory, "
                + ("; ".join(f"{gpus.count(gpu)} × {gpu}" for gpu in dict.fromkeys(gpus)) or "no GPU"),
            )
        )
    host = max((r["memory/host_gib"] for r in run.steps if r.get("memory/host_gib") is not None), default=None)
    learner = max(
        (v for r in run.steps for k, v in r.items() if k.startswith("learner/memory_gib/") and v), default=None
    )
    peaks = [f"{number(host)} GiB, all processes together"] if host else []
    peaks += [f"{number(learner)} GiB, a learner rank"] if learner else []
    found.append(("peak memory", "; ".join(peaks)))
    return [(name, value) for name, value in found if value]


def serving(run: Run) -> Record | None:
    """Commands to serve the final model; None when there is none."""
    model = run.folder / "model"
    if not (model / "config.json").is_file():
        return None
    problem = next((str(sample.get("problem")) for sample in run.samples), "What is 7 + 2?")
    return {"serve": serve_command(model, run.config), "ask": ask_command(model, run.config, problem)}


def spell(seconds: float) -> str:
    minutes, hours = round(seconds / 60), round(seconds / 3600, 1)
    return f"{seconds:.0f} s" if seconds < 120 else f"{minutes} min" if minutes < 120 else f"{hours:g} h"


def exact_percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def signed(value: float, digits: int = 2) -> str:
    return f"{value:+.{digits}f}".replace("-", "−")


def _or_dash(form: Callable[..., str]) -> Callable[..., str]:
    return lambda value, *options: "–" if value is None else form(value, *options)


def recent(run: Run, key: str) -> float | None:
    known: list[float] = [record[key] for record in run.steps if record.get(key) is not None][-RECENT:]
    return sum(known) / len(known) if known else None


def tiles(run: Run, summary: Record | None) -> list[Record]:
    """The four key figures, each with its goal."""
    if summary is None:
        lately = f"mean of the last {RECENT} steps; no evaluation yet"
        rows = (
            ("Reward", recent(run, "reward/mean"), signed),
            ("Accuracy", recent(run, "accuracy/all"), exact_percent),
            ("Tokens per answer", recent(run, "tokens/mean"), number),
            ("Think rate", recent(run, "think_rate/all"), exact_percent),
        )
        return [
            {"label": label, "value": _or_dash(form)(value), "met": None, "goal": "", "note": lately}
            for label, value, form in rows
        ]
    regret, low, high, _, accuracy, difference, _, saving = summary["checks"]
    rates = {low["met"], high["met"]}
    cost = summary["tokens"], summary["mix"].get("warmup", {}).get("think", {}).get("tokens")
    return [
        {
            "label": "Regret",
            "value": regret["text"],
            "met": regret["met"],
            "goal": regret["goal"] and f"goal {regret['goal']}",
            "note": "reward lost against the better forced mode",
        },
        {
            "label": "Accuracy",
            "value": accuracy["text"],
            "met": accuracy["met"],
            "goal": accuracy["goal"] and f"goal {accuracy['goal']}",
            "note": "" if difference["value"] is None else f"{difference['text']} against always-think",
        },
        {
            "label": "Tokens vs always-think",
            "value": saving["text"],
            "met": saving["met"],
            "goal": saving["goal"] and f"goal {saving['goal']}",
            "note": "" if None in cost else f"{number(cost[0])} against {number(cost[1])} an answer",
        },
        {
            "label": "Think rate",
            "value": _or_dash(exact_percent)(summary["think_rate"]),
            "met": None if None in rates else rates == {True},
            "goal": low["goal"] and f"goal {low['goal']} where short pays, {high['goal']} where thinking does",
            "note": f"{low['text']} and {high['text']} at worst",
        },
    ]


# --- figures ---------------------------------------------------------------------------------------------------------


def drawn_levels(run: Run) -> list[str]:
    levels = run.levels
    if len(levels) <= MAX_LEVELS:
        return levels
    return [levels[round(k * (len(levels) - 1) / (MAX_LEVELS - 1))] for k in range(MAX_LEVELS)]


def ramp(stops: Sequence[tuple[int, int, int]], count: int) -> list[str]:
    """`count` colours spread over the stops, as CSS."""
    colors = []
    for k in range(count):
        at = (k / (count - 1) if count > 1 else 0.67) * (len(stops) - 1)
        left = min(int(at), len(stops) - 2)
        mix = [round(a + (at - left) * (b - a)) for a, b in zip(stops[left], stops[left + 1], strict=True)]
        colors.append("#{:02x}{:02x}{:02x}".format(*mix))
    return colors


def series(records: Iterable[Record], key: str) -> list[tuple[float, float | None]]:
    return [(record["step"], record.get(key)) for record in records]


def upper(lines: Iterable[Line]) -> tuple[float, float]:
    """The part of 0..100 % that shares above their smallest need."""
    low = min((value for line in lines for _, value in line.points if value is not None), default=0.0)
    return max(0.0, math.floor(10 * low - 0.5) / 10), 1.0


def figure(title: str, note: str, svg: str) -> list[Record]:
    """A list that is empty where there is nothing to draw."""
    return [{"title": title, "note": note, "svg": Markup(svg)}] if svg else []


def learning(run: Run) -> list[Record]:
    """Think rate, accuracy, tokens and reward over steps, plain GRPO's recorded curves beside or dashed."""
    end, steps, whole = run.last_step, run.steps, (0.0, 1.0)
    aside = [record for record in run.grpo if record["step"] <= end]

    def levels(records: list[Record], key: str, dashed: bool = False) -> list[Line]:
        names = enumerate(drawn_levels(run))
        return [Line(f"level {name}", series(records, f"{key}/level/{name}"), f"--l{k}", dashed) for k, name in names]

    def grpo(key: str) -> list[Line]:
        return [Line("GRPO", series(aside, key), "--faint", dashed=True)] if aside else []

    def everywhere(name: str, key: str) -> Line:
        return Line(name, series(steps, key), "--ink")

    think_rate = levels(steps, "think_rate") or [everywhere("all", "think_rate/all")]
    accuracy = levels(steps, "accuracy") or [everywhere("all", "accuracy/all")]
    modes = [("think", "--think"), ("short", "--short")]
    by_mode = [
        *(Line(mode, series(steps, f"accuracy/{mode}"), color) for mode, color in modes),
        *grpo("accuracy/all"),
        everywhere("all", "accuracy/all"),
    ]
    return [
        *figure(
            "Think rate by level",
            "share of answers that begin by thinking",
            line_plot(think_rate, "Think rate by level over steps", x_end=end, y=whole, form=percent),
        ),
        *figure(
            "Think rate by level, plain GRPO",
            "recorded on the same task, for comparison",
            line_plot(levels(run.grpo, "think_rate", True), "Think rate of plain GRPO", y=whole, form=percent),
        ),
        *figure(
            "Accuracy by level",
            "share of right answers in training",
            line_plot(accuracy, "Accuracy by level over steps", x_end=end, y=upper(accuracy), form=percent),
        ),
        *figure(
            "Accuracy by mode",
            "how often an answer in each mode is right",
            line_plot(by_mode, "Accuracy by mode over steps", x_end=end, y=upper(by_mode), form=percent),
        ),
        *figure(
            "Tokens per answer",
            "mean, over all answers and by mode",
            line_plot(
                [
                    *(Line(mode, series(steps, f"tokens/{mode}"), color) for mode, color in modes),
                    *grpo("tokens/mean"),
                    everywhere("all", "tokens/mean"),
                ],
                "Tokens per answer over steps",
                x_end=end,
            ),
        ),
        *figure(
            "Reward",
            "mean over all answers",
            line_plot([*grpo("reward/mean"), everywhere("mean", "reward/mean")], "Mean reward over steps", x_end=end),
        ),
    ]


def machinery(run: Run) -> list[Record]:
    """Loss, validation and speed."""
    end, steps = run.last_step, run.steps
    parts = (("control", "loss/control", "--think"), ("response", "loss/response", "--a"), ("KL", "loss/kl", "--faint"))
    times = (("rollout", "--a"), ("reward", "--b"), ("learner", "--c"))
    seconds = [
        *(Line(name, series(steps, f"seconds/{name}"), color) for name, color in times),
        Line("push", series(steps, "push/seconds"), "--short"),
        Line("other", [(record["step"], rest_of_step(record)) for record in steps], "--faint"),
    ]
    validation = [
        Line(name, [(at, value) for at, value in series(steps, f"validation/{key}") if value is not None], color)
        for name, key, color in (("accuracy", "accuracy", "--ink"), ("think rate", "think_rate", "--think"))
    ]
    return [
        *figure(
            "Validation",
            "on held-out questions",
            line_plot(validation, "Validation over steps", x_end=end, y=(0, 1), form=percent, markers=True),
        ),
        *figure(
            "Parts of the loss",
            "control token, response tokens, KL to the reference",
            line_plot([Line(n, series(steps, key), c) for n, key, c in parts], "Parts of the loss", x_end=end),
        ),
        *figure(
            "Throughput",
            "tokens per second",
            line_plot(
                [Line(n, series(steps, f"{n}/tokens_per_s"), c) for n, c in (("rollout", "--a"), ("learner", "--c"))],
                "Tokens per second",
                x_end=end,
            ),
        ),
        *figure("Seconds per step", "by part", stacked_plot(seconds, "Seconds per step by part", x_end=end)),
    ]


def rest_of_step(record: Mapping[str, Any]) -> float | None:
    if record.get("seconds/step") is None:
        return None
    parts = ("seconds/rollout", "seconds/reward", "seconds/learner", "push/seconds")
    return max(0.0, float(record["seconds/step"]) - sum(record.get(part) or 0.0 for part in parts))


def health(run: Run) -> list[Record]:
    """Small multiples; the last value stands under each title."""

    def small(
        title: str, records: list[Record], keys: Sequence[tuple[str, str]], kind: str, end: float
    ) -> list[Record]:
        form = percent if kind == "share" else number
        lines = [
            Line(n, series(records, key), c) for (n, key), c in zip(keys, ("--ink", "--a", "--faint"), strict=False)
        ]
        if any(key == "memory/host_gib" for _, key in keys):  # looked at now and then: no gaps between
            lines = [replace(line, points=[p for p in line.points if p[1] is not None]) for line in lines]
        lines = [line for line in lines if any(value is not None for _, value in line.points)]
        svg = line_plot(lines, f"{title} over steps", x_end=end, form=form, log=kind == "log", small=True)
        last = [next((v for _, v in reversed(line.points) if v is not None), None) for line in lines]
        values = [_or_dash(form)(value) for value in last]
        if len(lines) < 2 and len(keys) < 2:
            return figure(title, "".join(values), svg)
        legend = [(line.name, line.color, value) for line, value in zip(lines, values, strict=True)]
        return [shown | {"legend": legend} for shown in figure(title, "", svg)]

    out = [small(title, run.steps, keys, kind, run.last_step) for title, keys, kind in HEALTH]
    if any(record.get("staleness/max") for record in run.steps):
        out.append(small("Staleness, updates", run.steps, [("max", "staleness/max")], "", run.last_step))
    if run.warmup:
        out.append(small("Warm-up loss, nats", run.warmup, [("loss", "loss")], "", run.warmup[-1]["step"]))
    return [figure for figures in out for figure in figures]


def modes_scatter(summary: Mapping[str, Any]) -> str:
    """Accuracy against tokens over the mix, of every model and way that was measured."""
    colors = {"free": "--ink", "think": "--think", "short": "--short"}
    dots = []
    for model, ways in summary["mix"].items():
        for way, mix in ways.items():
            if mix["accuracy"] is None or mix["tokens"] is None:
                continue
            low, high = interval(mix) or (mix["accuracy"], mix["accuracy"])
            hollow = model != "final" and "final" in summary["mix"]  # named by its filled fellow
            name, label = f"{MODELS.get(model, model).lower()}, {WAYS[way]}", "" if hollow else WAYS[way]
            dots.append(Dot(name, label, mix["tokens"], mix["accuracy"], low, high, colors[way], hollow))
    return scatter_plot(dots, "Accuracy against tokens per answer, over the mix", "tokens per answer")


# --- tables and samples ----------------------------------------------------------------------------------------------


def before_after(run: Run, summary: Mapping[str, Any]) -> Record:
    """Rows: model and way; cells: every level, then the mix."""
    names = [str(level) for level in run.evaluation.get("levels") or ()]
    rows = []
    for model, ways in (run.evaluation.get("models") or {}).items():
        for way in (way for way in WAYS if ways.get(way)):
            cells = [ways[way].get(name) or {} for name in names] + [summary["mix"][model][way]]
            rows.append(
                {"model": MODELS.get(model, model), "way": WAYS[way], "key": way, "cells": [_cell(c) for c in cells]}
            )
    weights = [level["weight"] for level in summary["levels"]]
    return {"levels": list(zip(names, weights, strict=True)), "rows": rows}


def _cell(figures: Mapping[str, Any]) -> Record:
    spread = interval(figures)
    text = "" if spread is None else f"{100 * spread[0]:.1f}–{100 * spread[1]:.1f}"
    return {key: figures.get(key) for key in ("accuracy", "tokens", "think_rate", "reward")} | {"interval": text}


def after(samples: Sequence[Record]) -> list[Record]:
    """All but those of the model that training began with."""
    return [sample for sample in samples if sample.get("step") != 0]


def pick_samples(samples: Sequence[Record], levels: Sequence[str], count: int = 6) -> list[Record]:
    """Varied answers from the later half of the run, newest first within each kind: (mode, right, hard) as listed."""
    hard = set(levels[(len(levels) + 1) // 2 :])
    latest = sorted(samples, key=lambda sample: sample.get("step") or 0, reverse=True)
    last = (latest[0].get("step") or 0) if latest else 0
    late = [sample for sample in latest if (sample.get("step") or 0) >= last / 2]

    def kind(sample: Record) -> tuple[Any, bool, bool]:
        return sample.get("mode"), sample.get("outcome") == "correct", str(sample.get("level")) in hard

    kinds = [
        *(("short", True, False), ("think", True, True), ("short", False, True)),
        *(("think", False, True), ("think", True, False), ("short", True, True)),
        *(("short", False, False), ("think", False, False)),
    ]
    firsts = [next((sample for sample in late if kind(sample) == wanted), None) for wanted in kinds]
    picked = [sample for sample in firsts if sample is not None][:count]
    for sample in latest:  # too few kinds: whatever is newest
        if len(picked) >= count:
            break
        if not any(sample is other for other in picked):
            picked.append(sample)
    return picked


def sample_view(run: Run, sample: Mapping[str, Any]) -> Record:
    """A sample as the page shows it: its control token apart, the middle of a very long answer left out."""
    text, control = str(sample.get("response") or ""), ""
    for token in (run.setting("model.think_token", "<think>"), run.setting("model.short_token", "<short>")):
        if text.startswith(token):
            control, text = token, text[len(token) :]
    if len(text) > CLIP:
        left_out = len(text) - CLIP_HEAD - CLIP_TAIL
        text = f"{text[:CLIP_HEAD]}\n… {left_out:,} characters left out …\n{text[-CLIP_TAIL:]}"
    outcome = str(sample.get("outcome") or "unknown")
    answer = sample.get("answer")
    return {
        "problem": str(sample.get("problem") or "").strip(),
        "control": control,
        "text": text,
        "mode": sample.get("mode") if sample.get("mode") in ("think", "short") else "none",
        "outcome": outcome.replace("_", " "),
        "right": outcome == "correct",
        "reward": sample.get("reward"),
        "answer": ", ".join(map(str, answer)) if isinstance(answer, list) else "" if answer is None else str(answer),
        "step": sample.get("step"),
        "level": sample.get("level"),
    }
