"""Files with one hostile row among good ones, and what reading them comes to.

In: a seed and a number. Out: `Row`s, `Outcome`s. Must not know: settings.

What is accepted has to go on: a hash, a prompt, a line of JSON, of every row that is left.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import random
import tempfile
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks._fuzz.children import Outcome
from benchmarks._fuzz.configurations import outcome_of
from benchmarks._fuzz.values import json_value, text
from conf.schema import DataConf, ModelConf, WarmupConf

GOOD = 30
KINDS = ("jsonl", "json", "csv", "parquet", "pairs", "verify")
SHARES = (5, 1, 2, 2, 2, 3)
FIELDS = {"pairs": ("problem", "think", "short"), "verify": ("id", "response", "gold", "mode", "all_answers")}
NAMES = ("problem", "answer", "level", "question", "solution", "messages", "prompt", "reward_model", "ground_truth")


@dataclass(frozen=True, slots=True)
class Row:
    kind: str
    content: bytes  # of the file; of a line of `verify`

    def __str__(self) -> str:
        shown = self.content if len(self.content) < 400 else self.content[:300] + b"..." + self.content[-60:]
        return f"{self.kind} {shown!r}"


def draw_row(seed: int, index: int) -> Row:
    """Row `index` depends on both alone."""
    draw = random.Random(f"row/{seed}/{index}")
    kind = draw.choices(KINDS, SHARES)[0]
    if kind == "verify":
        return Row(kind, _line(draw, kind).replace(b"\n", b" "))
    if kind in ("jsonl", "pairs"):
        lines = [json.dumps(row).encode() for row in _good(kind)]
        lines.insert(draw.randrange(GOOD), _line(draw, kind))
        return Row(kind, draw.choice((b"", b"", b"", b"\xef\xbb\xbf", b"\xff\xfe", b"\x00")) + b"\n".join(lines))
    if kind == "json":
        whole: Any = [*_good(kind), _object(draw, kind)]
        whole = draw.choice((whole, {"data": whole}, {"problem": whole, "answer": [1]}, whole[-1], whole[-1:] * 3))
        return Row(kind, _dumped(draw, whole))
    if kind == "csv":
        quoted = (f'"{text(draw)}"' if draw.random() < 0.5 else text(draw) for _ in range(draw.randrange(1, 4)))
        good = (f"{row['problem']},{row['answer']}" for row in _good(kind))
        return Row(kind, "\n".join(["problem,answer", *good, ",".join(quoted)]).encode("utf-8", "surrogatepass"))
    return Row(kind, _table(draw))


def _good(kind: str) -> list[dict[str, str]]:
    if kind == "pairs":
        return [{"problem": f"{n}+1", "think": f"{n}+1</think>{n + 1}", "short": f"{n + 1}"} for n in range(GOOD)]
    return [{"problem": f"What is {n}+1?", "answer": f"{n + 1}"} for n in range(GOOD)]


def _object(draw: random.Random, kind: str) -> dict[str, Any]:
    """The columns of a good row, each of them good, hostile or absent, and others."""
    names = FIELDS.get(kind, ("problem", "answer", draw.choice(NAMES)))
    row: dict[str, Any] = {}
    for name in names:
        way = draw.random()
        if way < 0.45:
            row[name] = json_value(draw)
        elif way < 0.9:
            row[name] = {"problem": "1+1", "think": "1</think>2", "short": "2", "id": 7, "response": "\\boxed{2}",
                         "mode": "think", "all_answers": True}.get(name, "2")  # fmt: skip
    if draw.random() < 0.2:
        row[text(draw)] = json_value(draw)
    return row


def _dumped(draw: random.Random, value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=draw.random() < 0.5).encode("utf-8", "surrogatepass")


def _line(draw: random.Random, kind: str) -> bytes:
    """A row, or what is none: deeply nested, cut off, changed in a byte, of thousands of digits."""
    way, row = draw.random(), _object(draw, kind)
    if way < 0.6:
        return _dumped(draw, row)
    name = draw.choice(FIELDS.get(kind, ("problem", "answer", "level"))).encode()
    if way < 0.7:
        depth = draw.choice((100, 900, 990, 100_000))
        inner = draw.choice((b"[" * depth + b"]" * depth, b'{"a":' * depth + b"1" + b"}" * depth, b"[" * depth))
    elif way < 0.8:
        digits = b"9" * draw.choice((400, 4000, 4299, 4301, 5000, 100_000))
        inner = draw.choice((digits, b"-" + digits, digits + b".5", b"0." + digits, b"1e" + digits[:9], b"1E-9999"))
    elif way < 0.85:
        inner = b'"' + b"x" * draw.choice((10_001, 1_000_001)) + b'"'
    else:
        good = bytearray(_dumped(draw, row))
        for _ in range(draw.randrange(1, 4)):
            good[draw.randrange(len(good))] = draw.randrange(256)
        return bytes(good[: draw.randrange(len(good))] if draw.random() < 0.4 else good)
    others = b"".join(b', "%s": "2"' % other.encode() for other in FIELDS.get(kind, ("problem", "answer"))
                      if other.encode() != name)  # fmt: skip
    return b'{"%s": %s%s}' % (name, inner, others)


def _table(draw: random.Random) -> bytes:
    """Parquet with a column or two of an odd type, or damaged."""
    import pyarrow
    import pyarrow.parquet

    def column() -> Any:
        way = draw.randrange(10)
        if way == 0:
            return pyarrow.array([float("nan"), float("inf"), None] * 10)
        if way == 1:
            return pyarrow.array([b"\xff\x00"] * GOOD)
        if way == 2:
            return pyarrow.array([[text(draw).encode("utf-8", "replace").decode()]] * GOOD)
        if way == 3:
            return pyarrow.array([{"a": 1, "ground_truth": "2"}] * GOOD)
        if way == 4:
            return pyarrow.array([10 ** draw.randrange(18)] * GOOD, pyarrow.decimal128(38, draw.randrange(20)))
        if way == 5:
            return pyarrow.array([0] * GOOD, pyarrow.timestamp(draw.choice(("s", "ns"))))
        if way == 6:
            return pyarrow.array([None] * GOOD)
        if way == 7:  # text that is not UTF-8
            return pyarrow.Array.from_buffers(
                pyarrow.string(), 2, [None, pyarrow.array([0, 1, 2], pyarrow.int32()).buffers()[1],
                                      pyarrow.py_buffer(b"\xff\xfe")])  # fmt: skip
        texts = [row["answer"] for row in _good("parquet")]
        return pyarrow.array([*texts[:-1], text(draw).encode("utf-8", "replace").decode()])

    arrays = [column() for _ in range(draw.randrange(1, 4))]
    size = min(map(len, arrays))
    names = ["problem", "answer", draw.choice((*NAMES, "", "a.b"))][: len(arrays)]
    target = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(pyarrow.Table.from_arrays([one[:size] for one in arrays], names), target)
    whole = bytearray(target.getvalue().to_pybytes())
    if draw.random() < 0.3:
        for _ in range(draw.randrange(1, 6)):
            whole[draw.randrange(len(whole))] = draw.randrange(256)
    return bytes(whole[: draw.randrange(len(whole))] if draw.random() < 0.1 else whole)


def attempt(row: Row) -> Outcome:
    """Read the file as `train` and `warmup` do, or the line as `verify` does."""
    from orchestrator.commands.cli import guarded

    printed, begun = io.TextIOWrapper(io.BytesIO(), errors="backslashreplace"), time.monotonic()
    with contextlib.redirect_stderr(printed), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        code = guarded(lambda: _read(row))
    printed.seek(0)
    return outcome_of(code, printed.read(), time.monotonic() - begun)


def _read(row: Row) -> None:
    from orchestrator.commands.problems import Problems, without_tokens
    from orchestrator.commands.verify_io import Unreadable, error_line, read_case
    from rollout.base.errors import BadInput
    from rollout.data.pairs import load_pairs
    from rollout.data.problems import load_problems
    from rollout.data.tokens import encode_response, generation_prompt

    if row.kind == "verify":
        try:
            case = read_case(row.content)
        except Unreadable as error:
            assert len(error_line(error, 1, None).splitlines()) == 1
            raise BadInput(str(error)) from error
        assert json.dumps([case.id, case.gold]) and (case.mode is None or case.mode.name in ("short", "think"))
        return
    tokenizer, conf = _tokenizer(), ModelConf()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / ("pairs.jsonl" if row.kind == "pairs" else f"rows.{row.kind}")
        file.write_bytes(row.content)
        if row.kind == "pairs":
            pairs = load_pairs(WarmupConf(path=str(file), evaluate_every=1), conf)
            for place in range(pairs.size or 0):
                for pair in pairs.together(place):
                    generation_prompt(tokenizer, pair.problem, conf)
                    for _, answer in pair.answers(pairs.modes):
                        encode_response(tokenizer, answer, conf)
            return
        loaded = load_problems(DataConf(path=str(file)))
        loaded.summary().encode()
        found = without_tokens(Problems([*loaded.problems], [], [], loaded.sha256, ()), ("<think>", "<|end|>"), 1.0)
        for problem in found.training or ():
            generation_prompt(tokenizer, problem.problem, conf)
            json.dumps([problem.uid, problem.answer, problem.level], ensure_ascii=False).encode()


@functools.cache
def _tokenizer() -> Any:
    from rollout.data.tokens import build_character_tokenizer, load_tokenizer

    with tempfile.TemporaryDirectory() as folder:
        build_character_tokenizer(folder)
        return load_tokenizer(folder, ModelConf())
