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
from rollout.data.levels import Questions

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


QUESTIONS = Questions(SOURCE, question, answer_of)
question_at, problem_at = QUESTIONS.at, QUESTIONS.problem_at
problems_of_level = QUESTIONS.problems_of_level


def conf_hash(conf: ArithmeticConf) -> str:
    """SHA-256 (hex) of what determines the questions besides the seed."""
    return hashlib.sha256(
        json.dumps([list(conf.levels), list(conf.weights), conf.width, conf.max_digit]).encode()
    ).hexdigest()
