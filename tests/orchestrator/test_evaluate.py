"""`thinkless evaluate`: answers sampled by a real engine and graded, kept as they come; its tables.

The figures themselves are tested in test_evaluation_figures.py.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conf.compose import composed
from conf.schema import Config, DataConf, EvaluateConf, ModelConf, RewardConf, RolloutConf
from orchestrator.base.journal import Journal
from orchestrator.commands.cli import run
from orchestrator.commands.evaluate import folder_name
from orchestrator.commands.warmup import kept_bound
from orchestrator.evaluation.answers import Answer, ways_of
from orchestrator.evaluation.benchmarks import with_benchmark
from orchestrator.evaluation.collect import Collector
from orchestrator.evaluation.page import render
from orchestrator.evaluation.results import grids, results
from orchestrator.evaluation.words import no_dial, tables
from orchestrator.training.evaluation import level_of, protocol
from reward.grader import Grader
from reward.leakage import TOO_LONG
from reward.worker import RewardWorker
from rollout.base.errors import BadInput
from rollout.data.tokens import load_tokenizer
from rollout.mode import MODES, ControlTokens
from rollout.prompt import Prompt
from rollout.request import SamplingParams
from rollout.sampler import Sampler
from rollout.worker import RolloutWorker
from tests.helpers.handles import LocalHandle
from tests.helpers.prompts import make_prompts

WAYS = ways_of(MODES)
CONF = Config(
    data=DataConf(path="problems.jsonl"),
    evaluate=EvaluateConf(samples=2, max_response_tokens=8, seed=3),
    rollout=RolloutConf(workers=1, max_num_seqs=8),
    reward=RewardConf(processes=1),
)


@pytest.fixture(scope="module")
def graders(tiny_model: Path, control: ControlTokens) -> Iterator[dict[str, Grader]]:
    confs = {name: replace(CONF.reward, strict=name == "strict") for name in ("strict", "lenient")}
    workers = {name: RewardWorker(conf, str(tiny_model), control, CONF.model) for name, conf in confs.items()}
    yield {name: Grader([LocalHandle(worker)], confs[name]) for name, worker in workers.items()}
    for worker in workers.values():
        worker.close()


class Stops(Journal):
    """Is interrupted before it takes one answer more than `left`."""

    left = 0

    def add(self, record: Any) -> None:
        if not self.left:
            raise KeyboardInterrupt
        self.left -= 1
        super().add(record)


def opened(path: Path, kind: type[Journal] = Journal) -> Journal:
    return kind(path, lambda line, place: Answer.of(dict(line)), by="way")


def test_an_evaluation_that_was_stopped_goes_on_to_the_same_answers(
    rollout_worker: RolloutWorker, graders: dict[str, Grader], tiny_model: Path, control: ControlTokens, tmp_path: Path
) -> None:
    """Stopped in the middle of a way, with half a line written; nothing that is there is asked for again."""
    worker, prompts = LocalHandle(rollout_worker), make_prompts(12)
    sampler = Sampler([worker], SamplingParams(1.0, 1.0, 8))
    collector = Collector(CONF, sampler, graders, load_tokenizer(tiny_model, ModelConf()), control)
    whole, told = opened(tmp_path / "whole.jsonl"), list[int]()
    collector.collect(prompts, whole, told.append)
    assert sum(told) == len(whole.kept) == 3 * 12 * 2
    assert {key[1] for key in whole.kept} == set(WAYS)
    for (_, way, _), answer in whole.kept.items():
        assert way == "free" or answer.mode == way
        assert (answer.logprob == 0) is (way != "free") and 1 <= answer.tokens <= 8
        assert answer.lenient or not answer.strict

    stopped = opened(tmp_path / "stopped.jsonl", Stops)
    assert isinstance(stopped, Stops)
    stopped.left = 31
    with pytest.raises(KeyboardInterrupt):
        collector.collect(prompts, stopped, told.append)
    stopped.close()
    with (tmp_path / "stopped.jsonl").open("a") as file:
        file.write('{"uid": "random/0/9", "way": "thi')
    again, before = opened(tmp_path / "stopped.jsonl"), len(worker.calls)
    assert len(again.kept) == 31
    collector.collect(prompts, again, told.append)
    asked = sum(len(args[0].siblings) for method, args in worker.calls[before:] if method == "sample")
    assert asked <= 3 * 12 * 2 - 31 + 1  # whole problems
    assert again.kept == whole.kept
    for journal in (whole, again):
        journal.close()
    assert len((tmp_path / "stopped.jsonl").read_text().splitlines()) == 72


def test_longer_than_the_warm_ups_short_answers_is_a_sign_of_reasoning(
    rollout_worker: RolloutWorker, graders: dict[str, Grader], tiny_model: Path, control: ControlTokens, tmp_path: Path
) -> None:
    sampler = Sampler([LocalHandle(rollout_worker)], SamplingParams(1.0, 1.0, 8))
    tokenizer = load_tokenizer(tiny_model, ModelConf())
    found = {}
    for longest in (None, 3):
        journal = opened(tmp_path / f"{longest}.jsonl")
        collector = Collector(CONF, sampler, graders, tokenizer, control, longest)
        collector.collect(make_prompts(8), journal, lambda count: None)
        journal.close()
        found[longest] = {key: TOO_LONG in one.leaks for key, one in journal.kept.items() if one.mode == "short"}
    assert not any(found[None].values()) and sum(found[3].values()) > 8


def test_the_bound_is_kept_with_the_model_or_its_run(tmp_path: Path) -> None:
    model = tmp_path / "run" / "model"
    model.mkdir(parents=True)
    assert kept_bound(str(model)) is None and kept_bound("org/of-the-hub") is None
    (tmp_path / "run" / "warmup.json").write_text('{"evaluation": {"longest_short_answer": 12}}')  # of an older run
    assert kept_bound(str(model)) == 12
    (model / "warmup.json").write_text('{"longest_short_answer": 9, "evaluation": {"longest_short_answer": 9}}')
    assert kept_bound(str(model)) == 9
    (model / "warmup.json").write_text('{"longest_short_answer": null}')
    assert kept_bound(str(model)) is None


def test_more_samples_than_an_engine_runs_at_a_time_wait(
    rollout_worker: RolloutWorker, graders: dict[str, Grader], tiny_model: Path, control: ControlTokens, tmp_path: Path
) -> None:
    conf = replace(CONF, evaluate=replace(CONF.evaluate, samples=50), rollout=replace(CONF.rollout, max_num_seqs=2))
    sampler = Sampler([LocalHandle(rollout_worker)], SamplingParams(1.0, 1.0, 8))
    journal = opened(tmp_path / "answers.jsonl")
    Collector(conf, sampler, graders, load_tokenizer(tiny_model, ModelConf()), control).collect(
        make_prompts(1), journal, lambda count: None
    )
    journal.close()
    assert len(journal.kept) == 3 * 50


def evaluated(names: Sequence[str | None], samples: int, conf: EvaluateConf) -> dict[str, Any]:
    """Figures of a model that is always right when it thinks (40 tokens) and never when it does not (5)."""
    prompts = [Prompt(f"p/{i}", "?", np.empty(0, np.int32), "1", "own", level) for i, level in enumerate(names)]
    answers = []
    for prompt in prompts:
        for way in WAYS:
            for sample in range(samples):
                thinks = way == "think" or (way == "free" and sample % 2 == 0)
                answers.append(
                    Answer(
                        prompt.uid, way, sample, "think" if thinks else "short", "correct" if thinks else "wrong",
                        thinks, thinks, 0.5 if thinks else -1.0, "1", 40 if thinks else 5,
                        float(np.log(0.5)) if way == "free" else 0.0,
                    )
                )  # fmt: skip
    found = protocol(Config(evaluate=conf), prompts)
    found["weights"] = {level: 1 / len(found["levels"]) for level in found["levels"]}
    levels = {prompt.uid: level_of(prompt) for prompt in prompts}
    ways = grids(answers, levels, samples, found["weights"])
    return found | {"model": "m", "too_long": 0} | results(ways, levels, conf)


def test_the_tables_say_what_was_measured_in_text_and_markdown() -> None:
    conf = EvaluateConf(samples=4, token_budget=20)
    found = evaluated(["easy"] * 30 + ["hard"] * 10, 4, conf)
    json.dumps(found, allow_nan=False)
    text = "\n\n".join(one.text() for one in tables(found, conf))
    lines = text.splitlines()
    assert [line.split()[:2] for line in lines[1:4]] == [["easy", way] for way in WAYS]
    assert [line.split()[:3] for line in lines[7:10]] == [["all", way, "40"] for way in WAYS]
    assert "all: levels by their share (easy: 50 %, hard: 50 %)" in text
    assert "pass@k, free" in text and "majority@k, think" in text
    assert "always think" in text and "upper bound" not in text and "20 tokens" in text
    pages = "\n".join(one.markdown() for one in tables(found, conf, whole_dial=True))
    header, rule, first = pages.splitlines()[:3]
    assert header.startswith("| level | way |") and set(rule) <= set("|-:") and first.count("|") == header.count("|")


def test_the_page_needs_nothing_else_and_says_what_the_choice_is_worth() -> None:
    conf = EvaluateConf(samples=4)
    found = evaluated(["easy"] * 30 + ["hard"] * 10, 4, conf)
    page = render(found, ["model: <m>"], list(tables(found, conf)))
    assert page.count("<svg") == 3 and "model: &lt;m&gt;" in page and page.count("<table>") == 5
    assert 'src="http' not in page and 'href="http' not in page
    assert "Right on 50 % with 22.5 tokens an answer; always thinking 100 % with 40.0." in page
    assert "about as often as a choice at random" in page
    silent = {**found, "routing": None, "dial": None, "calibration": None}
    assert "<svg" not in render(silent, [], []) and "No problem has a judged answer" in render(silent, [], [])


def test_a_budget_below_short_answers_is_said() -> None:
    conf = EvaluateConf(samples=1, token_budget=4)
    found = evaluated([None] * 8, 1, conf)
    text = "\n".join(one.text() for one in tables(found, conf))
    assert "evaluate.token_budget=4: even short answers take 5.0 on average" in text
    assert "is an upper bound" in text and "several samples" not in text


def test_what_is_not_on_the_dials_curve_is_said() -> None:
    conf = EvaluateConf(samples=1, top_p=0.9)
    found = evaluated([None] * 8, 1, conf)
    found["routing"]["problems"] = 11
    found["dial"]["certain"] = 2
    text = "\n".join(one.text() for one in tables(found, conf))
    assert "3 problems are not in it: evaluate.top_p=0.9 leaves them one mode alone" in text
    assert "2 problems have one mode for certain" in text
    assert no_dial(EvaluateConf()).endswith("their answers begin with no control token")


def test_the_folder_is_that_of_the_same_answers(tmp_path: Path) -> None:
    """What determines the answers is in its name, the machine and the figures that are asked for are not."""
    (tmp_path / "config.json").write_text("{}")
    prompts = [Prompt("p/1", "?", np.empty(0, np.int32), "1", "own/problems", None)]

    def name(conf: Config) -> str:
        return folder_name(conf, protocol(conf, prompts) | {"model": str(tmp_path), "too_long": 0})

    same = name(CONF)
    assert same.startswith("evaluate-own-problems-")
    assert same == name(replace(CONF, rollout=replace(CONF.rollout, workers=4)))
    assert same == name(replace(CONF, reward=replace(CONF.reward, workers=4)))
    assert same == name(replace(CONF, evaluate=replace(CONF.evaluate, token_budget=9.0, tolerated_error=0.2)))
    others = [
        replace(CONF, evaluate=replace(CONF.evaluate, seed=4)),
        replace(CONF, evaluate=replace(CONF.evaluate, temperature=0.5)),
        replace(CONF, reward=replace(CONF.reward, strict=not CONF.reward.strict)),
        replace(CONF, run=replace(CONF.run, seed=5)),
    ]
    assert len({same, *map(name, others)}) == 5
    (tmp_path / "config.json").write_text('{"a": 1}')
    assert name(CONF) != same  # another model


def written(folder: Path, model: str, right: float, seed: int, uids: int = 60) -> Path:
    """As `thinkless evaluate` leaves it: a model that is right on that share of its answers."""
    rng, folder = np.random.default_rng(seed), folder / model
    folder.mkdir(parents=True)
    prompts = [Prompt(f"p/{i}", "?", np.empty(0, np.int32), "1", "own", None) for i in range(uids)]
    levels = {prompt.uid: level_of(prompt) for prompt in prompts}
    found = protocol(CONF, prompts) | {"model": f"/models/{model}", "too_long": 0}
    journal = opened(folder / "answers.jsonl")
    for uid in levels:
        for way in WAYS:
            for sample in range(2):
                outcome = "correct" if rng.random() < right else "wrong"
                mode = "think" if way == "free" else way
                one = Answer(uid, way, sample, mode, outcome, None, None, 0.5, "1", 9, -0.1)
                journal.add(one.as_json())
    journal.close()
    ways = grids(journal.kept.values(), levels, 2, found["weights"])
    (folder / "evaluation.json").write_text(json.dumps(found | results(ways, levels, CONF.evaluate)))
    (folder / "problems.json").write_text(json.dumps(levels))
    return folder


def test_models_are_compared_from_their_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base, better = written(tmp_path, "base", 0.4, 1), written(tmp_path, "better", 0.8, 2)
    run("compare", [str(base), str(better)])
    header, first, second, *notes = capsys.readouterr().out.splitlines()
    assert header.split()[0] == "model" and first.split()[0] == "base" and second.split()[0] == "better"
    assert second.split()[-1] == "1.000" and "over the 60 problems" in notes[0]
    run("compare", ["--json", str(base), str(better)])
    (difference,) = json.loads(capsys.readouterr().out)["differences"]
    assert difference["accuracy"]["low"] > 0.2 and difference["token_ratio"]["value"] == 1


def test_what_cannot_be_compared_is_one_line(tmp_path: Path) -> None:
    base, other = written(tmp_path, "base", 0.4, 1), written(tmp_path, "other", 0.8, 2, uids=50)
    for arguments, said in (
        ([str(base)], "two or more folders"),
        ([str(base), str(other)], "only answers to the same ones can be compared"),
        ([str(base), str(tmp_path)], r"evaluation\.json is missing: give a folder"),
    ):
        with pytest.raises(BadInput, match=said):
            run("compare", arguments)


# ---------------------------------------------------------------- benchmarks and prompts


def test_a_benchmark_is_the_whole_of_its_pinned_set() -> None:
    run_of = replace(CONF, data=DataConf(path="train.jsonl", revision="abc", level_column="grade"))
    found = with_benchmark(replace(run_of, evaluate=replace(CONF.evaluate, benchmark="gsm8k")))
    data = found.data
    assert (data.path, data.split, data.revision, data.level_column) == ("openai/gsm8k", "test", None, None)
    assert found.evaluate.questions == 1319 and found.validation.path is None
    assert with_benchmark(run_of) is run_of
    pinned = replace(CONF.evaluate, benchmark="amc", revision="0" * 40)
    assert with_benchmark(replace(CONF, evaluate=pinned)).data.revision == "0" * 40


@pytest.mark.parametrize(
    "name, said",
    [
        ("aime_24", "did you mean aime24? there are aime24, aime25"),
        ("amc", "of which no commit is pinned here: give evaluate.revision=<commit>"),
    ],
)
def test_a_benchmark_that_is_not_known_is_one_line(name: str, said: str) -> None:
    with pytest.raises(BadInput, match=re.escape(said)):
        with_benchmark(replace(CONF, evaluate=replace(CONF.evaluate, benchmark=name)))


def test_the_papers_protocol_is_a_preset() -> None:
    paper = composed(["evaluate=paper"]).evaluate
    assert paper.instruction is not None and paper.instruction.endswith("\\boxed{}")
    assert (paper.temperature, paper.top_p, paper.samples) == (0.6, 0.95, 5)
    assert composed([]).evaluate.instruction is None
