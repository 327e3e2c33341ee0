"""sweep.html: what a sweep found, as one page that needs nothing else, in the report's style.

In: a sweep's outcome. Out: HTML. Must not know: how it came about, files.
"""

from __future__ import annotations

from collections import Counter

from markupsafe import Markup

from conf.choices import Objective
from orchestrator.report.page import environment
from orchestrator.report.panels import Line, Panel
from orchestrator.report.plots import Dot, drawn, scatter_plot
from orchestrator.sweeps.objective import DURING
from orchestrator.sweeps.outcome import Group, Outcome
from orchestrator.sweeps.state import OVER
from orchestrator.tracking.numbers import duration, number, or_dash, percent, signed

COLORS = ("--a", "--think", "--b", "--short", "--c", "--good", "--bad", "--ink", "--soft", "--faint")
NAMED = 12  # lines that carry a number at their ends


def render(found: Outcome) -> str:
    templates = environment("orchestrator/sweeps", "orchestrator/report")
    shown = {"percent": percent, "number": number, "signed": signed, "duration": duration}
    templates.filters |= {name: or_dash(form) for name, form in shown.items()}
    groups, state = list(found.groups), found.state
    return templates.get_template("sweep.html.jinja").render(
        ramp={"light": [], "dark": []},
        sweep=found,
        state=state,
        colors=[COLORS[at % len(COLORS)] for at in range(len(groups))],
        front=found.front,
        several=any(len(group.members) > 1 for group in groups),
        verdict=verdict(found),
        facts=facts(found),
        failed=[member for member in found.members if member.error and member.status not in OVER],
        curves=drawn([_curves(found)]),
        scatter=Markup(_scatter(found)),
        over=OVER,
        dash="–",
    )


def verdict(found: Outcome) -> str:
    """The best parameters in a sentence."""
    first = found.groups[0] if found.groups else None
    name = words(found.state.objective)
    if first is None or first.objective is None:
        return "No member has finished yet."
    one = first.objective
    value = f"{name} {number(one.mean)}"
    if one.low is not None and one.high is not None:
        value += f" over {one.count} seeds (95 % interval {number(one.low)} to {number(one.high)})"
    what = ", ".join(f"{key} = {text}" for key, text in first.parameters.items())
    if not what:
        return f"All members have the same settings but for their seeds: {value}."
    return f"{'Most' if found.state.maximized else 'Least'} {value}: {what}."


def facts(found: Outcome) -> list[str]:
    counted = Counter(member.status for member in found.members)
    seconds = sum(member.seconds for member in found.members)
    lines = [f"{len(found.members)} members"] + [f"{count} {status}" for status, count in counted.items()]
    return [*lines, f"{len(found.groups)} settings", f"{duration(seconds)} of runs in all"]


def words(name: str) -> str:
    return name.replace("_", " ")


def _curves(found: Outcome) -> Panel:
    """One line per member, those of one group in one colour."""
    key = DURING[Objective(found.state.objective)]
    lines = []
    for at, group in enumerate(found.groups):
        for member in group.members:
            name = str(member.number) if len(found.members) <= NAMED else ""
            lines.append(Line(name, [*found.curves[member.run]], COLORS[at % len(COLORS)]))
    few = max((len(line.points) for line in lines), default=0) < 16
    share = "accuracy" in key
    return Panel(
        f"{words(key.replace('/', ' ')).capitalize()} over steps",
        "one line per member, in the colour of its row and with its number at the end",
        lines,
        form="percent" if share else "number",
        markers=few,
    )


def _scatter(found: Outcome) -> str:
    """Accuracy against tokens, a dot per group; those on the Pareto front are filled and connected."""
    dots = []
    front = found.front
    for at, group in sorted(enumerate(found.groups), key=lambda one: one[1].mean("tokens") or 0.0):
        accuracy, tokens = group.mean("accuracy"), group.mean("tokens")
        if accuracy is None or tokens is None:
            continue
        known = [member.accuracy for member in group.members if member.accuracy is not None]
        # the plot connects dots of one colour: those of the front have one, every other has its own name for a colour
        color = "--ink" if group in front else f"--group-{at},var({COLORS[at % len(COLORS)]})"
        name, hollow = label(group), group not in front
        dots.append(Dot(name, name, tokens, accuracy, min(known), max(known), color, hollow))
    return scatter_plot(dots, "Accuracy against tokens per answer, with the Pareto front")


def label(group: Group) -> str:
    """Example: {"algorithm.alpha": "0.01"} -> "alpha 0.01"."""
    return ", ".join(f"{key.rpartition('.')[2]} {value}" for key, value in group.parameters.items())[:28]
