r"""The generated task with levels: chains of absolute differences, a~b = |a - b|, of single digits, from left to right.

In: a seed and an index. Out: questions with long and short answers. Level k is the number of terms: k = 2 can be
answered directly, k = 8 needs its steps written down.

    problem  "5~2~4          :3="                            padded to `width`, then the marker of k
    think    "5~2=3;3~4=1?5~2=3;3~4=1</think>\boxed{1}"     each step, then each step checked
    between  "5~2=3;3~4=1</think>\boxed{1}"                 at half the effort: each step once
    short    "\boxed{1}"

(Why not sums: a running total is linear in its terms, and some warm-ups find that shortcut, so that hard levels are no
longer hard. With absolute differences only the parity is linear, and in long chains it is hard to find.)

Question `index` of a stream depends only on (purpose, seed, index). Streams of different purpose or seed are drawn
independently; a level has only (max_digit + 1)^k questions (digits 0..5: 36 for k = 2, 216 for k = 3, 1.7 million
for k = 8), so the small levels of an evaluation necessarily repeat questions seen in training. Must not know: tokens,
modes, rewards.
"""

from __future__ import annotations

import hashlib
import json
import random

from conf.schema import ArithmeticConf
from rollout.data.levels import level_at
from rollout.data.problems import Problem

SOURCE = "arithmetic"

Steps = tuple[str, ...]  # ("5~2=3", "3~4=1"), k - 1 of them


def question(level: int, conf: ArithmeticConf, rng: random.Random) -> tuple[str, Steps]:
    """A question of `level` terms, each uniform over 0..max_digit: the problem's text (width + len(":k=") characters)
    and its level - 1 steps."""
    terms = [int(rng.random() * (conf.max_digit + 1)) for _ in range(level)]
    value, steps = terms[0], []
    for term in terms[1:]:
        after = abs(value - term)
        steps.append(f"{value}~{term}={after}")
        value = after
    return f"{'~'.join(map(str, terms)):<{conf.width}}:{level}=", tuple(steps)


def answer_of(steps: Steps) -> str:
    """The last step's value."""
    return steps[-1].rpartition("=")[2]


def think_answer(steps: Steps, think_end: str = "</think>", effort: float = 1.0) -> str:
    """The text after the think token: every step, `?`, every step again, then the answer. effort: of the mode
    (`rollout.mode`), the share of these that it writes; at 1/2 every step once."""
    count = round(effort * 2 * len(steps))
    once, again = (";".join(part) for part in (steps[:count], steps[: max(0, count - len(steps))]))
    return f"{once}{'?' if again else ''}{again}{think_end}{short_answer(steps)}"


def short_answer(steps: Steps) -> str:
    """The text after the short token."""
    return rf"\boxed{{{answer_of(steps)}}}"


def question_at(seed: int, index: int, conf: ArithmeticConf, purpose: str) -> tuple[int, str, Steps]:
    """(level, problem, steps) number `index` of the stream (purpose, seed)."""
    level = level_at(f"{SOURCE}/{purpose}/{seed}", index, conf.levels, conf.weights)
    return level, *question(level, conf, random.Random(f"{SOURCE}/{purpose}/{seed}/{index}"))


def problem_at(seed: int, index: int, conf: ArithmeticConf, purpose: str = "train") -> Problem:
    """Problem number `index` of the stream (purpose, seed); give validation its own purpose."""
    level, text, steps = question_at(seed, index, conf, purpose)
    return _problem(f"{purpose}/{seed}/{index}", text, steps, level)


def problems_of_level(seed: int, level: int, count: int, conf: ArithmeticConf) -> list[Problem]:
    """`count` evaluation questions of one level, independent of every `problem_at` stream (see the note on overlap)."""
    problems = []
    for index in range(count):
        text, steps = question(level, conf, random.Random(f"{SOURCE}/level {level}/{seed}/{index}"))
        problems.append(_problem(f"level {level}/{seed}/{index}", text, steps, level))
    return problems


def conf_hash(conf: ArithmeticConf) -> str:
    """SHA-256 (hex) of what determines the questions besides the seed."""
    return hashlib.sha256(
        json.dumps([list(conf.levels), list(conf.weights), conf.width, conf.max_digit]).encode()
    ).hexdigest()


def _problem(uid: str, text: str, steps: Steps, level: int) -> Problem:
    return Problem(f"{SOURCE}/{uid}", text, answer_of(steps), SOURCE, str(level))
