"""Distillation from an endpoint that fails, by a command that is killed: no row is lost, none is there twice.

In: nothing but `small`. Out: figures. Must not know: how answers are kept.
"""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks._distill.chat_server import ChatServer, flaky, serving, total
from benchmarks._figures import figure, say
from benchmarks._runs import ROOT

QUESTIONS, SAMPLES, KILLS = 150, 2, 8
LONGEST_S = 300.0
HALF = b'{"uid": "half of a li'


def command(url: str, problems: Path, out: Path) -> list[str]:
    sides = [
        f"distill.{side}.{setting}"
        for side, name in (("think", "long"), ("short", "short"))
        for setting in (f"endpoint={url}", f"name={name}", "concurrency=4")
    ]
    return [
        sys.executable, "-m", "orchestrator", "distill", f"data.path={problems}", f"distill.out={out}",
        f"distill.samples={SAMPLES}", "distill.backoff_s=0.001", "tracker.console=false", *sides,
    ]  # fmt: skip


def rows_of(out: Path) -> list[dict[str, Any]]:
    import pyarrow.parquet

    return [row for path in sorted(out.glob("part-*")) for row in pyarrow.parquet.read_table(path).to_pylist()]


def journal(out: Path) -> list[bytes]:
    """The whole lines of the answers."""
    path = out / "_sampled" / "answers.jsonl"
    return path.read_bytes().splitlines(keepends=True) if path.is_file() else []


def killed(words: list[str], out: Path, at: int) -> None:
    """Start the command, and SIGKILL once `at` answers are written."""
    process = subprocess.Popen(words, cwd=ROOT, stdout=sys.stderr)
    end = time.monotonic() + LONGEST_S
    while len(journal(out)) < at:
        if process.poll() is not None or time.monotonic() > end:
            process.kill()
            sys.exit(f"the command did not come to {at} answers: it ended with {process.wait()}")
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    with (out / "_sampled" / "answers.jsonl").open("ab") as file:
        file.write(HALF)


def endpoint(small: bool) -> None:
    questions, kills = (12, 1) if small else (QUESTIONS, KILLS)
    rng = random.Random(3)
    sums = [f"{10 + i}+{rng.randint(10, 99)}?" for i in range(questions)]
    with tempfile.TemporaryDirectory(prefix="thinkless-bench-") as scratch:
        problems = Path(scratch) / "problems.jsonl"
        problems.write_text("\n".join(json.dumps({"problem": q, "answer": str(total(q))}) for q in sums))
        with serving(ChatServer()) as chat:
            alone = Path(scratch) / "alone"
            subprocess.run(command(chat.url, problems, alone), cwd=ROOT, stdout=sys.stderr, check=True)
        out, lost_answers, killings, kept = Path(scratch) / "killed", 0, 0, list[bytes]()
        with serving(ChatServer(fault=flaky)) as chat:
            words, answers = command(chat.url, problems, out), questions * SAMPLES * 2
            for at in sorted(rng.sample(range(1, answers), kills)):
                if at <= len(kept):
                    continue  # more answers came before the last kill than it waited for
                killed(words, out, at)
                killings += 1
                lines = [line for line in journal(out) if line.endswith(b"\n")]
                lost_answers += lines[: len(kept)] != kept
                kept = lines
            subprocess.run(words, cwd=ROOT, stdout=sys.stderr, check=True)
            faults = dict(chat.faults)
        wanted, rows = rows_of(alone), rows_of(out)
        keys = Counter(tuple(json.loads(line)[name] for name in ("uid", "side", "sample")) for line in journal(out))
    say(f"faults {faults}; {len(kept)} of {answers} answers were there after the last kill")
    assert len(wanted) == questions
    there = Counter(row["problem"] for row in rows)
    lost = sum(row["problem"] not in there for row in wanted)
    figure("distill_rows_lost", lost + lost_answers, "rows, and answers that a kill took", 0, questions=questions)
    twice = sum(count - 1 for count in [*there.values(), *keys.values()])
    figure("distill_rows_twice", twice, "rows, and answers", 0, kills=killings)
    differ = sum(one != other for one, other in zip(rows, wanted, strict=False))
    figure("distill_rows_differ", differ, "rows unlike those of a command left alone", 0)
    figure("distill_faults", sum(faults.values()), "requests that failed on purpose")
