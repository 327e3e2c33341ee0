"""The lines of `thinkless verify`: what a case looks like, and what is written about it.

In: one line of input as bytes, or a verdict. Out: a `Case`, or one line of output. Must not know: files, processes, how
answers are graded.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple, NoReturn

from reward.verdict import Verdict
from rollout.mode import MODES, Mode

EXPECTED = 'expected an object like {"id": "a1", "response": "\\\\boxed{4}", "gold": "4"}'
GOLD = "a string, or a list of strings"
_BOM = b"\xef\xbb\xbf"
_MODES = {mode.name: mode for mode in MODES}


class Case(NamedTuple):
    id: str | int
    response: str  # without its control token
    mode: Mode | None  # given, or that of the control token at the response's beginning
    gold: str | tuple[str, ...]
    all_answers: bool


class Unreadable(ValueError):
    """Says what is wrong with a line, and what is expected."""

    def __init__(self, message: str, id: str | int | None = None) -> None:
        super().__init__(message)
        self.id = id


def read_case(line: bytes) -> Case:
    """Example: b'{"id": 1, "response": "<short>4", "gold": "4"}' is Case(1, "4", Mode.SHORT, "4", False)."""
    try:
        row = _decode(line.removeprefix(_BOM).decode())
    except UnicodeDecodeError as error:
        raise Unreadable(f"not UTF-8 text (byte {error.start}); {EXPECTED}") from None
    except json.JSONDecodeError as error:
        raise Unreadable(f"not JSON ({error.msg}, column {error.colno}); {EXPECTED}") from None
    except (ValueError, RecursionError) as error:  # a number of 5,000 digits, 10,000 open brackets
        raise Unreadable(f"not JSON that can be read ({error}); {EXPECTED}") from None
    if not isinstance(row, dict):
        raise Unreadable(f"{_kind(row)}, not an object; {EXPECTED}")
    try:
        id, response, gold = row["id"], row["response"], row["gold"]
    except KeyError as error:
        known = row.get("id")
        raise Unreadable(f"no {error.args[0]}; {EXPECTED}", known if _is_id(known) else None) from None
    if not _is_id(id):
        raise Unreadable(f"id is {_kind(id)}; expected a string or an integer")
    if not isinstance(response, str):
        raise Unreadable(f"response is {_kind(response)}; expected a string", id)
    if isinstance(gold, list):
        for one in gold:
            if not isinstance(one, str):
                raise Unreadable(f"gold is a list with {_kind(one)}; expected {GOLD}", id)
        if not gold:
            raise Unreadable(f"gold is an empty list; expected {GOLD}", id)
        gold = tuple(gold)
    elif not isinstance(gold, str):
        raise Unreadable(f"gold is {_kind(gold)}; expected {GOLD}", id)
    all_answers = row.get("all_answers")
    if all_answers is not None and not isinstance(all_answers, bool):
        raise Unreadable(f"all_answers is {_kind(all_answers)}; expected true or false", id)
    named = row.get("mode")
    mode = _MODES.get(named) if isinstance(named, str) else None
    if mode is None and named is not None:
        raise Unreadable(f'mode is {_kind(named)}; expected "think" or "short"', id)
    for announced in MODES:
        token = f"<{announced.name}>"
        if mode in (None, announced) and response.startswith(token):
            return Case(id, response[len(token) :], announced, gold, bool(all_answers))
    return Case(id, response, mode, gold, bool(all_answers))


def verdict_line(id: str | int, verdict: Verdict) -> bytes:
    """By hand: a third of the time that json takes, which is most of what a plain answer costs."""
    extracted = "null" if verdict.extracted is None else _quoted(verdict.extracted)
    return (
        f'{{"id": {_quoted(id) if isinstance(id, str) else id}, "outcome": "{verdict.outcome.value}", '
        f'"correct": {"true" if verdict.correct else "false"}, "extracted": {extracted}, '
        f'"seconds": {verdict.seconds:.6f}}}\n'
    ).encode("ascii")


def error_line(error: Unreadable, line: int, file: str | None) -> bytes:
    """line: its number, from 1; file: where several are read."""
    known = {"id": error.id} if error.id is not None else {}
    where = {"file": file} if file is not None else {}
    return json.dumps({**known, **where, "line": line, "error": str(error)}).encode("ascii") + b"\n"


_quoted = json.encoder.encode_basestring_ascii


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


_decode = json.JSONDecoder(parse_constant=_refuse).decode


def _is_id(value: Any) -> bool:
    return isinstance(value, (str, int)) and not isinstance(value, bool)


def _kind(value: Any) -> str:
    if isinstance(value, str):
        return f"{value[:40]!r}"
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    return "a list" if isinstance(value, list) else "an object" if isinstance(value, dict) else "a number"
