r"""Warm-up pairs: every question with a long and a short answer (Thinkless stage 1).

In: `WarmupConf`. Out: `Pair` number i of an endless sequence, which depends only on the configuration and i, so that
ranks take disjoint pairs and a resumed warm-up continues by number. Must not know: tokens, batches, the loss.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from conf.schema import ModelConf, WarmupConf
from rollout.base.errors import BadInput
from rollout.base.load_function import load_function
from rollout.data import arithmetic
from rollout.data.addresses import nearest
from rollout.data.dataset_rows import Part, read_parts
from rollout.data.files import Row, listed
from rollout.data.golds import half_a_pair
from rollout.data.layouts import field as field_of

PAIR = ("problem", "think", "short")
MAX_UNUSABLE = 0.05  # share of a file's rows
ADAPTERS = {"openai/gsm8k": "rollout.data.pairs:gsm8k_pair"}  # of hub data sets, if warmup.adapter is null


@dataclass(frozen=True, slots=True)
class Pair:
    r"""Example: Pair("4~2        :2=", "4~2=3?4~2=3</think>\boxed{3}", "\boxed{3}")."""

    problem: str
    think: str  # text after the think token: reasoning, </think>, answer
    short: str  # text after the short token


@dataclass(slots=True)
class Pairs:
    """An endless sequence of pairs: generated, or the rows of a file, reshuffled in each epoch."""

    conf: WarmupConf
    think_end: str
    rows: Sequence[Pair] | None  # None: generated
    unusable: Mapping[str, int] = field(default_factory=dict)  # reason -> rows of the file
    _order: tuple[int, list[int]] = (-1, [])

    @property
    def size(self) -> int | None:
        """Pairs in an epoch; None for generated ones, which never repeat an index."""
        return None if self.rows is None else len(self.rows)

    def at(self, index: int) -> Pair:
        """Pair number `index` >= 0; for a file, number index % size in the order of epoch index // size."""
        if self.rows is None:
            _, problem, steps = arithmetic.question_at(self.conf.seed, index, self.conf.arithmetic, "warmup")
            return Pair(problem, arithmetic.think_answer(steps, self.think_end), arithmetic.short_answer(steps))
        epoch, offset = divmod(index, len(self.rows))
        if self._order[0] != epoch:
            order = list(range(len(self.rows)))
            random.Random(f"warm-up/{self.conf.seed}/{epoch}").shuffle(order)
            self._order = (epoch, order)
        return self.rows[self._order[1][offset]]

    def __iter__(self) -> Iterator[Pair]:
        """All pairs from number 0 on, endlessly."""
        index = 0
        while True:
            yield self.at(index)
            index += 1

    def sha256(self) -> str:
        """SHA-256 of the content (hex), part of the key under which a finished warm-up is cached."""
        if self.rows is None:
            return arithmetic.conf_hash(self.conf.arithmetic)
        digest = hashlib.sha256()
        for pair in self.rows:
            digest.update(json.dumps([pair.problem, pair.think, pair.short]).encode() + b"\n")
        return digest.hexdigest()


def load_pairs(conf: WarmupConf, model: ModelConf | None = None) -> Pairs:
    """The pairs that `conf` describes; the names of the control tokens come from `model`.

    A control token repeated at the start of its answer is removed. Rows with an empty text, or whose long answer never
    closes its thinking or has nothing after it, are skipped and counted.
    Raises BadInput: as `rollout.data.dataset_rows.read_parts`; missing column; more than 5 % of the rows unusable.
    """
    model = model or ModelConf()
    if conf.path is None:
        return Pairs(conf, model.think_end_token, None)
    pairs: list[Pair] = []
    unusable: Counter[str] = Counter()
    for part in read_parts(conf, "warmup"):
        adapter = conf.adapter or ADAPTERS.get(part.source)
        names = PAIR if adapter else (conf.problem_column, conf.think_column, conf.short_column)
        for row in _adapted(adapter, part) if adapter else _with_columns(conf, part):
            pair, fault = _pair(row, names, model)
            if pair:
                pairs.append(pair)
            else:
                unusable[fault] += 1
    rows = len(pairs) + sum(unusable.values())
    if not rows:
        raise BadInput(f"warmup.path={conf.path}: the file is empty; it must hold at least one row")
    if sum(unusable.values()) > MAX_UNUSABLE * rows:
        parts = ", ".join(f"{reason}: {count}" for reason, count in unusable.items())
        raise BadInput(
            f"warmup.path={conf.path}: {sum(unusable.values())} of {rows} rows not usable ({parts}), "
            f"more than {MAX_UNUSABLE:.0%}; fix the file"
        )
    return Pairs(conf, model.think_end_token, tuple(pairs), dict(unusable))


def _with_columns(conf: WarmupConf, part: Part) -> Iterator[Row]:
    if not (present := part.rows.columns()):  # no row
        return iter(())
    for key in ("problem_column", "think_column", "short_column"):
        if (name := getattr(conf, key)) not in present:
            raise BadInput(
                f"warmup.path: {part.source} has no column {name!r} (warmup.{key}); its columns are {listed(present)}"
                f"{nearest(name, present)}"
            )
    return part.rows.read([conf.problem_column, conf.think_column, conf.short_column])


def _adapted(name: str, part: Part) -> Iterator[Row]:
    adapter, skipped = load_function(name, "warmup.adapter"), True
    for index, row in enumerate(part.rows.read(None)):
        try:
            pair = adapter(dict(row))
        except Exception as error:
            what = f"{type(error).__name__}: {error}"
            raise BadInput(f"warmup.adapter={name} failed on row {index} of {part.source} ({what})") from error
        if pair is not None:
            skipped = False
            yield pair
    if skipped:
        raise BadInput(f"warmup.adapter={name} skipped every row of {part.source}")


def gsm8k_pair(row: Mapping[str, Any]) -> dict[str, str]:
    r"""An adapter for GSM8K: its worked solution is the long answer, its result the short one.

        Example: answer "5 * 2 = <<5*2=10>>10
    #### 10" -> think "5 * 2 = 10</think>\boxed{10}", short "\boxed{10}".
    """
    solution, _, result = str(row["answer"]).rpartition("####")
    boxed = rf"\boxed{{{result.strip().replace(',', '')}}}"
    steps = re.sub(r"<<.*?>>", "", solution).strip()
    return {"problem": str(row["question"]), "think": f"{steps}</think>{boxed}", "short": boxed}


def _pair(row: Row, names: Sequence[str], model: ModelConf) -> tuple[Pair | None, str]:
    """(pair, "") or (None, reason)"""
    texts = [field_of(row, name) for name in names]
    for name, text in zip(PAIR, texts, strict=True):
        if not isinstance(text, str) or not text.strip():
            return None, f"{name} is not text" if text and not isinstance(text, str) else f"{name} is null or empty"
        if half_a_pair(text):
            return None, f"{name} contains half a surrogate pair"
    problem, think, short = (str(text) for text in texts)
    think, short = think.removeprefix(model.think_token), short.removeprefix(model.short_token)
    if not think.partition(model.think_end_token)[2].strip():
        return None, f"think has no answer after {model.think_end_token}"
    if any(token in short for token in (model.think_token, model.think_end_token)):
        return None, "short contains a think token"  # reward.format_error in training
    return Pair(problem.strip(), think, short), ""
