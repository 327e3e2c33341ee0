"""An evaluation's figures as tables, for a terminal and as Markdown.

In: plain objects, as evaluation.json holds them. Out: `Table`s, text. Must not know: how they were computed, files.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from conf.schema import EvaluateConf
from orchestrator.evaluation.compare import Difference
from orchestrator.tracking.summary import way_name

Found = Mapping[str, Any]
NONE = "–"


@dataclass(frozen=True, slots=True)
class Table:
    """Text cells. The first column is a name, the others are numbers."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()

    def text(self) -> str:
        lines = [self.header, *self.rows]
        widths = [max(len(line[at]) for line in lines) for at in range(len(self.header))]
        shown = [
            " ".join(f"{cell:{'<' if at == 0 else '>'}{wide}}" for at, (cell, wide) in enumerate(zip(line, widths)))
            for line in lines
        ]
        return "\n".join([*([self.title] if self.title else []), *(line.rstrip() for line in shown), *self.notes])

    def markdown(self) -> str:
        def row(cells: Sequence[str]) -> str:
            return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

        rule = "|---|" + "---:|" * (len(self.header) - 1)
        table = [row(self.header), rule, *map(row, self.rows)]
        notes = [f"{note}  " for note in self.notes]
        return "\n".join([f"## {self.title}" if self.title else "", "", *table, "", *notes]).strip() + "\n"


def router_name(name: str) -> str:
    return {"random": "at random, as often", "oracle": "the better mode of each"}.get(name, way_name(name))


def tables(found: Found, conf: EvaluateConf, whole_dial: bool = False) -> Iterator[Table]:
    """What there is to say. whole_dial: every tenth point of the curve, not only those that were asked for."""
    yield _levels(found)
    if several := _several(found):
        yield several
    yield _modes(found)
    if found["routing"]:
        yield _routers(found["routing"])
    if found["dial"]:
        yield _dial(found, conf, whole_dial)


def _levels(found: Found) -> Table:
    """Each way on each level, then on all of them."""
    levels = found["levels"]
    rows = [
        [level, *_way(way, cell["levels"][level])]
        for level in (levels if len(levels) > 1 else ())
        for way, cell in found["ways"].items()
    ]
    rows += [["all", *_way(way, cell["all"])] for way, cell in found["ways"].items()]
    notes = []
    if len(levels) > 1:
        mix = ", ".join(f"{level}: {100 * found['weights'][level]:.3g} %" for level in levels)
        notes.append(f"all: levels by their share ({mix})")
    notes.append("accuracy: mean over problems of each problem's samples, with its 95 % interval over problems")
    if unjudged := sum(cell["all"]["unjudged"] for cell in found["ways"].values()):
        notes.append(f"{unjudged} answers are left out: they have no verdict")
    header = [
        "level",
        "way",
        "problems",
        "answers",
        "accuracy",
        "95 %",
        "reward",
        "thinks",
        "tokens",
        "95 %",
        "cut off",
    ]
    return Table("", header, rows, notes)


def _way(way: str, cell: Found) -> list[str]:
    return [
        way, f"{cell['problems']}", f"{cell['answers']}", _number(cell["accuracy"], ".3f"),
        _within(cell["accuracy"], ".3f"), _number(cell["reward"], ".3f"), _number(cell["think_rate"], ".2f"),
        _number(cell["tokens"]["mean"], ".1f"), _within(cell["tokens"]["mean"], ".1f"),
        _number(cell["truncated"], ".3f"),
    ]  # fmt: skip


def _several(found: Found) -> Table | None:
    """pass@k and majority@k, where there are several samples."""
    ks = [key.removeprefix("pass@") for key in found["ways"]["free"]["all"] if key.startswith("pass@")]
    if not ks:
        return None
    rows = []
    for way, cell in found["ways"].items():
        every = cell["all"]
        for name in ("pass", "majority"):
            mine = [every.get(f"{name}@{k}") for k in ks]
            rows.append([f"{name}@k, {way}", *(_with_interval(one, ".3f") for one in mine)])
    return Table("several samples", ["", *(f"k = {k}" for k in ks)], rows)


def _modes(found: Found) -> Table:
    """The free choice, by the mode it took."""
    free, rows = found["ways"]["free"]["all"], []
    for mode, cell in free["by_mode"].items():
        tokens = cell["tokens"]
        rows.append([
            mode, f"{cell['answers']}", _with_interval(cell["accuracy"], ".3f"), _with_interval(tokens["mean"], ".1f"),
            _plain(tokens["median"]), _plain(tokens["p95"]),
        ])  # fmt: skip
    bound = found.get("longest_short_answer")
    signs = "signs of reasoning in them" + (f", or more than {bound} characters" if bound is not None else "")
    notes = [
        f"no control token: {_number(free['no_mode'], '.3f')}; short answers with {signs}: "
        f"{_number(free['leakage'], '.3f')}"
    ]
    if free["lenient_accuracy"] is not None:
        notes.append(
            f"accuracy of the free choice, graded strictly {_with_interval(free['strict_accuracy'], '.3f')}, leniently "
            f"{_with_interval(free['lenient_accuracy'], '.3f')}"
        )
    header = ["mode that was chosen", "answers", "accuracy", "tokens", "median", "95th percentile"]
    return Table("by mode", header, rows, notes)


def _routers(routing: Found) -> Table:
    rows = [
        [
            router_name(name), _with_interval(one["accuracy"], ".3f"), _with_interval(one["tokens"], ".1f"),
            *([NONE, NONE] if name == "free" else
              [_with_interval(one["accuracy_gain"], "+.3f"), _with_interval(one["token_ratio"], ".2f")]),
        ]
        for name, one in routing["routers"].items()
    ]  # fmt: skip
    notes = [f"from the same samples of {routing['problems']} problems; differences by a paired bootstrap"]
    if routing["upper_bound"]:
        notes.append(
            "with one sample of each mode, the better mode of each is an upper bound (evaluate.samples=2 or more)"
        )
    header = [
        "choice of the mode",
        "accuracy",
        "tokens",
        "free choice is better by",
        "free choice takes, of its tokens",
    ]
    return Table("what the choice is worth", header, rows, notes)


def _dial(found: Found, conf: EvaluateConf, whole: bool) -> Table:
    dial, places, calibration = found["dial"], found["points"], found["calibration"]
    points: list[tuple[str, int]] = [("no bias", places["no_bias"])]
    points += [("", at) for at in range(0, len(dial["bias"]), 5)] if whole else []
    points.append((f"an error of {conf.tolerated_error:g} more", places["tolerated_error"]))
    notes = [
        "computed from the samples above, without sampling again",
        f"mean accuracy above a choice by chance of the same tokens: {_with_interval(dial['area'], '+.4f')}",
    ]
    if dial["certain"]:
        notes.append(
            f"{dial['certain']} problems have one mode for certain, as far as float32 says: where on the curve they "
            "turn is a bound"
        )
    if (routing := found["routing"]) and dial["problems"] < routing["problems"]:
        notes.append(f"{routing['problems'] - dial['problems']} problems are not in it: {_unknown(conf)}")
    if places["token_budget"] is not None:
        points.append((f"{conf.token_budget:g} tokens", places["token_budget"]))
    elif conf.token_budget is not None:
        least = min(dial["tokens"])
        notes.append(f"evaluate.token_budget={conf.token_budget:g}: even short answers take {least:.1f} on average")
    if calibration:
        correlation = calibration["correlation"]
        notes.append(
            f"P(think) against what thinking gains in accuracy: calibration error {calibration['ece']:.3f}"
            + (f", correlation {correlation:.2f}" if correlation is not None else "")
        )
    rows = [
        [
            name, f"{dial['bias'][at]:+.2f}", f"{dial['think_rate'][at]:.3f}", f"{dial['accuracy'][at]:.3f}",
            _pair(dial["accuracy_interval"][at], ".3f"), f"{dial['tokens'][at]:.1f}",
            _pair(dial["tokens_interval"][at], ".1f"),
        ]
        for name, at in points
    ]  # fmt: skip
    several = len(found["ways"]) > 3
    return Table(
        "the dial: a bias on " + ("each mode's logit, times its effort" if several else "the think token's logit"),
        ["", "bias", "thinks", "accuracy", "95 %", "tokens", "95 %"],
        rows,
        notes,
    )


def no_dial(conf: EvaluateConf) -> str:
    """Why there is no curve."""
    return f"no dial: of no problem with a judged answer in every way P(think) is known: {_unknown(conf)}"


def _unknown(conf: EvaluateConf) -> str:
    if conf.top_p < 1:
        return f"evaluate.top_p={conf.top_p:g} leaves them one mode alone (measure the dial with evaluate.top_p=1)"
    return "their answers begin with no control token"


def compared(names: Sequence[str], found: Sequence[Found], made: Sequence[Difference]) -> Table:
    """Models, the first one being the base of all differences; free choice of the mode."""
    by_name = {one.model: one for one in made}
    rows = []
    for name, one in zip(names, found, strict=True):
        free, other = one["ways"]["free"]["all"], by_name.get(name)
        figures = [_with_interval(free["accuracy"], ".3f"), _with_interval(free["tokens"]["mean"], ".1f")]
        figures.append(_number(free["think_rate"], ".2f"))
        if other is None:
            rows.append([name, *figures, NONE, NONE, NONE])
            continue
        gain, ratio = asdict(other.accuracy), asdict(other.token_ratio)
        rows.append([name, *figures, _with_interval(gain, "+.3f"), _with_interval(ratio, ".2f"), f"{other.better:.3f}"])
    counts = {one.problems for one in made}
    notes = [
        f"free choice; differences from {names[0]} over the {'/'.join(map(str, sorted(counts)))} problems that both "
        "answered, by a paired bootstrap; better: share of its samples in which the model is more often right"
    ]
    header = ["model", "accuracy", "tokens", "thinks", "accuracy, difference", "tokens, ratio", "better"]
    return Table("", header, rows, notes)


def _number(estimate: Found | None, form: str) -> str:
    return NONE if estimate is None else format(estimate["value"], form)


def _within(estimate: Found | None, form: str) -> str:
    return NONE if estimate is None else _pair((estimate["low"], estimate["high"]), form)


def _with_interval(estimate: Found | None, form: str) -> str:
    return NONE if estimate is None else f"{_number(estimate, form)} ({_within(estimate, form)})"


def _pair(pair: Sequence[float], form: str) -> str:
    low, high = pair
    return f"{low:{form}}..{high:{form}}"


def _plain(value: float | None) -> str:
    return NONE if value is None else f"{value:.0f}"
