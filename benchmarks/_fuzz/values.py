"""Values that settings and rows should not have, and some that they may.

In: a random generator; for a setting's value the setting. Out: texts as on a command line, or Python values. Must not
know: who reads them.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from enum import Enum
from typing import Any

from conf.settings import Setting

NUMBERS = (
    "nan", ".nan", "NaN", "inf", "-inf", ".inf", "-.inf", "Infinity", "1e400", "-1e400", "1e308", "-1e308", "1e-308",
    "5e-324", "0", "-0.0", "0.0", "-1", "1", "2", "3", "7", "1e-300", "1e9", "1e18", "1000000000",
    "9223372036854775807", "9223372036854775808", "2147483648", "4294967295", "4294967296", "1_000", "0x10", "0b1",
    "1e", "++1", "--1", "1.5", "0.5", "1,2", "1 2", "true", "null", "1" + "0" * 5000, "-1" + "0" * 5000,
    "0." + "0" * 5000 + "1",
)  # fmt: skip
TEXTS = (
    "", " ", "\t", "x", "X" * 300, "y" * 5000, "z" * 100_000, "a/" * 3000 + "b", "\x00", "a\x00b", "a\nb", "a\r\nb",
    "\x1b[31mred", "\x7f", "\u200b", "\u202eabc", "\ufeffa", "\ud800", "a\udcffb", "\U0001f600", "ä ö", "a b", ".",
    "..", "../..", "/", "/etc", "/etc/passwd", "/proc/self/mem", "/dev/null", "/dev/zero", "/nowhere/x/y", "~",
    "~no-such-user/x", "-x", "--help", "$HOME", "%s", "{}", "{", "}", "[", "]", "[]", "[[]]", "[a,[b]]", "(", ")",
    "'", '"', "'a'", '"a"', "a'b", "a,b", "a=b", "=", ":", "::", "a:b", ";", "|", "&", "*", "?", "**/*", "[a-", "#",
    "#x", "!", "@", "\\", "\\n", "${", "${}", "${x", "${nothing}", "${run.seed}", "${run}", "${oc.env:NOTHING}",
    "${run.name}", "null", "None", "nan", "1", "1.5", "true", "2024_11_28", "6e45678", "http://", "http://x",
    "http://[::1", "https://127.0.0.1:9/x.jsonl", "s3://", "s3://x/y.jsonl", "file://", "file:///etc/passwd",
    "nothing://x", "memory://x.jsonl", "hf://datasets/x/y.jsonl", "folder", "folder.jsonl", "pipe.jsonl",
    "empty.jsonl", "problems.jsonl", "problems.csv", "pairs.jsonl", "bad.jsonl", "bad.parquet", "model", "owner/name",
    "a/b/c", "json:loads", "json:nothing", "nothing:f", ":f", "json:", "os:path", "a..b:f", "json.loads", "<think>",
    "</think>", "<short>", "<|end|>", "\\boxed{", "problem", "answer", "1.2.3.4:99999", "auto", "ray://",
    "localhost:0", "lo", "eth0", "q_proj", "all-linear",
)  # fmt: skip


def text(draw: random.Random) -> str:
    """One of TEXTS, two of them, or random characters."""
    way = draw.random()
    if way < 0.7:
        return draw.choice(TEXTS)
    if way < 0.85:
        return draw.choice(TEXTS) + draw.choice(TEXTS)
    return "".join(
        chr(draw.choice((draw.randrange(32, 127), draw.randrange(0xD7FF)))) for _ in range(draw.randrange(12))
    )


def number(draw: random.Random, setting: Setting | None = None) -> str:
    """One of NUMBERS, a random one of any size, or one at or within the setting's bounds."""
    way, bounds = draw.random(), setting.range if setting is not None else None
    if bounds is not None and way < 0.5:
        within = bounds.low + draw.random() ** draw.choice((1, 10, 30)) * (bounds.high - bounds.low)
        edge = draw.choice((bounds.low, bounds.high))
        chosen = draw.choice((edge, math.nextafter(edge, math.inf), edge - 1, edge + 1, within, within, within))
        whole = setting is not None and setting.kind is int and draw.random() < 0.95
        return str(int(chosen)) if whole else f"{chosen!r}"
    if way < 0.9:
        return draw.choice(NUMBERS)
    return f"{draw.choice((-1, 1)) * 10 ** draw.uniform(-320, 308)!r}"


def several(draw: random.Random, one: Callable[[], str]) -> str:
    """A list of `one`s: empty, short, nested, of thousands, of other things, or not closed."""
    way = draw.randrange(8)
    if way == 0:
        return draw.choice(
            ("[]", "[[]]", "[,]", "[1,]", "{}", "{a:1}", "[null]", "['']", "[", "]", "null", "[a", "[{}]")
        )
    if way == 1:
        return "[" + ",".join([one()] * draw.choice((50, 20_000))) + "]"
    if way == 2:
        return "[" * 3 + one() + "]" * 3
    if way == 3:
        return "[" * draw.choice((40, 600)) + "]" * 40
    return "[" + ",".join(one() for _ in range(draw.randrange(1, 6))) + "]"


def value(draw: random.Random, setting: Setting) -> str:
    """What is written behind `setting.key=`."""
    way = draw.random()
    if way < 0.05:
        return draw.choice(("null", "", "{}", "{a:1}", "[]", "${run}", "${nothing}", "???"))
    if way < 0.12:
        return several(draw, lambda: text(draw))
    if way < 0.18:
        return text(draw)
    numeric = setting.kind in (int, float)

    def one() -> str:
        return number(draw, setting) if numeric else text(draw)

    if setting.many:
        return several(draw, one) if draw.random() < 0.9 else one()
    if isinstance(setting.kind, type) and issubclass(setting.kind, Enum):
        return str(draw.choice([member.value for member in setting.kind])) if draw.random() < 0.5 else one()
    if setting.kind is bool:
        return draw.choice(("true", "false", "1", "0", "yes", "no", "2", "-1")) if draw.random() < 0.7 else one()
    return one()


def json_value(draw: random.Random, depth: int = 0) -> Any:
    """Any JSON value, hostile ones among them; NaN and infinities too."""
    way = draw.randrange(12)
    if way < 5:
        return text(draw)
    if way == 5:
        return draw.choice((None, True, False, 0, -1, 1.5, 10**20, 10**4000))
    if way == 6:
        return draw.choice((float("nan"), float("inf"), -0.0, 1e308, 5e-324, -(2**63)))
    if way == 7:
        return draw.choice(
            ("NaN", "null", "None", "N/A", "?", "-", "nan", "<NA>", "[]", "", " ", "####", "#### ", "\\boxed{")
        )
    if way == 8:
        return draw.choice(("<think>", "</think>", "<short>", "<|end|>", "<|pad|>")) + text(draw)
    if depth > 2:
        return None
    if way == 9:
        return {text(draw): json_value(draw, depth + 1) for _ in range(draw.randrange(4))}
    if way == 10:
        return {"role": draw.choice(("user", "assistant", "system", "x")), "content": json_value(draw, depth + 1)}
    return [json_value(draw, depth + 1) for _ in range(draw.randrange(4))]
