"""The kinds that fuzzing found, by name, and that a hang and a death of a case are noticed (benchmarks/fuzz.py)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from benchmarks._fuzz import configurations, rows
from benchmarks._fuzz.children import Outcome, outcomes
from benchmarks._fuzz.configurations import Case

TINY = ("experiment=quickstart",)


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("fuzz")
    configurations.make_files(made)
    return made


def outcome(monkeypatch: pytest.MonkeyPatch, folder: Path, *words: str, base: tuple[str, ...] = TINY) -> Outcome:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return configurations.attempt(Case("train", base, words, whole=False))


FOUND = [
    ("run.record=[" + ",".join(["7"] * 1001) + "]", "at most 1000 values, got 1001"),  # minutes in OmegaConf
    ("data.unusable_answers=[" + ",".join(["a"] * 1001) + "]", "at most 1000 values"),
    ("run.name=" + "x" * 100_000, "has 100009 characters"),
    ("run.record=" + "[" * 600 + "]" * 600, "lists within each other"),  # RecursionError
    ("data.path=" + "[" * 600 + "]" * 600, "lists within each other"),
    ("rollout.max_response_tokens=???", "must have a value, got ???"),  # was ignored
    ("run.root=~no-such-user/x", "no user no-such-user"),  # RuntimeError
    ("run.root=s3://bucket/x", "a folder of this machine"),  # was a folder named s3:
    ("run.root=a\x00b", "printable"),  # ValueError
    ("reward.strict=~\x00", "not a valid value of reward.strict"),  # ValueError, of looking for a user of that name
    ("model.think_token=\ud800", "printable"),  # UnicodeEncodeError
    ("run.name=../x", "without '..'"),
    ("model.think_token=a", "2 to 100"),
    ("reward.num_cpus=0", "in [0.001, "),  # Ray's ValueError, after it had started
    ("cluster.address=everywhere", "auto, or a head's host:port"),  # an error of Ray's, much later
    ("run.root=bad.jsonl", "is no folder"),
    ("warmup.cache=problems.csv/x", "is no folder"),
    ("evaluate.instruction=\u2003", "must not be empty"),
]


@pytest.mark.parametrize(
    ("word", "said"), FOUND, ids=[word[:40].encode("ascii", "backslashreplace").decode() for word, _ in FOUND]
)
def test_each_kind_is_one_line(monkeypatch: pytest.MonkeyPatch, folder: Path, word: str, said: str) -> None:
    found = outcome(monkeypatch, folder, word)
    assert found.kind == "rejected" and said in found.text and found.text.count("\n") <= 1, found.text


def test_a_setting_below_null_is_one_line(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """OmegaConf's AssertionError."""
    found = outcome(monkeypatch, folder, "model.random.layers=1", base=configurations.OWN)
    assert found.kind == "rejected" and "model.random.layers: model.random is null here" in found.text


def test_a_good_configuration_is_accepted(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    assert outcome(monkeypatch, folder, "run.steps=3").kind == "accepted"


def test_cases_depend_on_seed_and_number_alone() -> None:
    assert [configurations.draw_case(3, n) for n in range(50)] == [configurations.draw_case(3, n) for n in range(50)]
    assert rows.draw_row(3, 7) == rows.draw_row(3, 7) != rows.draw_row(4, 7)


def test_every_key_has_its_turn() -> None:
    from conf.settings import settings

    words = {
        word.lstrip("+~").partition("=")[0]
        for n in range(4 * len(settings()))
        for word in configurations.draw_case(0, n).own
    }
    assert set(settings()) <= words


def test_a_hang_a_death_and_an_answer_are_told_apart() -> None:
    def attempt(case: str) -> Outcome:
        while case == "hangs":
            pass
        if case == "dies":
            os._exit(7)
        return Outcome("accepted", case)

    cases = ["fine", "hangs", "dies", "fine too"]
    found = dict(outcomes(attempt, cases, 2, hang_s=0.3))
    assert {case: one.kind for case, one in found.items()} == {
        "fine": "accepted", "hangs": "hang", "dies": "died", "fine too": "accepted",
    }  # fmt: skip
    assert found["dies"].text == "exit code 7"
