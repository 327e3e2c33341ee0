"""Result figures of a run, from its evaluation: regret, mode choice, accuracy, tokens; the quickstart's beside goals.

In: the object in evaluation.json, and config.yaml's as plain objects. Out: plain numbers, None where something was not
measured. Must not know: files, how figures are printed or drawn.

An evaluation measures two models (`warmup`, `final`) in several ways on the same questions: `free` (the model chooses
the mode), and each mode (`think`, `short`, any between: the control token is forced). Whatever is "over the mix" is
averaged over the levels with the evaluation's weights.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from conf.choices import Task
from conf.schema import ArithmeticConf, ModelConf, RewardConf

FIGURES = ("accuracy", "reward", "think_rate", "tokens")

RARE = 0.02  # share of answers below which a mode is almost never chosen
MAX_REGRET = 0.05
CLEAR_GAP = 0.2  # reward by which one mode must beat the other before the policy has to follow it
MAX_THINK_RATE, MIN_THINK_RATE = 0.10, 0.90  # where short, and where thinking, is clearly better
MIN_ACCURACY, MAX_ACCURACY_LOSS = 0.93, 0.03
MAX_TOKENS_VS_BEST_MODE, MAX_TOKENS_VS_ALWAYS_THINK = 1.10, 0.60
SLACK = 1e-9  # a figure that meets its goal exactly meets it, whatever the last bit says


def way_name(way: str) -> str:
    """Of an evaluation, for a reader."""
    return "free choice" if way == "free" else f"always {way}"


def wilson(share: float, n: float, z: float = 1.96) -> tuple[float, float]:
    """The 95 % confidence interval of a share seen in n trials. Example: 9 of 10 -> (0.596, 0.982)."""
    if n <= 0:
        return 0.0, 1.0
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(max(share * (1 - share), 0.0) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def interval(cell: Mapping[str, Any]) -> tuple[float, float] | None:
    """The 95 % interval of a cell's accuracy, over problems: several answers to one are no independent trials."""
    n = problems(cell)
    return None if cell.get("accuracy") is None or not n else wilson(cell["accuracy"], n)


def doubts(
    measured: Mapping[str, Mapping[str, Mapping[str, Any]]], goals: bool = True, when: str = "before training"
) -> list[str]:
    """Warnings about what training starts from, one line each: levels where thinking is seldom right, which RL cannot
    fix, and a mode that is almost never chosen.

    measured: {think: {level: {accuracy}}, free: {level: {n, think_rate, no_mode}}, ...} of the model. Without `goals`,
    only levels where it is hardly ever right. when: that it was measured.
    """
    least = 0.9 if goals else 0.02
    advice = (
        "what the warm-up has not taught is not learnt by choosing modes (raise warmup.steps)"
        if goals
        else "without right answers there is nothing to learn from (a stronger model, easier problems, or a warm-up on "
        "pairs for them, warmup.path)"
    )
    found = []
    for level, cell in measured.get("think", {}).items():
        accuracy = cell.get("accuracy")
        if accuracy is not None and accuracy < least:
            where = "" if level == "all" else f"level {level}: "
            found.append(f"{where}thinking is right on {accuracy:.0%} only {when}; {advice}")
    cells = measured.get("free", {})
    rates = dict.fromkeys(key for cell in cells.values() for key in cell if key.startswith("mode_rate/"))
    free = pooled(cells, ("think_rate", "no_mode", *rates))
    thinks, no_mode = free["think_rate"], free["no_mode"] or 0.0
    shares = {} if thinks is None else {"think": thinks, "short": 1 - thinks - no_mode}
    for mode, share in ({key.removeprefix("mode_rate/"): free[key] for key in rates} or shares).items():
        if share is not None and share < RARE:
            others = f" ({no_mode:.0%} begin without a control token)" if no_mode >= RARE else ""
            found.append(
                f"mode {mode} is chosen in {max(share, 0):.1%} of answers only {when}{others}; when to choose it is "
                "learnt from answers in it (pairs with as many answers in every mode, or more warmup.steps)"
            )
    return found


def pooled(cells: Mapping[str, Mapping[str, Any]], names: Sequence[str]) -> dict[str, float | None]:
    """Figures over all answers of an evaluation's levels; None where there are none."""
    result: dict[str, float | None] = {}
    for name in names:
        known = [(cell[name], cell["n"]) for cell in cells.values() if cell.get(name) is not None and cell.get("n")]
        total = sum(n for _, n in known)
        result[name] = sum(value * n for value, n in known) / total if total else None
    return result


def has_goals(config: Mapping[str, Any]) -> bool:
    """Whether the goals here were set for such a run: the quickstart's questions, a model that starts from nothing, and
    the quickstart's rewards, measured at temperature 1. What an older config.yaml lacks counts as the default.

    On other problems the same limits say nothing: 93 % is easy here and out of reach there.
    """
    if not config.get("data"):
        return False
    task = {f"data.arithmetic.{key}": value for key, value in asdict(ArithmeticConf()).items()}
    scheme = RewardConf()
    task["model.modes"] = ModelConf().modes
    names = ("function", "correct_short", "correct_think", "wrong", "cut_off", "no_answer", "no_mode")
    task |= {f"reward.{name}": getattr(scheme, name) for name in (*names, "max_tokens_short", "max_tokens_think")}
    task |= {"data.path": None, "model.path": None, "warmup.path": None, "evaluate.temperature": 1.0}
    generated = _setting(config, "data.task", Task.arithmetic) in (Task.arithmetic, Task.arithmetic.value)
    return generated and all(_setting(config, key, value) == value for key, value in task.items())


def _setting(config: Mapping[str, Any], key: str, default: Any) -> Any:
    at: Any = config
    for part in key.split("."):
        if not isinstance(at, Mapping) or part not in at:
            return default
        at = at[part]
    return at


def summarize_evaluation(evaluation: Mapping[str, Any], goals: bool = True) -> dict[str, Any]:
    """All result figures. Example: on the only level short earns 1, thinking .5 and the policy .95 -> regret .05.

    goals: whether they are held against the quickstart's (`has_goals`).
    Keys: regret, accuracy, accuracy_vs_always_think (difference), tokens, tokens_vs_best_mode, tokens_vs_always_think
    (both ratios), think_rate, both_kinds, levels (one dict per level), mix (model -> way -> figures over the mix) and
    checks ({name, value, text, goal, met}; met is None where nothing was measured or there is no goal).
    """
    names = [str(level) for level in evaluation.get("levels") or ()]
    weights = _weights(names, evaluation.get("weights") or {})
    models = evaluation.get("models") or {}
    levels = [_level(name, weight, models.get("final") or {}) for name, weight in zip(names, weights, strict=True)]
    mix = {
        model: {way: over_the_mix(ways.get(way) or {}, names, weights) for way in ways if ways.get(way)}
        for model, ways in models.items()
    }

    def over(model: str, way: str, figure: str) -> float | None:
        return mix.get(model, {}).get(way, {}).get(figure)

    if levels and all(level["hopeless"] for level in levels):  # whatever the policy chooses, it loses nothing
        regret = best_tokens = None
    else:
        regret = _mean([level["regret"] for level in levels], weights)
        best_tokens = _mean([level["best_tokens"] for level in levels], weights)
    summary = {
        "regret": regret,
        "accuracy": over("final", "free", "accuracy"),
        "accuracy_vs_always_think": _minus(over("final", "free", "accuracy"), over("warmup", "think", "accuracy")),
        "tokens": over("final", "free", "tokens"),
        "tokens_vs_best_mode": _over(over("final", "free", "tokens"), best_tokens),
        "tokens_vs_always_think": _over(over("final", "free", "tokens"), over("warmup", "think", "tokens")),
        "think_rate": over("final", "free", "think_rate"),
        "both_kinds": {"think", "short"} <= {level["should"] for level in levels},
        "levels": levels,
        "mix": mix,
    }
    checks = _checks(summary)
    return summary | {"checks": checks if goals else [check | {"goal": "", "met": None} for check in checks]}


def _weights(names: list[str], given: Mapping[Any, Any]) -> list[float]:
    """Shares of the levels, adding up to 1; equal where none are given."""
    given = {str(level): float(weight) for level, weight in given.items()}
    weights = [given.get(name, 0.0) for name in names]
    total = sum(weights)
    return [weight / total for weight in weights] if total > 0 else [1 / len(names) for _ in names]


def _level(name: str, weight: float, final: Mapping[str, Any]) -> dict[str, Any]:
    """What each mode earns on one level, and whether the policy follows the clearly better one."""
    figure = {way: _figures((final.get(way) or {}).get(name)) for way in {"free": 0, "think": 0, "short": 0, **final}}
    think, short, free = (figure[way]["reward"] for way in ("think", "short", "free"))
    thinking = [way for way in reversed(figure) if way not in ("free", "short")]  # the cheapest first
    known = all(figure[way]["reward"] is not None for way in thinking)
    best = max(thinking, key=lambda way: figure[way]["reward"] or 0.0) if known else "think"
    gap = _minus(short, figure[best]["reward"]) if known else None  # > 0: short earns more than any other
    better = None if gap is None else "short" if gap >= 0 else best  # as good: the cheaper one
    should = None if gap is None or abs(gap) < CLEAR_GAP - SLACK else "short" if better == "short" else "think"
    rate = figure["free"]["think_rate"]
    obeys = None
    if should and rate is not None:
        obeys = rate <= MAX_THINK_RATE + SLACK if should == "short" else rate >= MIN_THINK_RATE - SLACK
    return {
        "level": name,
        "weight": weight,
        "reward_think": think,
        "reward_short": short,
        "reward_free": free,
        "rewards": {way: figure[way]["reward"] for way in figure if way != "free"},
        "gap": gap,
        "better": better,
        "hopeless": all(figure[way]["accuracy"] == 0 for way in (*thinking, "short")),  # nothing to choose between
        "should": should,  # short or think (in any mode that does), whichever is clearly better, or None
        "think_rate": rate,
        "obeys": obeys,  # None: neither mode is clearly better
        "regret": None if better is None else _minus(figure[better]["reward"], free),
        "best_tokens": None if better is None else figure[better]["tokens"],
    }


def _figures(cell: Mapping[str, Any] | None) -> dict[str, float | None]:
    cell = cell or {}
    return {key: None if cell.get(key) is None else float(cell[key]) for key in FIGURES}


def over_the_mix(cells: Mapping[str, Any], names: list[str], weights: list[float]) -> dict[str, float | None]:
    """Figures averaged over the mix. `n` is the effective number of problems, 1 / sum(w^2 / n_level), for intervals.

    Several answers to one problem are no independent trials, so problems are counted (in older records: answers).
    """
    rows = [_figures(cells.get(name)) for name in names]
    mix = {key: _mean([row[key] for row in rows], weights) for key in FIGURES}
    sizes = [float(problems(cells.get(name) or {}) or 0) for name in names]
    known = all(size > 0 for size, weight in zip(sizes, weights, strict=True) if weight > 0)
    spread = sum(weight**2 / size for size, weight in zip(sizes, weights, strict=True) if weight > 0) if known else 0.0
    return mix | {"n": 1 / spread if spread else None}


def problems(cell: Mapping[str, Any]) -> int | None:
    """How many problems a cell was measured on."""
    return cell.get("problems", cell.get("n"))


def _mean(values: list[float | None], weights: list[float]) -> float | None:
    """Weighted mean; None as soon as a level that counts was not measured."""
    pairs = [(value, weight) for value, weight in zip(values, weights, strict=True) if weight > 0]
    if not pairs or any(value is None for value, _ in pairs):
        return None
    return float(np.dot([value for value, _ in pairs if value is not None], [weight for _, weight in pairs]))


def _minus(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a - b


def _over(a: float | None, b: float | None) -> float | None:
    return None if a is None or not b else a / b


def _checks(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    rates: dict[str, list[float]] = {"think": [], "short": []}
    for level in summary["levels"]:
        if level["should"] and level["think_rate"] is not None:
            rates[level["should"]].append(level["think_rate"])
    checks = []

    def check(name: str, value: float | None, text: str, sign: str, bound: float, bound_text: str = "{:.0%}") -> None:
        met = None if value is None else value <= bound + SLACK if sign == "≤" else value >= bound - SLACK
        shown = "–" if value is None else _readable(text, value)
        goal = f"{sign} {_readable(bound_text, bound)}"
        checks.append({"name": name, "value": value, "text": shown, "goal": goal, "met": met})

    check("regret against the better forced mode", summary["regret"], "{:.3f}", "≤", MAX_REGRET, "{:.2f}")
    short, think = max(rates["short"], default=None), min(rates["think"], default=None)
    check("highest think rate where short earns ≥ 0.2 more", short, "{:.1%}", "≤", MAX_THINK_RATE)
    check("lowest think rate where thinking earns ≥ 0.2 more", think, "{:.1%}", "≥", MIN_THINK_RATE)
    both = summary["both_kinds"] if any(level["gap"] is not None for level in summary["levels"]) else None
    shown = {True: "yes", False: "no", None: "–"}[both]
    checks.append({"name": "levels of both kinds", "value": both, "text": shown, "goal": "yes", "met": both})
    check("accuracy over the mix", summary["accuracy"], "{:.1%}", "≥", MIN_ACCURACY)
    difference, loss = summary["accuracy_vs_always_think"], -MAX_ACCURACY_LOSS
    check("accuracy minus the warm-up's always-think", difference, "{:+.1%}", "≥", loss, "{:+.0%}")
    tokens = "tokens relative to the"
    check(f"{tokens} better mode per level", summary["tokens_vs_best_mode"], "{:.1%}", "≤", MAX_TOKENS_VS_BEST_MODE)
    ratio = summary["tokens_vs_always_think"]
    check(f"{tokens} warm-up's always-think", ratio, "{:.1%}", "≤", MAX_TOKENS_VS_ALWAYS_THINK)
    return checks


def _readable(form: str, value: float) -> str:
    """Example: ("{:+.1%}", -0.012) -> "−1.2 points"."""
    text = form.format(value).replace("-", "−")
    return text.replace("%", " points" if "+" in form else " %")
