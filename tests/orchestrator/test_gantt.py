"""The report's chart of busy times, for complete, unusual and damaged timelines."""

from __future__ import annotations

import math
import re
from itertools import combinations
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from orchestrator.report import write_report
from orchestrator.report.gantt import (
    COLORS,
    LABELS,
    MOST_ROWS,
    OTHER,
    SHARES,
    WIDTH,
    chart,
    describe,
    drawn,
    legend,
    stretches,
)
from orchestrator.report.page import environment
from orchestrator.tracking.chrome_trace import Recorded, Trace
from orchestrator.tracking.utilization import DRIVER, Actor
from rollout.base.spans import FOR_LEARNER, FOR_TRAJECTORIES, FOR_VERDICTS, FOR_WEIGHTS, Span

ROLLOUT, REWARD, LEARNER = Actor("rollout"), Actor("reward"), Actor("learner")


def near(value: float) -> Any:
    """Seconds since the epoch are exact to a quarter of a microsecond."""
    return pytest.approx(value, abs=1e-6)


def recorded(count: int, pause_after: dict[int, float] | None = None, workers: int = 1) -> Recorded:
    """Steps of 2 s: sampling for 1.8 of them, learning for 1, grading for a tenth of one; then a pause of 0.01 s."""
    found = Recorded({DRIVER: [], REWARD: [], LEARNER: []}, [])
    found.spans |= {Actor("rollout", n): [] for n in range(workers)}
    at = 1.8e9
    for step in range(1, count + 1):
        found.steps.append((step, at, at + 2))
        for n in range(workers):
            worker = found.spans[Actor("rollout", n)]
            worker += [Span("sampling", at, at + 1.8), Span("loading weights", at + 1.8, at + 1.9)]
        found.spans[REWARD].append(Span("grading", at + 0.3, at + 0.4))
        found.spans[LEARNER] += [Span("learning", at + 0.5, at + 1.5), Span("publishing", at + 1.5, at + 1.6)]
        found.spans[DRIVER].append(Span("waiting for trajectories", at, at + 0.3))
        at += 2 + (pause_after or {}).get(step, 0.01)
    return found


def rects(svg: str) -> list[dict[str, Any]]:
    """The bars of a chart."""
    found = []
    for rect in ElementTree.fromstring(svg).iter("rect"):
        title = rect.find("title")
        place = {key: float(rect.get(key, "nan")) for key in ("x", "y", "width", "height")}
        found.append(
            place | {"fill": rect.get("fill"), "class": rect.get("class"), "text": title is not None and title.text}
        )
    return found


def test_busy_shares_equal_those_worked_out_by_hand() -> None:
    page = describe(recorded(20))
    assert page["headline"] == (
        "rollout worked 90 %, learner 50 %, reward 5.0 % of the time; a step took 1.11 × max(sampling, learning)"
    )
    table = page["table"]
    assert table["kinds"] == ["sampling", "grading", "learning", "loading weights", "publishing", "idle"]
    rows = {row["name"]: row["cells"] for row in table["rows"]}
    assert rows == {
        "rollout worker 0": [near(0.9), None, None, near(0.05), None, near(0.05)],
        "reward actor 0": [None, near(0.05), None, None, None, near(0.95)],
        "learner rank 0": [None, None, near(0.5), None, near(0.05), near(0.45)],
    }
    assert [value for _, value in page["ratio"].points] == pytest.approx([2 / 1.8] * 20)
    lines = {line.name: [value for _, value in line.points] for line in page["busy"]}
    assert lines["rollout"] == pytest.approx([0.9] * 20) and lines["learner"] == pytest.approx([0.5] * 20)


def test_time_between_steps_is_not_counted() -> None:
    """A validation after step 10 during which the worker samples: the shares stay, the chart pales it."""
    found = recorded(20, {10: 3.0})
    _, _, end = found.steps[9]
    found.spans[ROLLOUT].append(Span("sampling", end, end + 3))
    found.spans[ROLLOUT].sort(key=lambda span: span.begin)
    assert describe(found)["headline"] == describe(recorded(20))["headline"]
    pauses = [rect for rect in rects(chart(found, found.steps[8:12])) if rect["class"] == "pause"]
    assert [rect["text"] for rect in pauses] == ["between two steps, 3.00 s"]


def test_bars_are_drawn_at_their_times() -> None:
    found = recorded(20)
    svg = chart(found, found.steps[5:10])
    bars = [rect for rect in rects(svg) if rect["fill"]]
    per_second = (WIDTH - SHARES - LABELS) / (5 * 2 + 4 * 0.01)
    sampling = sorted((rect for rect in bars if rect["text"] == "sampling, 1.800 s"), key=lambda rect: rect["x"])
    assert [rect["x"] for rect in sampling] == pytest.approx(
        [LABELS + 2.01 * k * per_second for k in range(5)], abs=0.1
    )
    assert [rect["width"] for rect in sampling] == pytest.approx([1.8 * per_second] * 5, abs=0.1)
    assert all(rect["x"] >= LABELS - 0.1 and rect["x"] + rect["width"] <= WIDTH - SHARES + 1 for rect in bars)
    waits = [rect for rect in bars if str(rect["text"]).startswith("waiting for trajectories")]
    assert len(waits) == 5 and all(rect["height"] < sampling[0]["height"] for rect in waits)
    texts = [text.text for text in ElementTree.fromstring(svg).iter("text")]
    assert {"step 6", "step 10", "rollout worker 0", "driver", "90 %", "50 %"} <= set(texts)


def test_short_spans_are_merged_to_what_is_visible() -> None:
    found = recorded(2)
    begin = found.steps[0][1]
    found.spans[REWARD] = [Span("grading", begin + k / 50_000, begin + (k + 0.5) / 50_000) for k in range(100_000)]
    svg = chart(found, found.steps)
    assert len(svg) < 20_000
    graded = [rect for rect in rects(svg) if str(rect["text"]).startswith("grading")]
    assert sum(rect["width"] for rect in graded) > 0.9 * (WIDTH - SHARES - LABELS) * 2 / 4.01


def test_excerpts_are_the_first_steps_and_some_of_the_middle() -> None:
    def numbers(steps: list[tuple[int, float, float]]) -> list[list[int]]:
        return [[step for step, _, _ in stretch] for _, stretch in stretches(steps)]

    assert numbers(recorded(8).steps) == [[1, 2, 3, 4, 5, 6, 7, 8]]
    assert numbers(recorded(41).steps) == [[1, 2, 3], [19, 20, 21, 22, 23]]
    assert numbers(recorded(1).steps) == [[1]]
    validated = recorded(41, {20: 4.0}).steps  # in the very middle
    assert numbers(validated)[1] == [21, 22, 23, 24, 25]
    resumed = recorded(8, {2: 86_400.0}).steps  # a day later
    assert numbers(resumed) == [[1, 2]]


def test_only_some_of_many_actors_are_drawn() -> None:
    actors = [DRIVER, *(Actor("rollout", n) for n in range(64)), *(Actor("learner", n) for n in range(64)), REWARD]
    some = drawn(actors)
    assert len(some) <= MOST_ROWS and len(set(some)) == len(some)
    assert [actor for actor in some if actor.kind in ("driver", "reward")] == [DRIVER, REWARD]
    assert {Actor("rollout", 0), Actor("rollout", 63), Actor("learner", 0), Actor("learner", 63)} <= set(some)
    found = recorded(20, workers=64)
    page = describe(found)
    assert page["table"]["left_out"] == 66 - len(page["table"]["rows"]) > 0
    assert page["headline"].startswith("rollout worked 90 %")


@pytest.mark.parametrize("kind", ["<b>&", "waiting for <weights>", ""])
def test_an_unknown_kind_of_span_is_drawn(kind: str) -> None:
    found = recorded(3)
    found.spans[ROLLOUT].append(Span(kind, found.steps[2][1] + 1.9, found.steps[2][2]))
    page = describe(found)
    assert kind in page["table"]["kinds"] and (kind, "--other", kind.startswith("waiting")) in page["legend"]
    ElementTree.fromstring(page["charts"][0]["svg"])


def test_steps_without_any_work_are_drawn() -> None:
    found = Recorded({ROLLOUT: [], LEARNER: []}, [(1, 0.0, 1.0), (2, 1.0, 1.0)])
    page = describe(found)
    assert page["headline"] == "rollout worked 0 %, learner 0 % of the time"
    for one in page["charts"]:
        ElementTree.fromstring(one["svg"])


# ---- colours ----


def schemes() -> dict[str, dict[str, str]]:
    """The style's colours by the name of their variable, of each scheme."""
    css = environment("orchestrator/report").get_template("style.css.jinja").render(ramp={"light": [], "dark": []})
    light, dark, printed = (block.partition("}")[0] for block in css.split(":root {")[1:])
    found = {"light": light, "dark": dark, "print": printed}
    return {name: dict(re.findall(r"(--\w+): (#\w+);", block)) for name, block in found.items()}


def linear(color: str) -> np.ndarray:
    """Red, green and blue of "#rgb" or "#rrggbb", from 0 to 1, as light."""
    full = color[1:] if len(color) == 7 else "".join(2 * digit for digit in color[1:])
    values = np.array([int(full[at : at + 2], 16) for at in (0, 2, 4)]) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def contrast(one: str, other: str) -> float:
    """As WCAG 2 defines it."""
    dark, light = sorted(float(linear(color) @ [0.2126, 0.7152, 0.0722]) for color in (one, other))
    return (light + 0.05) / (dark + 0.05)


def lab(color: str) -> np.ndarray:
    """CIE 1976 L*a*b*, in which equal distances look about equally far apart; 2.3 is just visible."""
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    x, y, z = np.cbrt(to_xyz @ linear(color) / [0.9505, 1.0, 1.089])
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("scheme", ["light", "dark", "print"])
def test_every_state_has_a_colour_that_can_be_told_from_the_others_and_from_idle(scheme: str) -> None:
    colors = schemes()[scheme]
    used = [colors[name] for name in {*COLORS.values(), OTHER}]
    for color in used:
        assert contrast(color, colors["--paper"]) >= 3 and contrast(color, colors["--wash"]) >= 3, color
    assert min(math.dist(lab(one), lab(other)) for one, other in combinations(used, 2)) > 20


def test_every_state_has_a_look_of_its_own() -> None:
    """The driver's waits have the colours of what it waits for, and are thin."""
    looks = legend({*COLORS} - {"handing over weights"})  # older runs'
    assert len({(color, wait) for _, color, wait in looks}) == len(looks)
    actors = [
        color for kind, color, _ in looks if kind not in (FOR_TRAJECTORIES, FOR_VERDICTS, FOR_LEARNER, FOR_WEIGHTS)
    ]
    assert len(set(actors)) == len(actors) and OTHER not in actors


# ---- in the page ----


def a_run(folder: Path, with_timeline: bool) -> str:
    folder.mkdir()
    lines = [f'{{"step": {k}, "time": {1000 + 2 * k}, "reward/mean": 0.5, "seconds/step": 2.0}}' for k in range(1, 21)]
    (folder / "metrics.jsonl").write_text("\n".join(lines))
    if with_timeline:
        found = recorded(20, {10: 1.0})
        trace = Trace(folder / "timeline.json", dict.fromkeys(found.spans, ""))
        for actor, spans in found.spans.items():
            trace.write(trace.spans(actor, spans))
        trace.write([trace.step(step, (begin, end)) for step, begin, end in found.steps])  # and no closing bracket
    return write_report(folder).read_text()


def test_the_report_shows_the_timeline_only_of_runs_that_have_one(tmp_path: Path) -> None:
    page = a_run(tmp_path / "new", True)
    for words in (
        "Who worked when",
        "Rollout worked 90\u00a0%, learner 50\u00a0%",
        "a step took 1.11 × max(sampling, learning)",
        "From the middle of the run",
        "Time at work",
        "share of the steps’ time",
        "learner rank 0",
    ):
        assert words in page, words
    used, defined = set(re.findall(r"var\((--\w+)\)", page)), set(re.findall(r"(--\w+):", page))
    assert used <= defined
    for svg in re.findall(r"<svg.*?</svg>", page, flags=re.S):
        ElementTree.fromstring(svg)
    assert "Who worked when" not in a_run(tmp_path / "old", False)
