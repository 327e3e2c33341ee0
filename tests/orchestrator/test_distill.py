"""Distillation: no answer is lost and none asked for twice, whatever an endpoint or a signal does; what is chosen, what
is left out and why; and a warm-up takes the result.
"""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

from benchmarks._distill.chat_server import (
    ChatServer,
    Reply,
    by_model,
    flaky,
    question_of,
    serving,
    short_answer,
    total,
)
from conf.choices import Keep, LongAnswer, OverLength, Pairing
from conf.distill import DistillConf, TeacherConf
from conf.schema import Config, DataConf, RewardConf, TrackerConf, WarmupConf
from orchestrator.base.errors import RunError
from orchestrator.commands import distill
from orchestrator.distill.answers import Ask
from orchestrator.distill.engines import Teacher
from rollout.base.errors import BadInput
from rollout.data.pairs import load_pairs
from rollout.data.problems import Problem
from rollout.data.tokens import build_character_tokenizer
from tests.helpers.launched import THINKLESS

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def chat() -> Iterator[ChatServer]:
    with serving(ChatServer()) as server:
        yield server


def problems(folder: Path, *questions: str, level: Callable[[str], Any] = lambda question: None) -> str:
    rows = [{"problem": q, "answer": str(total(q)), "level": level(q)} for q in questions]
    (folder / "problems.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return str(folder / "problems.jsonl")


SUMS = [f"{a}+{b}?" for a in range(1, 6) for b in range(11, 15)]


def configured(chat: ChatServer, folder: Path, *questions: str, **settings: Any) -> Config:
    teacher = TeacherConf(endpoint=chat.url, concurrency=8, timeout_s=20.0)
    conf = DistillConf(
        out=str(folder / "pairs"),
        think=replace(teacher, name="long"),
        short=replace(teacher, name="short"),
        samples=2,
        backoff_s=0.001,
        **settings,
    )
    data = DataConf(path=problems(folder, *(questions or SUMS)))
    return Config(data=data, distill=conf, tracker=TrackerConf(console=False), reward=RewardConf(strict=True))


def rows_of(conf: Config) -> list[dict[str, Any]]:
    return rows_in(Path(str(conf.distill.out)))


def rows_in(folder: Path) -> list[dict[str, Any]]:
    return [row for path in sorted(folder.glob("part-*")) for row in pyarrow.parquet.read_table(path).to_pylist()]


def card_of(conf: Config) -> dict[str, Any]:
    return dict(json.loads((Path(str(conf.distill.out)) / "card.json").read_text()))


def dropped_of(conf: Config) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (Path(str(conf.distill.out)) / "dropped.jsonl").read_text().splitlines()]


def test_a_flaky_endpoint_costs_no_answer_and_none_comes_twice(chat: ChatServer, tmp_path: Path) -> None:
    chat.fault = flaky
    conf = configured(chat, tmp_path)
    distill.command(conf)
    assert {*chat.faults} == {"429", "500", "503", "drop", "half", "garbage", "slow"}
    assert len(chat.asked()) == len(SUMS) * 2 * 2 and {*chat.asked().values()} == {1}
    rows = rows_of(conf)
    assert [row["problem"] for row in rows] == SUMS
    for row in rows:
        assert f"\\boxed{{{total(row['problem'])}}}" in row["think"] and row["think"].count("</think>") == 1
        assert "think>" not in row["short"] and row["short"].endswith(f"\\boxed{{{total(row['problem'])}}}.")
        assert (row["think_teacher"], row["short_teacher"]) == ("long", "short")
    assert chat.most <= 2 * 8


def test_the_result_is_what_a_warm_up_takes(
    chat: ChatServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    conf = configured(chat, tmp_path, shard_rows=7)
    distill.command(conf)
    out = Path(str(conf.distill.out))
    assert [path.name for path in sorted(out.glob("*.parquet"))] == [f"part-0000{i}-of-00003.parquet" for i in range(3)]
    last = capsys.readouterr().out.strip().splitlines()[-1]
    assert "warmup" in last and last.endswith(f"warmup.path={out}")
    pairs = load_pairs(WarmupConf(path=str(out)))
    assert pairs.size == len(SUMS) and not pairs.unusable and not pairs.summary()
    assert {pairs.at(i).problem for i in range(len(SUMS))} == {*SUMS}


def test_a_shard_that_is_missing_or_half_written_is_one_line(chat: ChatServer, tmp_path: Path) -> None:
    conf = configured(chat, tmp_path, shard_rows=7)
    distill.command(conf)
    shard = Path(str(conf.distill.out)) / "part-00001-of-00003.parquet"
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(BadInput, match=r"part-00001-of-00003.parquet: not a .parquet file"):
        load_pairs(WarmupConf(path=str(conf.distill.out)))
    shard.unlink()
    with pytest.raises(BadInput, match=r"2 of the 3 shards of part\.parquet are there"):
        load_pairs(WarmupConf(path=str(conf.distill.out)))
    distill.command(conf)  # from the answers that are there
    assert load_pairs(WarmupConf(path=str(conf.distill.out))).size == len(SUMS)


def test_the_same_command_again_asks_for_nothing(chat: ChatServer, tmp_path: Path) -> None:
    conf = configured(chat, tmp_path)
    distill.command(conf)
    first, asked = rows_of(conf), len(chat.served)
    distill.command(conf)
    assert len(chat.served) == asked and rows_of(conf) == first
    distill.command(replace(conf, distill=replace(conf.distill, samples=3)))  # only the third of each
    assert len(chat.served) == asked * 3 // 2 and {*chat.asked().values()} == {1}


def test_a_process_that_is_ended_loses_nothing_that_was_written(chat: ChatServer, tmp_path: Path) -> None:
    """SIGKILL in the middle, then Ctrl-C; then it goes on. Answers that were under way may be asked for again, written
    ones not, and the data set is the same as without."""
    conf = configured(chat, tmp_path)
    arguments = [
        f"data.path={conf.data.path}", f"distill.out={conf.distill.out}", "distill.samples=2", "tracker.console=false",
        *(f"distill.{side}.{key}" for side, name in (("think", "long"), ("short", "short"))
          for key in (f"endpoint={chat.url}", f"name={name}", "concurrency=4")),
    ]  # fmt: skip
    journal = Path(str(conf.distill.out)) / "_sampled" / "answers.jsonl"
    kept: list[bytes] = []
    for count, number in ((10, signal.SIGKILL), (30, signal.SIGINT)):
        chat.hold_after = len(chat.served) + count - len(kept)
        process = subprocess.Popen([THINKLESS, "distill", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        while process.poll() is None and not (journal.is_file() and len(journal.read_bytes().splitlines()) >= count):
            time.sleep(0.01)
        process.send_signal(number)
        said = process.communicate()[1].decode()
        assert process.returncode == (130 if number == signal.SIGINT else -number), said
        assert number != signal.SIGINT or "every answer that is there is kept: the same command goes on" in said
        with journal.open("ab") as file:
            file.write(b'{"uid": "half of a li')
        lines = journal.read_bytes().splitlines()[:-1]
        assert lines[: len(kept)] == kept and len(lines) == count
        kept = lines
    chat.hold_after = None
    before = len(chat.served)
    distill.command(conf)
    lines = journal.read_bytes().splitlines()
    keys = {tuple(json.loads(line)[name] for name in ("uid", "side", "sample")) for line in lines}
    assert lines[: len(kept)] == kept and len(lines) == len(keys) == len(SUMS) * 4
    assert len(chat.served) - before == len(lines) - len(kept)
    undisturbed = replace(conf, distill=replace(conf.distill, out=str(tmp_path / "other")))
    distill.command(undisturbed)
    assert rows_of(conf) == rows_of(undisturbed)


# ---- what an endpoint may do ----


def test_a_limit_holds_for_all_requests_and_is_waited_for(chat: ChatServer, tmp_path: Path) -> None:
    """429 to the first ten requests: none begins before Retry-After has passed."""
    begun: list[tuple[float, bool]] = []

    def limit(body: dict[str, Any], attempt: int) -> str | None:
        limited = len(begun) < 10
        begun.append((time.monotonic(), limited))
        return "429" if limited else None

    chat.fault, chat.retry_after = limit, "0.5"
    conf = configured(chat, tmp_path)
    distill.command(replace(conf, distill=replace(conf.distill, think=replace(conf.distill.think, concurrency=1))))
    first = begun[0][0]
    assert all(limited or at - first >= 0.5 for at, limited in begun)
    assert len(chat.served) == len(SUMS) * 4


def test_an_endpoint_that_stays_down_ends_it_with_one_line_and_keeps_the_answers(
    chat: ChatServer, tmp_path: Path
) -> None:
    chat.fault = lambda body, attempt: "503" if len(chat.served) >= 20 else None
    conf = configured(chat, tmp_path, retries=2)
    with pytest.raises(
        RunError,
        match=r"distill\.(think|short)\.endpoint=http.* failed 3 times, at last: .*503.*; failures so far: 503: ",
    ) as error:
        distill.command(conf)
    assert "\n" not in str(error.value) and "the same command goes on" in str(error.value)
    assert not (tmp_path / "pairs" / "card.json").exists()
    chat.fault = lambda body, attempt: None
    distill.command(conf)
    assert len(rows_of(conf)) == len(SUMS) and {*chat.asked().values()} == {1}


def test_a_request_that_never_succeeds_does_not_hold_up_the_others(
    chat: ChatServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The data set is written without it; the next time it is asked for again."""
    chat.fault = lambda body, attempt: "500" if (question_of(body), body["model"]) == (SUMS[3], "long") else None
    conf = configured(chat, tmp_path, retries=1)
    with pytest.raises(RunError, match="2 requests failed 2 times and were given up; the data set was written without"):
        distill.command(conf)
    assert [row["problem"] for row in rows_of(conf)] == [*SUMS[:3], *SUMS[4:]]
    assert [(row["why"], row["of"]) for row in dropped_of(conf)] == [("no answer was kept", "think: not answered 2")]
    chat.fault = lambda body, attempt: None
    distill.command(conf)
    assert len(rows_of(conf)) == len(SUMS) and {*chat.asked().values()} == {1}


def test_a_request_that_is_refused_counts_as_an_answer(chat: ChatServer, tmp_path: Path) -> None:
    chat.fault = lambda body, attempt: "400" if question_of(body) == SUMS[5] else None
    conf = configured(chat, tmp_path)
    distill.command(conf)
    assert len(rows_of(conf)) == len(SUMS) - 1
    assert card_of(conf)["teachers"]["think"]["outcomes"] == {"correct": 38, "refused by the endpoint": 2}
    asked = sum(chat.attempts.values())
    distill.command(conf)
    assert sum(chat.attempts.values()) == asked  # it is not asked again


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"name": "lang"}, r"no model 'lang' \(there are: long, short\); nearest: long"),
        ({"name": None}, r"it has 2 models, choose distill.think.name \(there are: long, short\)"),
        ({"endpoint": "http://127.0.0.1:9/v1"}, "cannot be reached .*refused|cannot be reached"),
        ({"key_env": "THINKLESS_NO_SUCH_KEY"}, "distill.think.key_env=THINKLESS_NO_SUCH_KEY: .* holds no key"),
    ],
)
def test_what_is_wrong_with_an_endpoint_is_one_line(
    chat: ChatServer, tmp_path: Path, settings: dict[str, Any], said: str
) -> None:
    conf = configured(chat, tmp_path)
    think = replace(conf.distill.think, **settings)
    with pytest.raises(BadInput, match=said) as error:
        distill.command(replace(conf, distill=replace(conf.distill, think=think)))
    assert "distill.think." in str(error.value) and not chat.served


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("401", "access refused .HTTP 401, fault 401"),
        ("400", "every request is refused"),
        ("404", "HTTP 404 for model"),
    ],
)
def test_what_no_retry_mends_is_not_retried(chat: ChatServer, tmp_path: Path, fault: str, said: str) -> None:
    chat.fault = lambda body, attempt: fault
    conf = configured(chat, tmp_path)
    with pytest.raises(BadInput, match=said):
        distill.command(conf)
    assert {*chat.attempts.values()} == {1}


def test_the_key_is_sent_and_written_nowhere(
    chat: ChatServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TEACHERS_KEY", "secret-1234")
    conf = configured(chat, tmp_path)
    think = replace(conf.distill.think, key_env="TEACHERS_KEY")
    distill.command(replace(conf, distill=replace(conf.distill, think=think)))
    assert "Bearer secret-1234" in chat.keys
    files = [path for path in (tmp_path / "pairs").rglob("*") if path.is_file()]
    assert len(files) > 5 and not [path for path in files if b"secret-1234" in path.read_bytes()]
    assert "secret-1234" not in "".join(capfd.readouterr())


# ---- what is taken ----


def replies(*texts: str, **more: Any) -> Callable[[dict[str, Any]], Reply]:
    """Long answers by sample (told by the order in which they are asked); right short ones."""
    seen: dict[str, int] = {}

    def answer(body: dict[str, Any]) -> Reply:
        if body["model"] == "short":
            return short_answer(body)
        at = seen.get(question_of(body), 0)
        seen[question_of(body)] = at + 1
        return {"content": texts[at].replace("N", str(total(question_of(body)))), **more}

    return answer


def one_question(chat: ChatServer, folder: Path, *texts: str, **settings: Any) -> Config:
    conf = configured(chat, folder, "1+1?", **settings)
    think = replace(conf.distill.think, concurrency=1)
    chat.answer = replies(*texts)
    return replace(conf, distill=replace(conf.distill, samples=len(texts), think=think))


LONGEST = r"<think>first second third</think>\boxed{N}"
SHORTEST = r"<think>first</think>\boxed{N}"
MIDDLE = r"<think>first second</think>\boxed{N}"
WRONG = r"<think>x</think>\boxed{7}"


@pytest.mark.parametrize(
    ("which", "taken"), [(LongAnswer.shortest, SHORTEST), (LongAnswer.longest, LONGEST), (LongAnswer.first, MIDDLE)]
)
def test_of_the_right_long_answers_one_is_taken(
    chat: ChatServer, tmp_path: Path, which: LongAnswer, taken: str
) -> None:
    conf = one_question(chat, tmp_path, WRONG, MIDDLE, LONGEST, SHORTEST, long_answer=which)
    distill.command(conf)
    (row,) = rows_of(conf)
    assert row["think"] == taken.removeprefix("<think>").replace("N", "2")
    assert card_of(conf)["teachers"]["think"]["outcomes"] == {"correct": 3, "wrong": 1}


def test_wrong_answers_are_taken_where_all_are_kept(chat: ChatServer, tmp_path: Path) -> None:
    conf = one_question(chat, tmp_path, WRONG, LONGEST, keep=Keep.all)
    distill.command(conf)
    assert [row["think"] for row in rows_of(conf)] == [LONGEST.removeprefix("<think>").replace("N", "2")]  # right first
    wrong = replace(one_question(chat, tmp_path, WRONG, keep=Keep.all).distill, out=str(tmp_path / "wrong"))
    distill.command(replace(conf, distill=wrong))
    assert [row["think"] for row in rows_in(tmp_path / "wrong")] == [WRONG.removeprefix("<think>")]


def test_an_answer_may_come_in_two_fields_or_begin_within_its_thinking(chat: ChatServer, tmp_path: Path) -> None:
    """`reasoning_content` (a server with a reasoning parser); no <think> (a template that opens it)."""

    def answer(body: dict[str, Any]) -> Reply:
        if body["model"] == "short":
            return {"content": "<think>\n\n</think>\n\n" + short_answer(body)["content"]}
        boxed = f"\\boxed{{{total(question_of(body))}}}"
        if question_of(body) == "1+1?":
            return {"content": boxed, "reasoning_content": "hm"}
        return {"content": f"hm</think>\n{boxed}"}

    chat.answer = answer
    conf = configured(chat, tmp_path, "1+1?", "2+2?")
    distill.command(conf)
    rows = rows_of(conf)
    assert [row["think"] for row in rows] == ["\nhm\n</think>\n\n\\boxed{2}", "hm</think>\n\\boxed{4}"]
    assert all(row["short"].startswith("It is") for row in rows)


def test_a_teacher_that_never_closes_its_thinking_is_told_of(chat: ChatServer, tmp_path: Path) -> None:
    texts = (r"<think>hm \boxed{N}", r"no thinking \boxed{N}", r"<think>a</think>b</think>\boxed{N}")
    said = "its thinking is never closed 1, no thinking 1, a think token in its answer 1"
    with pytest.raises(RunError, match=f"nothing to teach think mode with.*{said}"):
        distill.command(one_question(chat, tmp_path, *texts))
    assert not list((tmp_path / "pairs").glob("*.parquet"))


@pytest.mark.parametrize("over_length", list(OverLength))
def test_an_answer_that_reached_the_cap(chat: ChatServer, tmp_path: Path, over_length: OverLength) -> None:
    """It is left out, or ends at its last whole line if that is behind its final answer. Nothing is ever added."""
    said = "hm</think>So it is \\boxed{N}.\nLet me check that once mo"
    conf = one_question(chat, tmp_path, said, over_length=over_length)
    chat.answer = replies(said, finish_reason="length")
    if over_length is OverLength.drop:
        with pytest.raises(RunError, match="cut off at max_tokens 1"):
            distill.command(conf)
        return
    distill.command(conf)
    assert [row["think"] for row in rows_of(conf)] == ["hm</think>So it is \\boxed{2}."]
    assert card_of(conf)["teachers"]["think"]["truncated"] == 1
    chat.answer = replies("hm, \\boxed{N}\nand so on", finish_reason="length")
    within = replace(conf, distill=replace(conf.distill, out=str(tmp_path / "within")))
    with pytest.raises(RunError, match="cut off at max_tokens 1"):
        distill.command(within)


def test_unpaired_questions_are_asked_for_one_mode_each(chat: ChatServer, tmp_path: Path) -> None:
    conf = configured(chat, tmp_path, pairing=Pairing.unpaired)
    distill.command(conf)
    rows = rows_of(conf)
    assert len(chat.served) == len(SUMS) * 2  # one side each, two samples
    assert sum(row["think"] is None for row in rows) == sum(row["short"] is None for row in rows) == len(SUMS) // 2
    pairs = load_pairs(WarmupConf(path=str(conf.distill.out)))
    assert pairs.size == len(SUMS) // 2 and all(len(pairs.together(i)) == 2 for i in range(pairs.size))


def test_mixed_questions_keep_what_they_have(chat: ChatServer, tmp_path: Path) -> None:
    def answer(body: dict[str, Any]) -> Reply:
        wrong = {"long": SUMS[0], "short": SUMS[1]}[body["model"]] == question_of(body)
        return {"content": "<think>x</think>no" if body["model"] == "long" else "no"} if wrong else by_model(body)

    chat.answer = answer
    conf = configured(chat, tmp_path, pairing=Pairing.mixed)
    distill.command(conf)
    assert card_of(conf)["rows"] == {"total": 20, "short": 1, "think": 1, "think and short": 18}
    again = replace(conf, distill=replace(conf.distill, pairing=Pairing.paired))  # chosen anew, nothing is asked
    asked = len(chat.served)
    distill.command(again)
    assert len(chat.served) == asked and card_of(conf)["rows"] == {"total": 18, "think and short": 18}
    assert {row["of"] for row in dropped_of(conf)} == {"think: no_answer 2", "short: no_answer 2"}


def test_other_settings_of_a_teacher_are_refused_in_the_same_folder(chat: ChatServer, tmp_path: Path) -> None:
    conf = configured(chat, tmp_path)
    distill.command(conf)
    hotter = replace(conf.distill, short=replace(conf.distill.short, temperature=1.0))
    with pytest.raises(BadInput, match=r"distill\.short\.temperature was 0\.6, is 1\.0: give another distill\.out"):
        distill.command(replace(conf, distill=hotter))
    (tmp_path / "problems.jsonl").write_text('{"problem": "9+9?", "answer": "18"}')
    with pytest.raises(BadInput, match="holds answers of other questions"):
        distill.command(conf)


def test_a_line_of_answers_that_is_damaged_is_named(chat: ChatServer, tmp_path: Path) -> None:
    conf = configured(chat, tmp_path)
    distill.command(conf)
    journal = tmp_path / "pairs" / "_sampled" / "answers.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join([*lines[:4], b"\x00\x00\n", *lines[4:]]))
    with pytest.raises(RunError, match=r"answers.jsonl, line 5: damaged"):
        distill.command(conf)


# ---- the questions and the card ----


def test_copies_are_left_out_and_the_card_says_so(
    chat: ChatServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "test.json").write_text(json.dumps([{"question": "1+11?"}, {"question": "What is 3 times x?"}]))
    conf = configured(
        chat, tmp_path, "1+11?", "2+ 2?", "2+2?", "5+6?", against=[str(tmp_path / "test.json")], license="MIT"
    )
    conf = replace(conf, data=replace(conf.data, path=problems(tmp_path, "1+11?", "2+20+2?", "2+20+2?")))
    with pytest.raises(BadInput, match="none of 3 questions is left"):
        distill.command(conf)
    other = tmp_path / "words.json"
    texts = ["Ann has some apples", "Ann has 3 apples and buys 4 more, how many", "Bob eats 2"]
    other.write_text(json.dumps([{"problem": text, "answer": "7", "level": "easy"} for text in [*texts, texts[2]]]))
    (tmp_path / "test.json").write_text(json.dumps([{"question": "Ann has 5 apples and buys seven more; how many?"}]))
    chat.answer = lambda body: {"content": "<think>x</think>\\boxed{7}" if body["model"] == "long" else "\\boxed{7}"}
    conf = replace(conf, data=replace(conf.data, path=str(other)))
    distill.command(conf)
    assert [row["problem"] for row in rows_of(conf)] == [texts[0], texts[2]]
    assert {row["license"] for row in rows_of(conf)} == {"MIT"}
    card, dropped = card_of(conf), dropped_of(conf)
    assert [row["why"] for row in dropped] == ["renumbered copy of an evaluation question", "repeated"]
    assert dropped[0]["like"].startswith("Ann has 5") and list(card["evaluation_sets"].values()) == [1]
    assert card["teachers"]["think"]["pass_rate"] == {"easy": {"answers": 4, "correct": 1.0}}
    assert "renumbered copy of an evaluation question: 1" in (tmp_path / "pairs" / "card.md").read_text()


def test_questions_that_differ_in_numbers_alone_are_compared_as_they_are(chat: ChatServer, tmp_path: Path) -> None:
    """Sums are all copies of one another but for their numbers."""
    (tmp_path / "test.json").write_text(json.dumps([{"question": SUMS[0]}, {"question": "99+99?"}]))
    conf = configured(chat, tmp_path, against=str(tmp_path / "test.json"))
    with pytest.raises(BadInput, match=r"none of 20 questions is left .*distill\.renumbered=false"):
        distill.command(conf)
    distill.command(replace(conf, distill=replace(conf.distill, renumbered=False)))
    assert [row["problem"] for row in rows_of(conf)] == SUMS[1:]


def test_with_more_problems_those_drawn_before_keep_their_sides(chat: ChatServer, tmp_path: Path) -> None:
    conf = configured(chat, tmp_path, pairing=Pairing.unpaired, problems=6)
    distill.command(conf)
    few = {(row["problem"], row["think"] is None) for row in rows_of(conf)}
    distill.command(replace(conf, distill=replace(conf.distill, problems=12)))
    many = {(row["problem"], row["think"] is None) for row in rows_of(conf)}
    assert len(few) == 6 and few < many and len(many) == 12 and {*chat.asked().values()} == {1}


def test_best_takes_the_answer_that_its_teacher_is_surest_of(chat: ChatServer, tmp_path: Path) -> None:
    conf = one_question(chat, tmp_path, SHORTEST, LONGEST, MIDDLE, long_answer=LongAnswer.best)
    plain = chat.answer
    sure = {SHORTEST: -0.5, LONGEST: -0.1, MIDDLE: -0.3}
    chat.answer = lambda body: (
        short_answer(body)
        if body["model"] == "short"
        else {**(said := plain(body)), "logprob": sure[said["content"].replace("{2}", "{N}")]}
    )
    distill.command(conf)
    assert [row["think"] for row in rows_of(conf)] == [LONGEST.removeprefix("<think>").replace("N", "2")]
    later = replace(conf, distill=replace(conf.distill, out=str(tmp_path / "later"), long_answer=LongAnswer.first))
    chat.answer = replies(SHORTEST, LONGEST, MIDDLE)
    distill.command(later)
    with pytest.raises(BadInput, match="these answers have none"):
        distill.command(replace(later, distill=replace(later.distill, long_answer=LongAnswer.best)))


# ---- a teacher that the cluster samples, as far as that needs no engine ----


@pytest.fixture
def teachers_folder(tmp_path: Path) -> Path:
    build_character_tokenizer(tmp_path / "teacher")
    (tmp_path / "teacher" / "config.json").write_text(json.dumps({"max_position_embeddings": 200}))
    return tmp_path / "teacher"


def templated(folder: Path, ending: str) -> Path:
    """With a chat template that ends the prompt so."""
    question, answer = "{% for m in messages %}<|user|>{{ m['content'] }}{% endfor %}", "<|assistant|>" + ending
    template = question + "{% if add_generation_prompt %}" + answer + "{% endif %}"
    (folder / "chat_template.jinja").write_text(template)
    return folder


@pytest.mark.parametrize(
    ("ending", "thinking", "prompt", "opened"),
    [
        ("", None, "<|user|>1+1?\n\nBox it.<|assistant|>", ""),
        ("<think>\n", None, "<|user|>1+1?\n\nBox it.<|assistant|><think>\n", "<think>"),
        ("{% if not enable_thinking %}<think></think>{% endif %}", False,
         "<|user|>1+1?\n\nBox it.<|assistant|><think></think>", ""),
        ("{% if not enable_thinking %}<think></think>{% endif %}", True, "<|user|>1+1?\n\nBox it.<|assistant|>", ""),
    ],
)  # fmt: skip
def test_a_teachers_own_template_makes_its_prompt(
    teachers_folder: Path, ending: str, thinking: bool | None, prompt: str, opened: str
) -> None:
    conf = TeacherConf(model=str(templated(teachers_folder, ending)), thinking=thinking, instruction="Box it.")
    teacher = Teacher(Config(), conf, "distill.think")
    found, begun = teacher.prompt(Ask(Problem("p/0", "1+1?", "2", "p"), "think", 0))
    assert teacher.tokenizer.decode(found.token_ids) == prompt and begun == opened
    assert found.uid == "p/0/think" and 1 in teacher.ends


def test_answers_that_do_not_fit_into_a_teacher_are_refused(teachers_folder: Path) -> None:
    teacher = Teacher(Config(), TeacherConf(model=str(teachers_folder), max_tokens=190), "distill.short")
    with pytest.raises(BadInput, match=r"distill.short.max_tokens=190 does not fit into the 200 positions of "):
        teacher.prepare([Ask(Problem("p/0", "1+1?", "2", "p"), "short", 0)])


def test_a_teacher_without_a_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"distill.think.model=.*: no tokenizer in this folder"):
        Teacher(Config(), TeacherConf(model=str(tmp_path)), "distill.think")
