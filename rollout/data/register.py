r"""The generated task with long answers: a shift register of five digits 0..4 is moved k times; k is the level.

In: a seed and an index. Out: questions with long and short answers. A move drops the first digit and appends
TABLE[first][last]. Asked is the last digit after k moves: k = 0 is a copy, k = 1 one look at the table, k = 9 needs the
registers written down.

    problem  "31402:2="            the register, then k
    think    "a231402;b114021;c040212;d040212;...</think>\boxed{2}"     `lines` of: label, moves left, register
    short    "\boxed{2}"

Long answers have 8 tokens a line, 310 of them for 38 lines, whatever the level: without a move left the register stays.
Each token follows from the line before, so that a small model soon writes all of them without a mistake. (The table is
a Latin square, so that a move forgets no digit, and no group's: with four digits it would be one, and sums cancel.)

Question `index` of a stream depends only on (purpose, seed, index), as in `rollout.data.arithmetic`. A level has 3,125
questions, whose answers depend on one digit at level 0 and on two at level 1. Must not know: tokens, modes, rewards.
"""

from __future__ import annotations

import hashlib
import json
import random
import string

from conf.source import RegisterConf
from rollout.data.levels import Questions

SOURCE = "register"
LABELS = string.ascii_letters
TABLE = ("31042", "12430", "40321", "23104", "04213")  # TABLE[first][last]: the digit that is appended
SIZE = 5

Lines = tuple[str, ...]  # ("a231402", "b11402x", ...): label, moves left, register


def question(level: int, conf: RegisterConf, rng: random.Random) -> tuple[str, Lines]:
    """A register of uniform digits to be moved `level` times: the problem's text and its `conf.lines` lines."""
    register = "".join(str(int(rng.random() * len(TABLE))) for _ in range(SIZE))
    text, left, lines = f"{register}:{level}=", level, []
    for label in LABELS[: conf.lines]:
        lines.append(f"{label}{left}{register}")
        if left:
            left, register = left - 1, register[1:] + TABLE[int(register[0])][int(register[-1])]
    return text, tuple(lines)


def answer_of(lines: Lines) -> str:
    """The last line's last digit."""
    return lines[-1][-1]


def think_answer(lines: Lines, think_end: str = "</think>", effort: float = 1.0) -> str:
    """The text after the think token: every line, then the answer. effort: of the mode (`rollout.mode`), the share of
    the lines that it writes, from the first on."""
    written = lines[: round(effort * len(lines))]
    return f"{''.join(f'{line};' for line in written)}{think_end}{short_answer(lines)}"


def short_answer(lines: Lines) -> str:
    """The text after the short token."""
    return rf"\boxed{{{answer_of(lines)}}}"


QUESTIONS = Questions(SOURCE, question, answer_of)
question_at, problem_at = QUESTIONS.at, QUESTIONS.problem_at
problems_of_level = QUESTIONS.problems_of_level


def conf_hash(conf: RegisterConf) -> str:
    """SHA-256 (hex) of what determines the questions besides the seed."""
    return hashlib.sha256(
        json.dumps([SOURCE, list(conf.levels), list(conf.weights), conf.lines, TABLE]).encode()
    ).hexdigest()
