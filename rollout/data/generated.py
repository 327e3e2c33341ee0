"""The generated task that a section of the configuration names (`task`): `rollout.data.arithmetic` or `register`.

In: `data` or `warmup` of the configuration, a seed, an index. Out: problems, and pairs of answers. Must not know: how
either task is made, tokens, modes.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any

from conf.choices import Task
from conf.schema import DataConf, WarmupConf
from rollout.data import arithmetic, register
from rollout.data.levels import Questions
from rollout.data.problems import Problem

Conf = DataConf | WarmupConf


def _chosen(conf: Conf) -> tuple[ModuleType, Any]:
    """The task's module, and its section of the configuration."""
    return (register, conf.register) if conf.task is Task.register else (arithmetic, conf.arithmetic)


def _questions(conf: Conf) -> tuple[Questions[Any, Any], Any]:
    task, section = _chosen(conf)
    return task.QUESTIONS, section


def problem_at(seed: int, index: int, conf: Conf, purpose: str = "train") -> Problem:
    """Problem number `index` of the stream (purpose, seed); give validation its own purpose."""
    questions, section = _questions(conf)
    return questions.problem_at(seed, index, section, purpose)


def problems_of_levels(seed: int, count: int, conf: Conf) -> list[Problem]:
    """`count` evaluation questions of each level, independent of every `problem_at` stream."""
    questions, section = _questions(conf)
    return [p for level in section.levels for p in questions.problems_of_level(seed, level, count, section)]


def answers_at(seed: int, index: int, conf: Conf, think_end: str, efforts: Sequence[float] = (1.0,)) -> list[str]:
    """The problem, the text after the short token, and that after the token of a mode of each of `efforts`
    (`rollout.mode`): number `index` of the warm-up's stream."""
    task, section = _chosen(conf)
    _, problem, work = task.question_at(seed, index, section, "warmup")
    return [problem, task.short_answer(work), *(task.think_answer(work, think_end, effort) for effort in efforts)]


def mix(conf: Conf) -> tuple[Sequence[int], Sequence[float]]:
    """(levels, their weights)."""
    _, section = _chosen(conf)
    return section.levels, section.weights


def prompt_characters(conf: Conf) -> int:
    """Of a problem's text, about."""
    return register.SIZE if conf.task is Task.register else conf.arithmetic.width


def source(conf: Conf) -> str:
    """The name that problems bear."""
    questions, _ = _questions(conf)
    return questions.source


def conf_hash(conf: Conf) -> str:
    """SHA-256 (hex) of what determines the questions besides the seed."""
    return register.conf_hash(conf.register) if conf.task is Task.register else arithmetic.conf_hash(conf.arithmetic)
