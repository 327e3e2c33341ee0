"""Distillation: no answer is lost and none asked for twice, whatever an endpoint or a signal does; what is chosen, what
is left out and why; and a warm-up takes the result.
"""

from __future__ import annotations

import json
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

from conf.distill import DistillConf, TeacherConf
from conf.schema import Config, DataConf, RewardConf, TrackerConf, WarmupConf
from orchestrator.commands import distill
from rollout.data.pairs import load_pairs
from tests.helpers.chat_server import (
    ChatServer,
    question_of,
    serving,
    total,
)
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
    out = Path(str(conf.distill.out))
    return [row for path in sorted(out.glob("part-*")) for row in pyarrow.parquet.read_table(path).to_pylist()]


def card_of(conf: Config) -> dict[str, Any]:
    return dict(json.loads((Path(str(conf.distill.out)) / "card.json").read_text()))


def dropped_of(conf: Config) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (Path(str(conf.distill.out)) / "dropped.jsonl").read_text().splitlines()]


def flaky(body: dict[str, Any], attempt: int) -> str | None:
    """Half of all requests fail, in every way, up to three times."""
    rng = random.Random(f"{body['model']}/{question_of(body)}/{body['seed']}/{attempt}")
    return (
        rng.choice(["429", "500", "503", "drop", "half", "garbage", "slow"])
        if attempt < 3 and rng.random() < 0.5
        else None
    )


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


def test_the_same_command_again_asks_for_nothing(chat: ChatServer, tmp_path: Path) -> None:
    conf = configured(chat, tmp_path)
    distill.command(conf)
    first, asked = rows_of(conf), len(chat.served)
    distill.command(conf)
    assert len(chat.served) == asked and rows_of(conf) == first
    distill.command(replace(conf, distill=replace(conf.distill, samples=3)))  # only the third of each
    assert len(chat.served) == asked * 3 // 2 and {*chat.asked().values()} == {1}


def test_a_process_that_is_killed_loses_nothing_that_was_written(chat: ChatServer, tmp_path: Path) -> None:
    """SIGKILL in the middle, twice; then it goes on. Answers that were under way may be asked for again, written ones
    not, and the data set is the same as without."""
    conf = configured(chat, tmp_path)
    arguments = [
        f"data.path={conf.data.path}", f"distill.out={conf.distill.out}", "distill.samples=2", "tracker.console=false",
        *(f"distill.{side}.{key}" for side, name in (("think", "long"), ("short", "short"))
          for key in (f"endpoint={chat.url}", f"name={name}", "concurrency=4")),
    ]  # fmt: skip
    journal = Path(str(conf.distill.out)) / "_sampled" / "answers.jsonl"
    kept: list[bytes] = []
    for count in (10, 30):
        chat.hold_after = len(chat.served) + count - len(kept)
        process = subprocess.Popen([THINKLESS, "distill", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        while process.poll() is None and not (journal.is_file() and len(journal.read_bytes().splitlines()) >= count):
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        said = process.communicate()[1]
        assert process.returncode == -signal.SIGKILL, said
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
