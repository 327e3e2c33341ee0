"""Grades answers to mathematics problems: whether a response's final answer equals the gold answer.

A library of its own: it imports nothing from the rest of the project, and of other packages only mpmath and, for
calculus, sympy. README.md has accuracy and limits; docs/verifier.md the rules.

    verify(response, gold)          extract and compare
    extract(response)               the final answer of a response
    equivalent(answer, gold)        compare two answers
    trl_reward, compute_score       the same as reward functions of TRL and verl
"""

from reward.maths.equivalence import equivalent
from reward.maths.extraction.answer import extract
from reward.maths.score import compute_score, trl_reward, verify

__all__ = ["compute_score", "equivalent", "extract", "trl_reward", "verify"]
