"""The report of complete, truncated, unusual and empty run folders."""

from __future__ import annotations

import html
import json
import re
from datetime import UTC, datetime
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml

from conf.compose import run_command, to_yaml
from conf.schema import Config
from orchestrator.report import plots, read, write_report
from orchestrator.report.plots import Dot, Line, line_plot, nice_ticks, scatter_plot, stacked_plot
from orchestrator.report.read import merged, read_run
from orchestrator.report.tables import pick_samples
from tests.helpers.runs import level_figures as figures

LEVELS = ("2", "9")


@pytest.fixture(autouse=True)
def no_recorded_grpo(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(read, "RECORDED_GRPO", tmp_path / "grpo.jsonl")


def record(step: int, **changes: Any) -> dict[str, Any]:
    share = step / 40
    return {
        **{"step": step, "time": 1000.0 + 3 * step, "seconds/step": 3.0, "seconds/rollout": 1.5, "seconds/reward": 0.2},
        **{
            "seconds/learner": 1.0,
            "weight_sync/seconds": 0.1,
            "rollout/tokens_per_s": 2000.0,
            "learner/tokens_per_s": 4000.0,
        },
        **{"reward/mean": share, "accuracy/all": 0.9, "accuracy/think": 0.95, "accuracy/short": 0.8},
        **{"think_rate/all": 0.5, "tokens/mean": 30.0, "tokens/think": 60.0, "tokens/short": 5.0},
        **{f"think_rate/level/{level}": share for level in LEVELS},
        **{f"accuracy/level/{level}": 0.9 for level in LEVELS},
        **{"loss/control": -0.1, "loss/response": 0.02, "loss/kl": 0.0, "entropy": 0.1, "mismatch/max_abs": 1e-5},
        **changes,
    }


def evaluation() -> dict[str, Any]:
    model = {
        "free": {"2": figures(0.99, 0.97, 0.01, 5), "9": figures(0.95, 0.43, 0.99, 100)},
        "think": {"2": figures(1.0, 0.5, 1, 45), "9": figures(0.96, 0.44, 1, 101)},
        "short": {"2": figures(0.99, 0.98, 0, 5), "9": figures(0.4, -0.2, 0, 5)},
    }
    weights = {"2": 0.8, "9": 0.2}
    return {"levels": list(LEVELS), "weights": weights, "models": {"warmup": model, "final": model}}


def write_lines(path: Path, lines: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "quickstart-001"
    folder.mkdir()
    (folder / "config.yaml").write_text("run:\n  steps: 40\ndata:\n  path: null\nalgorithm:\n  loss: degrpo\n")
    (folder / "provenance.json").write_text(
        json.dumps({"git_commit": "a" * 40, "packages": {"ray": "2.52"}, "seed": 7})
    )
    write_lines(folder / "metrics.jsonl", [{"step": 0, "validation/accuracy": 0.8}] + [record(k) for k in range(1, 41)])
    write_lines(folder / "warmup.jsonl", [{"step": k, "loss": 1 / k} for k in range(1, 30)])
    right = {f"validation/accuracy/forced/{mode}": 0.5 for mode in ("think", "short")}
    write_lines(folder / "warmup_evaluation.jsonl", [{"step": k, **right} for k in (10, 20, 29)])
    (folder / "evaluation.json").write_text(json.dumps(evaluation()))
    sample = {"uid": "u", "level": "9", "problem": "1+1", "answer": "2", "reward": 0.5, "outcome": "correct"}
    response = "<think>1+1=2</think>\\boxed{2}"
    write_lines(
        folder / "samples.jsonl", [sample | {"step": k, "mode": "think", "response": response} for k in range(9)]
    )
    return folder


class Page(HTMLParser):
    """Collects text and tags, and checks that tags nest."""

    VOID = ("meta", "br", "circle", "line", "path")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.words: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).replace("\u00a0", " ").split())


def report(folder: Path) -> Page:
    return Page(write_report(folder).read_text(encoding="utf-8"))


def test_a_complete_run_has_every_section(folder: Path) -> None:
    page = report(folder)
    for words in (
        "The model learnt when to think",
        "Think rate by level",
        "Accuracy by level",
        "Accuracy by mode",
        "Tokens per answer",
        "Parts of the loss",
        "Throughput",
        "Seconds per step",
        "Validation",
        "Warm-up loss",
        "Warm-up: right by mode",
        "Which mode pays",
        "Before and after",
        "99.0 %",
        "<think>1+1=2</think>\\boxed{2}",
        "commit aaaaaaaaaa",
    ):
        assert words in page.text, words
    assert page.tags.count("svg") >= 10
    assert [path.name for path in folder.iterdir() if "report" in path.name] == ["report.html"]


def test_the_page_loads_nothing_from_elsewhere(folder: Path) -> None:
    text = write_report(folder).read_text()
    addresses = re.findall(r"https?://[^\"' ]+", text)
    assert set(addresses) <= {"http://www.w3.org/2000/svg"}
    page = Page(text)
    assert not {"link", "img", "iframe"} & set(page.tags)
    assert not {"src", "href"} & {name for name, _ in page.attributes}


def test_every_colour_is_defined(folder: Path) -> None:
    text = write_report(folder).read_text()
    used, defined = set(re.findall(r"var\((--\w+)\)", text)), set(re.findall(r"(--\w+):", text))
    assert used <= defined


def test_hover_texts_show_the_recorded_values(folder: Path) -> None:
    page = report(folder)
    plots_ = [json.loads(value or "") for name, value in page.attributes if name == "data-plot"]
    tokens = next(
        plot
        for plot in plots_
        if [row[0] for row in plot["rows"]] == ["think", "short", "all"] and plot["rows"][0][2][1] == "60.0"
    )
    assert tokens["x"][:3] == [0, 1, 2] and tokens["rows"][2][2][:2] == [None, "30.0"]
    assert all(len(plot["x"]) == len(plot["at"]) == len(row[2]) for plot in plots_ for row in plot["rows"])


def test_a_truncated_last_line_is_ignored(folder: Path) -> None:
    (folder / "evaluation.json").write_text('{"levels": ["2"')
    lines = (folder / "metrics.jsonl").read_text().splitlines()[:21]
    (folder / "metrics.jsonl").write_text("\n".join(lines) + '\n{"step": 21, "reward/me')
    page = report(folder)
    assert "At step 20 of 40" in page.text and "nothing was evaluated yet" in page.text
    assert "20 of 40 steps, unfinished" in page.text


def test_a_run_with_only_its_warm_up_evaluated_is_reported(folder: Path) -> None:
    """Hollow dots, as the legend says, and nothing about a final model that there is not."""
    found = json.loads((folder / "evaluation.json").read_text())
    del found["models"]["final"]
    (folder / "evaluation.json").write_text(json.dumps(found))
    page = report(folder)
    assert "the final model has not been evaluated" in page.text and "Which mode pays" not in page.text
    assert "Before and after" in page.text and "no evaluation yet" in page.text
    dots = re.findall(r'<circle [^>]*r="5" stroke-width[^>]*>', (folder / "report.html").read_text())
    assert dots and all("var(--paper)" in dot for dot in dots)


@pytest.mark.parametrize(
    "name",
    [
        *("config.yaml", "provenance.json", "metrics.jsonl", "warmup.jsonl", "evaluation.json", "samples.jsonl"),
        "timeline.json",
    ],
)
@pytest.mark.parametrize("content", [None, "", "[1]\n", "\x00{"])
def test_any_file_may_be_missing_or_broken(folder: Path, name: str, content: str | None) -> None:
    (folder / name).unlink(missing_ok=True) if content is None else (folder / name).write_text(content)
    report(folder)


def test_an_empty_folder_has_a_report_and_a_missing_one_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "No step has been recorded yet" in report(tmp_path / "empty").text
    with pytest.raises(FileNotFoundError, match="does not exist"):
        write_report(tmp_path / "absent")


def test_null_nan_and_missing_values_leave_gaps(folder: Path) -> None:
    lines = [record(k) for k in range(1, 41)]
    lines[10]["accuracy/short"] = None
    lines[11]["accuracy/short"] = float("nan")
    lines[12]["grad_norm"] = float("inf")
    del lines[13]["accuracy/short"]
    for line in lines:
        line["accuracy/level/9"] = None
    write_lines(folder / "metrics.jsonl", lines)
    text = write_report(folder).read_text()
    Page(text)
    assert not re.search(r"\b(nan|inf|NaN|Infinity|None)\b", re.sub(r"<style>.*?</style>", "", text, flags=re.S))


def test_sampled_text_is_escaped(folder: Path) -> None:
    evil = "</pre><script>alert(1)</script>\"'&"
    sample = {
        "step": 40,
        "uid": "u",
        "level": evil,
        "problem": evil,
        "response": evil,
        "mode": "short",
        "outcome": "wrong",
    }
    write_lines(folder / "samples.jsonl", [sample | {"reward": -1.0, "answer": evil}])
    write_lines(folder / "metrics.jsonl", [record(k) | {f"think_rate/level/{evil}": 0.5} for k in range(1, 9)])
    (folder / "config.yaml").write_text(f"run:\n  note: '{evil.replace(chr(39), '')}'\n")
    (folder / "provenance.json").write_text(json.dumps({"command": evil, "packages": {evil: evil}}))
    text = write_report(folder).read_text()
    page = Page(text)
    assert page.tags.count("script") == 1 and "<script>alert" not in text
    assert evil in "".join(page.words) and html.escape(evil) not in "".join(page.words)


def test_recorded_grpo_is_drawn_only_beside_the_same_settings(folder: Path) -> None:
    assert "plain GRPO" not in report(folder).text
    settings = "run:\n  steps: 40\ndata:\n  path: null\nlearner:\n  lr: 0.0002\nrollout:\n  refill:\n    rounds: 0\n"
    read.RECORDED_GRPO.with_suffix(".yaml").write_text(settings)
    recorded = [{"step": k, "think_rate/all": 0.5, "think_rate/level/2": 0.4, "tokens/mean": 20} for k in range(60)]
    write_lines(read.RECORDED_GRPO, recorded)
    page = report(folder)
    assert "Think rate by level, plain GRPO" in page.text and ("stroke-dasharray", "5 4") in page.attributes
    same = settings + "algorithm:\n  loss: degrpo\n"
    (folder / "config.yaml").write_text(same)
    assert "plain GRPO" in report(folder).text
    for now, other in (("path: null", "path: own.jsonl"), ("0.0002", "0.0001"), ("rounds: 0", "rounds: 2"),
                       ("steps: 40", "steps: 80"), ("degrpo", "dr_grpo")):  # fmt: skip
        assert now in same
        (folder / "config.yaml").write_text(same.replace(now, other))
        assert "plain GRPO" not in report(folder).text, other


def test_the_recorded_settings_are_the_quickstarts() -> None:
    """After a change of the quickstart, record plain GRPO again: the report would not draw it."""
    conf: list[Config] = []
    run_command("train", conf.append, ["experiment=quickstart", "run.seed=5"])
    recorded = Path(read.__file__).with_name("grpo_quickstart.yaml").read_text()
    assert read.has_settings(yaml.safe_load(recorded), yaml.safe_load(to_yaml(conf[0])))


def test_missed_goals_are_listed(folder: Path) -> None:
    figures = evaluation()
    figures["models"]["final"]["free"]["2"]["accuracy"] = 0.5
    (folder / "evaluation.json").write_text(json.dumps(figures))
    page = report(folder)
    assert "6 of 8 goals met" in page.text and "missed: accuracy over the mix" in page.text


def test_a_long_run_on_data_without_levels_is_reported(folder: Path) -> None:
    keep = ("step", "reward/mean", "accuracy/all", "think_rate/all", "tokens/mean", "seconds/step")
    write_lines(folder / "metrics.jsonl", [{key: record(k)[key] for key in keep} for k in range(5000)])
    (folder / "evaluation.json").unlink()
    path = write_report(folder)
    assert path.stat().st_size < 600_000 and "Think rate by level" in Page(path.read_text()).text


def test_only_some_of_many_levels_are_drawn(folder: Path) -> None:
    write_lines(
        folder / "metrics.jsonl", [record(k) | {f"think_rate/level/{n}": 0.5 for n in range(40)} for k in range(9)]
    )
    (folder / "evaluation.json").unlink()
    page = report(folder)
    assert "level 0" in page.text and "level 39" in page.text and "level 20" not in page.text


def test_repeated_steps_of_a_resumed_run_replace_the_first_ones() -> None:
    before = [{"step": k, "reward/mean": 0.0} for k in range(1, 8)] + [{"step": 4, "validation/accuracy": 0.5}]
    after = [{"step": k, "reward/mean": 1.0} for k in (5, 6)]
    steps = merged(before + after)
    assert [(line["step"], line["reward/mean"]) for line in steps] == [(1, 0), (2, 0), (3, 0), (4, 0), (5, 1), (6, 1)]
    assert steps[3]["validation/accuracy"] == 0.5


def test_levels_are_in_order_of_difficulty(folder: Path) -> None:
    write_lines(
        folder / "metrics.jsonl", [{"step": 1} | {f"accuracy/level/{n}": 1 for n in ("10", "9", "hard", "2", "easy")}]
    )
    assert read_run(folder).levels == ["2", "9", "10", "easy", "hard"]


def test_samples_are_chosen_across_outcomes_from_late_steps() -> None:
    def sample(step: int, mode: str, right: bool, level: str) -> dict[str, Any]:
        return {"step": step, "mode": mode, "outcome": "correct" if right else "wrong", "level": level}

    easy = [sample(k, "short", True, "2") for k in range(100)]
    others = [sample(90, "think", True, "9"), sample(80, "short", False, "9"), sample(70, "think", False, "9")]
    picked = pick_samples(easy + others + [sample(3, "think", True, "2")], ["2", "9"])
    assert len(picked) == 6
    assert {(s["mode"], s["outcome"]) for s in picked} == {
        (m, o) for m in ("think", "short") for o in ("correct", "wrong")
    }
    assert min(s["step"] for s in picked) >= 50
    assert pick_samples([], ["2"]) == []
    assert len(pick_samples(easy[:2], [])) == 2


def test_a_very_long_answer_is_clipped(folder: Path) -> None:
    sample = {"step": 40, "mode": "think", "outcome": "cut_off", "response": "<think>" + "wait " * 9999, "problem": "p"}
    write_lines(folder / "samples.jsonl", [sample])
    path = write_report(folder)
    assert "characters left out" in path.read_text() and path.stat().st_size < 300_000


def test_axis_ticks_are_round_numbers() -> None:
    assert nice_ticks(0, 7, 4) == [0, 2, 4, 6]
    assert nice_ticks(0, 1, 4) == [0, 0.25, 0.5, 0.75, 1]
    assert nice_ticks(3, 3, 4) == [3]
    assert nice_ticks(0, 7e-14, 3) == [0, 2.5e-14, 5e-14]


@pytest.mark.parametrize(
    "values", [[None], [0.0], [0.0, 0.0], [5.0, None, 5.0], [-1.0, -2.0], [1e-9, 1e9], [0.5] * 2000]
)
@pytest.mark.parametrize("log", [False, True])
def test_any_line_is_well_formed_svg_inside_its_frame(values: list[float | None], log: bool) -> None:
    line = Line("a<b", [(k, value) for k, value in enumerate(values)], "--ink")
    for svg in (
        line_plot([line], "x", log=log),
        line_plot([line], "x", log=log, small=True),
        stacked_plot([line, line], "x", float(len(values))),
    ):
        if svg:
            ElementTree.fromstring(svg)
            assert not re.search(r"nan|inf", svg)


def test_a_point_between_two_gaps_is_a_dot() -> None:
    points = [(0, 1.0), (1, None), (2, 2.0), (3, None), (4, 3.0), (5, 3.0)]
    (drawn,) = re.findall(r'<path class="line" [^>]* d="([^"]*)"', line_plot([Line("l", points, "--ink")], "x"))
    assert re.sub(r"[\d.]+,[\d.]+", "", drawn) == "Mh.01Mh.01ML"


def test_line_labels_do_not_overlap() -> None:
    lines = [Line(f"l{k}", [(0, 0.99), (1, 0.99 + k / 1000)], "--ink") for k in range(5)]
    svg = ElementTree.fromstring(line_plot(lines, "x", y=(0, 1)))
    heights = sorted(float(text.get("y", "")) for text in svg.iter("text") if text.get("class") == "end")
    assert all(b - a >= plots.LABEL_GAP - 0.2 for a, b in pairwise(heights))


def test_a_scatter_plot_of_equal_points_is_drawn() -> None:
    dots = [Dot("a", "a", 10.0, 1.0, 0.99, 1.0, "--ink"), Dot("b", "", 10.0, 1.0, 0.99, 1.0, "--ink", hollow=True)]
    ElementTree.fromstring(scatter_plot(dots, "x"))
    ElementTree.fromstring(scatter_plot([Dot("a", "a", 0.0, 0.0, 0.0, 0.1, "--ink")], "x"))
    assert scatter_plot([], "x") == ""


def test_answers_before_training_are_shown_separately(folder: Path) -> None:
    lines = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    assert lines[0]["step"] == 0 and "Answers before training" in report(folder).text
    lines[0] |= {"response": "<think>it was wrong then", "outcome": "wrong"}
    write_lines(folder / "samples.jsonl", lines)
    before, _, later = report(folder).text.partition("Answers before training")[2].partition("Sample answers")
    assert "it was wrong then" in before and "it was wrong then" not in later
    write_lines(folder / "samples.jsonl", lines[1:])
    assert "Answers before training" not in report(folder).text


def test_answers_without_a_verdict_are_warned_about(folder: Path) -> None:
    assert "no verdict" not in report(folder).text
    lines = [record(k) for k in range(1, 41)]
    lines[7] |= {"unjudged": 16, "outcome/correct": 0.5, "outcome/wrong": 0.25, "unjudged/timed_out": 16}
    write_lines(folder / "metrics.jsonl", lines)
    text = report(folder).text
    assert "In 1 of 40 steps, 16 answers (25.0 % of those steps’) have no verdict: the check timed out: 16." in text
    failures = [
        {"step": 8, "during": "step 8", "outcome": "raised", "error": "KeyError: 'a'", "where": "own.py:7"},
        {"step": 9, "during": "step 9", "outcome": "raised", "error": "KeyError: 'b'", "where": "own.py:7"},
        {
            "step": 9,
            "during": "step 9",
            "outcome": "timed_out",
            "error": "no answer in 5 s",
            "where": None,
            "about": "x",
        },
    ]
    write_lines(folder / "unjudged.jsonl", failures)
    text = report(folder).text
    first, second = "First at step 8: KeyError: 'a' (own.py:7)", "First at step 9: no answer in 5 s, on x"
    assert text.index(first) < text.index(second) and "'b'" not in text
    write_lines(folder / "metrics.jsonl", [record(k) for k in range(1, 41)])
    text = report(folder).text
    assert "Answers to a validation or an evaluation have no verdict" in text and first in text


def test_the_page_says_how_and_where_the_run_was_started(folder: Path) -> None:
    provenance = {
        "command": "/opt/env/bin/thinkless train 'run.root=/my runs'",
        "started": "2026-11-28T14:00:00+0000",
        "hardware": {
            "cpu": "Some CPU @ 2.5GHz",
            "cores": 2,
            "memory_gib": 23.5,
            "gpus": ["One, 80 GiB", "One, 80 GiB"],
        },
    }
    sessions = [
        {"started": "2026-11-28T14:00:00+0000", "ended": "2026-11-28T14:05:00+0000"},
        {"started": "2026-11-28T15:00:00+0000", "ended": "2026-11-28T15:03:00+0000"},
    ]
    (folder / "provenance.json").write_text(json.dumps(provenance | {"sessions": sessions}))
    lines = [record(k) | {"memory/host_gib": 3.0 + k / 40, "learner/memory_gib/learn": 0.5} for k in range(1, 41)]
    write_lines(folder / "metrics.jsonl", lines)
    text = report(folder).text
    assert "8 min in all, 117 s of it training" in text and "resumed2026-11-28 15:00:00" in text
    assert str(provenance["command"]) in text
    assert "Some CPU @ 2.5GHz, 2 cores, 23.5 GiB of memory, 2 × One, 80 GiB" in text
    assert "4.00 GiB, all processes together; 0.500 GiB, a learner rank" in text


def test_a_killed_sessions_time_ends_with_its_last_record(folder: Path) -> None:
    begin = datetime.fromtimestamp(1000.0, UTC).strftime("%Y-%m-%dT%H:%M:%S%z")
    for provenance in ({"started": begin}, {"started": begin, "sessions": [{"started": begin}]}):
        (folder / "provenance.json").write_text(json.dumps(provenance))
        assert read_run(folder).wall_seconds == pytest.approx(120.0)
    (folder / "provenance.json").write_text("{}")
    assert read_run(folder).wall_seconds is None


def test_the_page_says_how_to_serve_the_model(folder: Path) -> None:
    assert "vllm serve" not in report(folder).text  # there is no model
    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_text("{}")
    page = report(folder)
    assert f"serve {folder / 'model'} --served-model-name quickstart-001" in page.text
    assert '"content": "1+1"' in page.text


def test_other_data_has_figures_without_goals(folder: Path) -> None:
    (folder / "config.yaml").write_text(
        "run:\n  steps: 40\ndata:\n  path: own.jsonl\nreward:\n  function: own:score\nalgorithm:\n  loss: degrpo\n"
    )
    found = evaluation() | {"questions_per_level": 60, "questions": {"2": 40, "9": 20}, "temperature": 0.6}
    (folder / "evaluation.json").write_text(json.dumps(found | {"rewards": {"correct_short": 1}}))
    text = report(folder).text
    assert "goal" not in text.lower() and "met" not in text.split() and "After 40 steps: it thinks" in text
    assert "Measured on 60 held-out problems in all at temperature 0.6" in text
    assert "Rewards: those that own:score gives." in text and "a right short answer." not in text


def test_each_axis_is_named_and_lines_that_are_not_labelled_have_a_legend(folder: Path) -> None:
    lines = [record(k) | {"mismatch/mean_abs": 1e-7} for k in range(1, 41)]
    write_lines(folder / "metrics.jsonl", lines)
    text = write_report(folder).read_text()
    plots_ = re.findall(r"<svg [^>]*data-plot.*?</svg>", text, re.S)
    assert len(plots_) > 10 and all(">step</text>" in svg for svg in plots_)
    health = text[text.index("<h2>Health</h2>") :]
    legend = re.search(r"Sampler/learner \|Δ log-prob\|</h3><p class=\"note legend\">(.*?)</p>", health)
    assert legend and "</i>max 1e-05" in legend[1] and "</i>mean 1e-07" in legend[1]
    assert not any(">max<" in svg for svg in plots_)  # small plots name no line at its end
