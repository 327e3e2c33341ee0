"""The generated task that a section of the configuration names (`task`): `rollout.data.arithmetic` or `register`.

In: `data` or `warmup` of the configuration, a seed, an index. Out: problems, and pairs of answers. Must not know: how
either task is made, tokens, modes.
"""

from __future__ import annotations

from collections.abc import Sequence

from conf.choices import Task
from conf.schema import DataConf, WarmupConf
from rollout.data import arithmetic, register
from rollout.data.problems import Problem

Conf = DataConf | WarmupConf


def problem_at(seed: int, index: int, conf: Conf, purpose: str = "train") -> Problem:
    """Problem number `index` of the stream (purpose, seed); give validation its own purpose."""
    if conf.task is Task.register:
        return register.problem_at(seed, index, conf.register, purpose)
    return arithmetic.problem_at(seed, index, conf.arithmetic, purpose)


def problems_of_levels(seed: int, count: int, conf: Conf) -> list[Problem]:
    """`count` evaluation questions of each level, independent of every `problem_at` stream."""
    if conf.task is Task.register:
        return [
            p for level in conf.register.levels for p in register.problems_of_level(seed, level, count, conf.register)
        ]
    levels = conf.arithmetic.levels
    return [p for level in levels for p in arithmetic.problems_of_level(seed, level, count, conf.arithmetic)]


def answers_at(seed: int, index: int, conf: Conf, think_end: str, efforts: Sequence[float] = (1.0,)) -> list[str]:
    """The problem, the text after the short token, and that after the token of a mode of each of `efforts`
    (`rollout.mode`): number `index` of the warm-up's stream."""
    if conf.task is Task.register:
        _, problem, lines = register.question_at(seed, index, conf.register, "warmup")
        return [
            problem, register.short_answer(lines), *(register.think_answer(lines, think_end, one) for one in efforts)
        ]  # fmt: skip
    _, problem, steps = arithmetic.question_at(seed, index, conf.arithmetic, "warmup")
    return [
        problem, arithmetic.short_answer(steps), *(arithmetic.think_answer(steps, think_end, one) for one in efforts)
    ]  # fmt: skip


def mix(conf: Conf) -> tuple[Sequence[int], Sequence[float]]:
    """(levels, their weights)."""
    section = conf.register if conf.task is Task.register else conf.arithmetic
    return section.levels, section.weights


def prompt_characters(conf: Conf) -> int:
    """Of a problem's text, about."""
    return register.SIZE if conf.task is Task.register else conf.arithmetic.width


def source(conf: Conf) -> str:
    """The name that problems bear."""
    return register.SOURCE if conf.task is Task.register else arithmetic.SOURCE


def conf_hash(conf: Conf) -> str:
    """SHA-256 (hex) of what determines the questions besides the seed."""
    return register.conf_hash(conf.register) if conf.task is Task.register else arithmetic.conf_hash(conf.arithmetic)
