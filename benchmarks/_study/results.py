"""What the study's runs show: figures of each, and over the seeds with Student's intervals.

In: finished run folders. Out: plain numbers, and a Markdown table of them. Must not know: how runs are started.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from benchmarks._study.members import DEGRPO, GRPO, Member
from orchestrator.tracking.summary import summarize_evaluation

STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)  # 97.5 % quantile, 1 to 9 degrees of freedom
SMOOTHED = 5  # steps of a running mean

Row = dict[str, Any]
Curve = list[float]  # one value a step

COLUMNS: dict[str, tuple[str, Callable[[float], str]]] = {  # figure -> title, how it is written
    "regret": ("regret", lambda v: f"{v:.3f}"),
    "accuracy": ("accuracy", lambda v: f"{v:.1%}"),
    "accuracy_vs_always_think": ("minus always-think, points", lambda v: f"{100 * v:+.1f}"),
    "tokens": ("tokens", lambda v: f"{v:.0f}"),
    "tokens_vs_oracle": ("of the oracle's", lambda v: f"{v:.1%}"),
    "tokens_vs_always_think": ("of always-think's", lambda v: f"{v:.1%}"),
    "think_easy": ("thinks, short better", lambda v: f"{v:.1%}"),
    "think_hard": ("thinks, thinking better", lambda v: f"{v:.1%}"),
    "think_rise": ("rise of the think rate", lambda v: f"{v:+.2f}"),
    "think_fall": ("fall after it", lambda v: f"{v:+.2f}"),
    "fewest_thinking": ("fewest thinking in a batch", lambda v: f"{v:.0f}"),
}


def row(member: Member) -> Row:
    """Figures of one run. think_easy, think_hard: the final think rate over the levels where the final model's short,
    or thinking, answers earn more."""
    evaluation = json.loads((member.folder / "evaluation.json").read_text())
    summary = summarize_evaluation(evaluation)
    records = steps(member)
    curve = smoothed([record["think_rate/all"] for record in records])
    answers = [record["answers/think"] for record in records]
    before, warmup = summary["mix"]["warmup"], evaluation["models"]["warmup"]
    untrained = summarize_evaluation({**evaluation, "models": {"warmup": warmup, "final": warmup}})
    return {
        "variant": member.variant,
        "seed": member.seed,
        **{key: summary[key] for key in ("regret", "accuracy", "accuracy_vs_always_think", "tokens")},
        "tokens_vs_oracle": summary["tokens_vs_best_mode"],
        "tokens_vs_always_think": summary["tokens_vs_always_think"],
        "think_easy": share(summary["levels"], "short"),
        "think_hard": share(summary["levels"], "think"),
        "think_rise": max(curve) - curve[0],
        "think_fall": max(curve) - curve[-1],
        "fewest_thinking": min(answers),
        "regret_warm_up": untrained["regret"],
        "warm_up": {f"{way}_{key}": before[way][key] for way in before for key in ("accuracy", "tokens", "think_rate")},
        "curves": {level: [r.get(f"think_rate/level/{level}") for r in records] for level in evaluation["levels"]},
        "levels": {level["level"]: level["better"] for level in summary["levels"]},
    }


def steps(member: Member) -> list[dict[str, Any]]:
    lines = map(json.loads, (member.folder / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if line.get("think_rate/all") is not None]


def smoothed(values: Sequence[float]) -> Curve:
    """Means over SMOOTHED consecutive steps, fewer at the ends."""
    half = SMOOTHED // 2
    return [statistics.fmean(values[max(0, i - half) : i + half + 1]) for i in range(len(values))]


def share(levels: Iterable[dict[str, Any]], better: str) -> float | None:
    """The think rate over the levels where this mode earns more; None where there is none."""
    found = [level for level in levels if level["better"] == better and level["weight"] > 0]
    if not found:
        return None
    return sum(one["think_rate"] * one["weight"] for one in found) / sum(one["weight"] for one in found)


def estimate(values: Iterable[float | None]) -> tuple[float, float | None] | None:
    """(mean, half of its 95 % interval by Student's t); None for the half of one value, and None for none."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    count, centre = len(known), statistics.fmean(known)
    if count == 1:
        return centre, None
    return centre, STUDENT[min(count - 1, len(STUDENT)) - 1] * statistics.stdev(known) / math.sqrt(count)


def difference(
    rows: Sequence[Row], figure: str, left: str = GRPO, right: str = DEGRPO
) -> tuple[float, float | None] | None:
    """`left` minus `right` over the seeds that have both: they share a warm-up, so they are paired."""
    found = {(one["variant"], one["seed"]): one[figure] for one in rows}
    seeds = sorted({one["seed"] for one in rows})
    pairs = [(found.get((left, seed)), found.get((right, seed))) for seed in seeds]
    return estimate(a - b for a, b in pairs if a is not None and b is not None)


def table(rows: Sequence[Row]) -> str:
    """Markdown: a line for each variant, means with the half of their interval, the effect of GRPO last."""
    titles = ["variant", "seeds", *(title for title, _ in COLUMNS.values())]
    lines = [f"| {' | '.join(titles)} |", "|" + "---|" * len(titles)]
    for variant in dict.fromkeys(one["variant"] for one in rows):
        mine = [one for one in rows if one["variant"] == variant]
        cells = [written(estimate(one[key] for one in mine), form) for key, (_, form) in COLUMNS.items()]
        lines.append(f"| {' | '.join([variant, ', '.join(str(one['seed']) for one in mine), *cells])} |")
    cells = [written(difference(rows, key), form) for key, (_, form) in COLUMNS.items()]
    lines.append(f"| {' | '.join([f'{GRPO} minus {DEGRPO}', 'paired', *cells])} |")
    first = [one for one in rows if one["variant"] == rows[0]["variant"]]
    lines += ["", "| warm-up alone | accuracy | tokens | think rate |", "|---|---|---|---|"]
    for way in ("free", "think", "short"):
        names = [f"{way}_{key}" for key in ("accuracy", "tokens", "think_rate")]
        forms = (lambda v: f"{v:.1%}", lambda v: f"{v:.0f}", lambda v: f"{v:.1%}")
        cells = [written(estimate(one["warm_up"][n] for one in first), f) for n, f in zip(names, forms, strict=True)]
        lines.append(f"| {' | '.join([way, *cells])} |")
    return "\n".join(lines) + "\n"


def written(found: tuple[float, float | None] | None, form: Callable[[float], str]) -> str:
    if found is None:
        return "-"
    centre, half = found
    return form(centre) if half is None else f"{form(centre)} ± {form(half).lstrip('+')}"
