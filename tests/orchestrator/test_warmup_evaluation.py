"""A warm-up's evaluations: on what, when, and what is written. With real engines: test_faults."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from conf.schema import Config, LearnerConf, ValidationConf, WarmupConf
from learner.written import Written
from orchestrator.base.interrupt import Interrupted
from orchestrator.tracking.console import progress
from orchestrator.training.checkpoint import CheckpointStore
from orchestrator.training.retention import Retention
from orchestrator.training.warmup_evaluation import WarmupEvaluator, in_words, record
from orchestrator.training.warmup_questions import Questions, choose_questions, refuse_no_questions
from orchestrator.training.warmup_steps import WarmupLog, learn
from reward.leakage import Leakage
from rollout.base.errors import BadInput
from rollout.data.pairs import load_pairs

# ---- on what ----


def _lines(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def _pairs(folder: Path, count: int, **more: Any) -> str:
    """more: columns, each a function of the row's number."""
    rows = []
    for n in range(count):
        row = {"problem": f"{n}+0?", "think": f"so {n}</think>{n}", "short": f"{n}"}
        rows.append(row | {name: of(n) for name, of in more.items()})
    return _lines(folder / "pairs.jsonl", rows)


def _chosen(conf: Config) -> Questions | None:
    assert conf.warmup is not None
    pairs = load_pairs(conf.warmup, conf.model)
    refuse_no_questions(conf, pairs)
    return choose_questions(conf, pairs)


def test_none_where_no_evaluation_is_configured(tmp_path: Path) -> None:
    assert _chosen(Config(warmup=WarmupConf(path=_pairs(tmp_path, 30)))) is None


def test_generated_pairs_have_generated_questions_of_each_level() -> None:
    conf = Config(warmup=WarmupConf(steps=9, evaluate_every=3, evaluate_questions=10))
    assert conf.warmup is not None
    found, levels = _chosen(conf), conf.warmup.arithmetic.levels
    assert found is not None
    each = 10 // len(levels)
    assert [problem.level for problem in found.problems] == [str(level) for level in levels for _ in range(each)]
    assert found.pairs.sha256() == load_pairs(conf.warmup).sha256()


def test_questions_of_ones_own_that_the_pairs_have_are_left_out(tmp_path: Path) -> None:
    """So the pairs stay as they are."""
    mine = [{"problem": f" {n}+0? ", "answer": n} for n in range(15, 27)]  # 15 to 19 are among the pairs
    own = ValidationConf(path=_lines(tmp_path / "own.jsonl", mine))
    conf = Config(warmup=WarmupConf(path=_pairs(tmp_path, 20), evaluate_every=3, evaluate_questions=4), validation=own)
    found = _chosen(conf)
    assert found is not None and conf.warmup is not None
    assert {problem.problem for problem in found.problems} < {f"{n}+0?" for n in range(20, 27)}
    assert found.facts == {"source": own.path, "questions": 4, "left_out_as_trained_on": 5}
    assert "5 more are left out" in found.summary
    assert found.pairs.sha256() == load_pairs(conf.warmup).sha256()
    again, other = _chosen(conf), _chosen(replace(conf, evaluate=replace(conf.evaluate, seed=1)))
    assert again is not None and again.problems == found.problems
    assert other is not None and other.problems != found.problems
    _lines(tmp_path / "own.jsonl", mine[:5])
    with pytest.raises(BadInput, match=r"validation.path=.*all of its 5 questions are among the pairs"):
        _chosen(conf)


def test_pairs_with_answers_give_some_of_their_own(tmp_path: Path) -> None:
    conf = Config(warmup=WarmupConf(path=_pairs(tmp_path, 50, answer=str), evaluate_every=3))
    found = _chosen(conf)
    assert found is not None and found.facts == {"source": "pairs", "questions": 5, "rows_held_out": 5}
    assert found.pairs.size == 45


@pytest.mark.parametrize(("count", "more", "why"), [(50, {}, "none of its rows has one"), (9, {"answer": str}, "ten")])
def test_nothing_to_evaluate_on_is_one_line(count: int, more: dict[str, Any], why: str, tmp_path: Path) -> None:
    conf = Config(warmup=WarmupConf(path=_pairs(tmp_path, count, **more), evaluate_every=3))
    with pytest.raises(BadInput) as rejected:
        _chosen(conf)
    said = str(rejected.value)
    for part in ("warmup.evaluate_every=3", "validation.path=<problems>", "warmup.answer_column=answer", why, "=0"):
        assert part in said, said
    assert "\n" not in said


# ---- when ----

STEPS, EVERY = 25, 10


class Curriculum:
    steps, too_long = STEPS, 0

    def batches(self, done: int) -> Iterator[int]:
        return iter(range(done + 1, self.steps + 1))


class Learner:
    """Answers in the order in which it was asked, and knows what is under way."""

    def __init__(self) -> None:
        self.conf, self.under_way, self.at = LearnerConf(), 0, 0

    def fine_tune(self, step: int) -> Learner:
        self.under_way, self.at = self.under_way + 1, step
        return self

    def wait(self) -> tuple[float, int]:
        self.under_way -= 1
        return 1.0, 10

    def save(self, folder: str) -> Written:
        assert not self.under_way
        Path(folder, "at").write_text(str(self.at))
        return {}

    def load(self, folder: str) -> int:
        self.at = int(Path(folder, "at").read_text())
        return self.at


class Evaluator(WarmupEvaluator):
    """Its evaluations are interrupted, or write that they took place."""

    learner: Learner
    interrupted: int | None = None  # the step at which a signal comes
    seen: list[int]

    def evaluate(self, step: int) -> None:
        assert self.learner.at == step and not self.learner.under_way
        if step == self.interrupted:
            raise Interrupted
        self.seen.append(step)
        self._take(step, record(WAYS, {}))


WAYS: dict[str, dict[str, dict[str, Any]]] = {
    way: {
        level: {
            "n": n,
            "unjudged": 0,
            "accuracy": right,
            "think_rate": {"think": 1.0, "short": 0.0}.get(way, right),
            "no_mode": 0.0,
            "truncated": 0.25,
            "tokens": 10.0 * n,
        }
        for level, n, right in (("2", 4, 1.0), ("8", 12, 0.0))
    }
    for way in ("free", "think", "short")
}


def _learnt(folder: Path, interrupted: int | None = None) -> tuple[list[int], int, list[str]]:
    """Go on in `folder`. Returns the steps evaluated, those that stand there afterwards, and what was printed."""
    conf = Config(warmup=WarmupConf(steps=STEPS, evaluate_every=EVERY))
    learner, store, said = Learner(), CheckpointStore(folder, Retention(1)), list[str]()
    done = learner.load(str(found[0])) if (found := store.latest()) else 0
    nothing: Any = None
    path = folder / "evaluations.jsonl"
    evaluator = Evaluator(conf, nothing, [], str, 18, path, STEPS, done, said.append)
    evaluator.learner, evaluator.interrupted, evaluator.seen = learner, interrupted, []
    log = WarmupLog(folder / "warmup.jsonl", STEPS, done, 0.0, learner.conf)
    curriculum: Any = Curriculum()
    real: Any = learner
    with progress(STEPS, "warm-up", enabled=False, start=done) as bar:
        try:
            assert learn(curriculum, real, store, 1e9, {}, log, bar, evaluator, done)
        except Interrupted:
            pass
        else:
            assert evaluator.summary()["step"] == STEPS
    return evaluator.seen, learner.at, said


def _steps(path: Path) -> list[int]:
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


def test_evaluations_come_at_their_steps_and_after_the_last_with_nothing_under_way(tmp_path: Path) -> None:
    seen, at, said = _learnt(tmp_path)
    assert seen == _steps(tmp_path / "evaluations.jsonl") == [10, 20, 25] and at == STEPS
    assert _steps(tmp_path / "warmup.jsonl") == [10, 20, 25]
    assert sum("evaluation at step" in line for line in said) == 3
    assert any("level 8: thinking is right on 0% only at step 10 of 25 of the warm-up; " in line for line in said)
    assert any("level 8: thinking is right on 0% only after the warm-up; " in line for line in said)


@pytest.mark.parametrize("when", [10, 20, STEPS])
def test_an_interrupted_evaluation_is_done_by_whoever_goes_on(when: int, tmp_path: Path) -> None:
    before, at, _ = _learnt(tmp_path, interrupted=when)
    assert at == when and CheckpointStore(tmp_path, Retention(1)).steps() == [when]
    after, at, _ = _learnt(tmp_path)
    assert before + after == [10, 20, 25] == _steps(tmp_path / "evaluations.jsonl") and at == STEPS
    assert _steps(tmp_path / "warmup.jsonl") == [10, 20, 25]


def test_what_a_killed_process_has_evaluated_is_not_evaluated_again(tmp_path: Path) -> None:
    """Its steps after the checkpoint are done again, and give the same weights."""
    _learnt(tmp_path, interrupted=10)  # a checkpoint of step 10
    with (tmp_path / "evaluations.jsonl").open("a") as file:
        file.write(json.dumps({"step": 10, **record(WAYS, {})}) + "\n" + json.dumps({"step": 20}) + '\n{"step": 2')
    seen, at, _ = _learnt(tmp_path)
    assert (seen, at) == ([25], STEPS) and _steps(tmp_path / "evaluations.jsonl") == [10, 20, 25]


def test_a_warm_up_that_begins_anew_is_evaluated_anew(tmp_path: Path) -> None:
    (tmp_path / "evaluations.jsonl").write_text(json.dumps({"step": 10}) + "\n")
    assert _learnt(tmp_path)[0] == [10, 20, 25]


# ---- what is written ----


def test_figures_are_over_all_answers_and_by_level() -> None:
    none, both, long = Leakage(False, None, False), Leakage(True, "wait", False), Leakage(False, None, True)
    leaks = {"2": [none] * 4, "8": [both] * 3 + [long]}
    found = record(WAYS, leaks)
    assert found["validation/accuracy"] == found["validation/accuracy/forced/short"] == 4 / 16
    assert found["validation/tokens/forced/think"] == (4 * 40 + 12 * 120) / 16
    assert found["validation/accuracy/forced/think/level/2"] == 1.0 and found["validation/think_rate/level/8"] == 0.0
    assert found["validation/leaked"] == 4 / 8 and found["validation/leaked/level/8"] == 1.0
    causes = {cause: found[f"validation/leaked/{cause}"] for cause in ("think_block", "phrase", "too_long")}
    assert causes == {"think_block": 3 / 8, "phrase": 3 / 8, "too_long": 1 / 8}
    assert found["validation/answers"] == 48 and found["validation/unjudged"] == 0
    line = in_words({"step": 3, **found})
    assert line.startswith("evaluation at step 3: thinks 25 %, ") and "reasoning in short answers 50.0 %" in line


def test_a_mode_between_has_figures_of_its_own() -> None:
    def cells(way: str, right: float) -> dict[str, dict[str, Any]]:
        rates = {f"mode_rate/{name}": 0.5 if name != "short" else 0.0 for name in ("think", "medium", "short")}
        return {level: {**cell, "accuracy": right, **rates} for level, cell in WAYS[way].items()}

    ways = {"free": cells("free", 0.5), "think": cells("think", 1.0), "medium": cells("think", 0.5)}
    found = record(ways | {"short": cells("short", 0.0)}, {})
    assert found["validation/accuracy/forced/medium"] == found["validation/mode_rate/medium"] == 0.5
    assert found["validation/tokens/forced/medium/level/2"] == 40 and found["validation/answers"] == 4 * 16
    assert "right 50 % (thinking 100 %, medium 50 %, short 0 %)" in in_words({"step": 1, **found})


def test_answers_without_a_verdict_leave_dashes() -> None:
    empty = dict.fromkeys(("accuracy", "think_rate", "no_mode", "truncated", "tokens"))
    found = record({way: {"all": {"n": 0, "unjudged": 2, **empty}} for way in WAYS}, {})
    assert found["validation/unjudged"] == 6 and found["validation/accuracy"] is None
    assert "right – (thinking –, short –)" in in_words({"step": 1, **found})
