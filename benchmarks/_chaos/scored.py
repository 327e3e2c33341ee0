"""The runs' reward: 1 for a right short answer, 0.5 for a right long one, -1 for any other.

As a function of its own it runs in grading processes from the start; the built-in verifier starts them for answers
alone that are more than a number, of which the task has few.
"""

from __future__ import annotations

import re


def score(problem: str, response: str, answer: str, mode: str) -> float:
    found = re.findall(r"\\boxed\{([^{}]*)\}", response)
    if not found or found[-1].strip() != answer:
        return -1.0
    return 1.0 if mode == "short" else 0.5
