"""The report's sentences: the result, warnings, how and where the run was made.

In: a run as read, its evaluation's summary. Out: text. Must not know: the page, plots.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from orchestrator.report.read import JsonObject, Run
from orchestrator.tracking.numbers import duration, exact_percent, number

MAX_CAUSES = 3  # of answers without a verdict, that are shown


def verdict(run: Run, summary: JsonObject | None, goals: bool) -> str:
    """The run in one sentence."""
    if not run.steps:
        return "No step has been recorded yet."
    if summary is None or summary["accuracy"] is None:
        opening = f"Finished after {run.last_step} steps" if run.finished else f"At step {run.last_step}"
        if not run.finished:
            opening += f" of {run.setting('run.steps')}"
        waits = "nothing was evaluated yet"
        if summary is not None:
            waits = "the final model has not been evaluated"
            if "final" in summary["mix"]:
                waits = "no answer of the final evaluation has a verdict"
        shown = (
            ("accuracy/all", "{} of the answers are right", exact_percent),
            ("think_rate/all", "{} begin by thinking", exact_percent),
            ("tokens/mean", "one takes {} tokens", number),
        )
        lately = [text.format(form(mean)) for key, text, form in shown if (mean := run.recent(key)) is not None]
        return f"{opening}: {', '.join(lately)}{'; ' if lately else ''}{waits}."
    missed = [check["name"] for check in summary["checks"] if check["met"] is False]
    met = sum(check["met"] is True for check in summary["checks"])
    choices = []
    for mode in ("think", "short"):
        levels = [level for level in summary["levels"] if level["should"] == mode and level["think_rate"] is not None]
        if levels:
            whole = sum(level["weight"] for level in levels)
            rates = [level["think_rate"] * (level["weight"] / whole if whole else 1 / len(levels)) for level in levels]
            worth = "where thinking pays" if mode == "think" else "where a short answer does"
            choices.append(f"on {exact_percent(sum(rates))} of the questions {worth}")
    thinks = " and ".join(choices) or f"on {exact_percent(summary['think_rate'])} of the questions"
    right = f"is right on {exact_percent(summary['accuracy'])} of {'the mix' if len(summary['levels']) > 1 else 'them'}"
    ratio = summary["tokens_vs_always_think"]
    cost = "" if ratio is None else f" with {exact_percent(ratio)} of always-think’s tokens"
    if not goals:
        opening = f"After {run.last_step} steps"
    elif missed or met < len(summary["checks"]):
        opening = f"{met} of {len(summary['checks'])} goals met"
    else:
        opening = "The model learnt when to think"
    return f"{opening}: it thinks {thinks}, and {right}{cost}{'; missed: ' + ', '.join(missed) if missed else ''}."


def warnings(run: Run) -> list[str]:
    """What the figures below leave out and their reader must know."""
    found = [*run.damaged]
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
    kinds = {
        "correct_short": "a right short answer", "correct_think": "a right one with thinking", "wrong": "a wrong one"
    }  # fmt: skip
    if function := run.setting("reward.function"):
        out += f" Rewards: those that {function} gives."
    elif isinstance(rewards, dict) and all(rewards.get(key) is not None for key in kinds):
        parts = [f"{rewards[key]:g} for {name}".replace("-", "−") for key, name in kinds.items()]
        out += f" Rewards: {', '.join(parts)}."
    return out


def facts(run: Run) -> list[str]:
    """The small print under the title."""
    total = run.setting("run.steps")
    out = [f"{run.last_step} of {total} steps" + ("" if run.finished else ", unfinished") if total else ""]
    wall, times = run.wall_seconds, run.times
    if len(times) > 1:
        within = f"{duration(wall)} in all, " if wall else ""
        out.append(f"{within}{duration(times[-1] - times[0])} of {'it ' if wall else ''}training")
    loss = run.setting("algorithm.loss")
    if loss:
        out.append({"degrpo": "DeGRPO", "grpo": "GRPO", "dr_grpo": "Dr. GRPO"}.get(loss, str(loss)))
    if started := run.provenance.get("started"):
        out.append(f"started {str(started)[:16].replace('T', ' ')}")
    if commit := run.provenance.get("git_commit"):
        out.append(f"commit {str(commit)[:10]}{', modified' if run.provenance.get('dirty') else ''}")
    if (seed := run.provenance.get("seed")) is not None:
        out.append(f"seed {seed}")
    return [fact for fact in out if fact]


def circumstances(run: Run) -> list[tuple[str, str]]:
    """Command, time, machine and memory, as far as they were recorded."""
    provenance, times = run.provenance, run.times
    found = [("command", str(provenance.get("command") or "")), ("given in", str(provenance.get("folder") or ""))]
    found.append(("started", str(provenance.get("started") or "").replace("T", " ")))
    sessions = provenance.get("sessions")
    if isinstance(sessions, list) and len(sessions) > 1:
        found.append(("resumed", ", ".join(str(s.get("started")).replace("T", " ") for s in sessions[1:])))
    if run.wall_seconds:
        wall = duration(run.wall_seconds)
        if len(times) > 1:
            wall += f", of which {duration(times[-1] - times[0])} between the first step and the last"
        found.append(("wall time", wall))
    machine = provenance.get("hardware")
    if isinstance(machine, dict):
        gpus = "; ".join(f"{count} × {gpu}" for gpu, count in Counter(machine.get("gpus") or []).items()) or "no GPU"
        host = f"{machine.get('cpu')}, {machine.get('cores')} cores, {machine.get('memory_gib')} GiB of memory, {gpus}"
        found.append(("driver’s host", host))
    peaks = []
    for prefix, whose in (("memory/host_gib", "all processes together"), ("learner/memory_gib/", "a learner rank")):
        if peak := max((v for r in run.steps for k, v in r.items() if k.startswith(prefix) and v), default=None):
            peaks.append(f"{number(peak)} GiB, {whose}")
    found.append(("peak memory", "; ".join(peaks)))
    return [(name, value) for name, value in found if value]
