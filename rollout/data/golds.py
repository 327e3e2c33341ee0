r"""Gold answers as data sets write them -> the text (or texts) that responses are graded against.

In: a value of the answer column. Out: one answer, or a tuple of several; a value that is not an answer is `Unusable`.
Must not know: files, columns, how answers are compared.
"""

from __future__ import annotations

import ast
import json
import math
import re
import warnings
from collections.abc import Collection
from decimal import Decimal
from typing import Any

import numpy as np


class Unusable(Exception):
    """Why a row cannot be used. Raised while a row is read, caught and counted only in `rollout.data.problems`."""


LONGEST = 10_000  # characters of an answer
LONGEST_LEVEL = 100
_SURROGATES = re.compile("[\ud800-\udfff]")  # half a pair of them cannot be encoded as UTF-8


def text_of(value: Any, what: str, longest: int | None = None) -> str:
    """`value` as stripped text, of at most `longest` characters."""
    if value is None:
        raise Unusable(f"{what} is null")
    if not isinstance(value, str):
        raise Unusable(f"{what} is a {type(value).__name__}, not text")
    if not (text := value.strip()):
        raise Unusable(f"{what} is empty")
    if _SURROGATES.search(text):
        raise Unusable(f"{what} contains half a surrogate pair")
    if longest is not None and len(text) > longest:
        raise Unusable(f"{what} has more than {longest} characters")
    return text


def gold_of(value: Any, all_answers: bool, unusable: Collection[str] = ()) -> str | tuple[str, ...]:
    """27.0 -> "27"; "so 5+5 #### 1,010" -> "1010"; ["9.6\\n"] -> "9.6"; '["1", "2"]' -> ("1", "2"); "[1, 2]" as it is.

    unusable: texts that mean a missing answer, in lower case.
    """
    members = quoted_list(value) if isinstance(value, str) else value
    if not isinstance(members, list | tuple):
        return _single(value, unusable)
    found: dict[str, None] = {}  # an ordered set
    for member in members:
        if isinstance(member, list | tuple):
            raise Unusable("answer is a list of lists")
        try:
            found[_single(member, unusable)] = None
        except Unusable:
            if all_answers:  # an incomplete set of answers can never be given in full
                raise
    if not found:
        raise Unusable("answer is an empty list")
    return tuple(found) if len(found) > 1 else next(iter(found))


def _single(value: Any, unusable: Collection[str]) -> str:
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, int | float | Decimal):
        if not isinstance(value, int) and not math.isfinite(value):
            raise Unusable("answer is not a finite number")
        try:
            return str(int(value)) if value == int(value) else np.format_float_positional(float(value), trim="-")
        except ValueError:  # Python does not convert integers of more than 4300 digits
            raise Unusable("answer is an integer of thousands of digits: give it as text") from None
    text = text_of(value, "answer", None if isinstance(value, str) and "####" in value else LONGEST)
    if "####" in text:
        text = text_of(text.rpartition("####")[2], "answer", LONGEST)
        if re.fullmatch(r"[-+]?\d{1,3}(,\d{3})+(\.\d+)?", text):  # one number, not a list of answers
            text = text.replace(",", "")
    if text.casefold() in unusable:
        raise Unusable(f"answer is {text.casefold()}")
    return text


def level_of(value: Any) -> str | None:
    """A question's difficulty as its data set names it: 3.0 -> "3"; None for what is no name."""
    if isinstance(value, float):
        return f"{value:g}" if math.isfinite(value) else None
    text = str(value).strip() if isinstance(value, str | int | Decimal) else ""
    return text if 0 < len(text) <= LONGEST_LEVEL and not _SURROGATES.search(text) else None


def quoted_list(text: str) -> list[Any] | None:
    r"""The members of a list stored as text, or None for any other text.

    Quotation marks make it a list, as JSON ('["3", "4"]') or as Python and numpy print it ("['3', '4']", "['3' '4']").
    Without them it is one answer: [1, 2] may be an interval, a point or a row of a matrix. Backslashes that should have
    been doubled ('["\frac{1}{2}"]') are kept.
    """
    text = text.strip()
    if not re.match(r"\[\s*[\"']", text) or not text.endswith("]"):
        return None
    if re.fullmatch(r"\[\s*'[^']*'(\s+'[^']*')*\s*\]", text):  # numpy's: without commas
        text = re.sub(r"'\s+'", "', '", text)
    for parse, what in ((json.loads, text), (json.loads, text.replace("\\", "\\\\")), (ast.literal_eval, text)):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of "\s" and the like, which keep their backslash
                found = parse(what)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        members = isinstance(found, list) and all(isinstance(member, str | int | float) for member in found)
        if members and not any(isinstance(m, str) and re.search(r"[\x00-\x1f][A-Za-z]", m) for m in found):
            return list(found)
    return None


def boxed(solution: str) -> str:
    r"""Contents of the last \boxed{...} of a worked solution."""
    start = solution.rfind("\\boxed{")
    depth = 0
    for end in range(start + 6, len(solution)) if start >= 0 else ():
        depth += {"{": 1, "}": -1}.get(solution[end], 0)
        if depth == 0:
            return solution[start + 7 : end]
    raise Unusable("solution has no \\boxed{} answer")


def of_solution(solution: Any) -> Any:
    r"""The answer in a worked solution: after ####, in its last \boxed{}, or all of it if it is just an answer: one
    word or one formula ("42", "$\frac{1}{2}$")."""
    if not isinstance(solution, str) or "####" in solution:
        return solution
    if "\\boxed{" not in solution and re.fullmatch(r"\$[^$\n]+\$|\S*[0-9A-Za-z]\S*", solution.strip()):
        return solution
    return boxed(solution)
