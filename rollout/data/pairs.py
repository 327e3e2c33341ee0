r"""Warm-up pairs: every question with a long and a short answer (Thinkless stage 1).

In: `WarmupConf`. Out: `Pair` number i of an endless sequence, which depends only on the configuration and i, so that
ranks take disjoint pairs and a resumed warm-up continues by number. Must not know: tokens, batches, the loss.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from conf.schema import ModelConf, WarmupConf
from rollout.data import arithmetic
from rollout.data.dataset_rows import SKIPPED, Part, adapted, read_parts, refuse_absent_column, refuse_unusable
from rollout.data.files import Row
from rollout.data.golds import Unusable, text_of
from rollout.data.layouts import field as field_of
from rollout.data.stream import shuffled

PAIR = ("problem", "think", "short")
MAX_UNUSABLE = 0.05  # share of a file's rows
ADAPTERS = {"openai/gsm8k": "rollout.data.pairs:gsm8k_pair"}  # of hub data sets, if warmup.adapter is null


@dataclass(frozen=True, slots=True)
class Pair:
    r"""Example: Pair("4~2        :2=", "4~2=3?4~2=3</think>\boxed{3}", "\boxed{3}")."""

    problem: str
    think: str  # text after the think token: reasoning, </think>, answer
    short: str  # text after the short token


@dataclass(frozen=True, slots=True)
class Pairs:
    """An endless sequence of pairs: generated, or the rows of a file, reshuffled in each epoch."""

    conf: WarmupConf
    think_end: str
    rows: Sequence[Pair] | None = None  # None: generated
    unusable: Mapping[str, int] = field(default_factory=dict)  # reason -> rows of the file

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
        return self.rows[shuffled(len(self.rows), f"warm-up/{self.conf.seed}/{epoch}")[offset]]

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
        return Pairs(conf, model.think_end_token)
    pairs: list[Pair] = []
    unusable: Counter[str] = Counter()
    for part in read_parts(conf, "warmup"):
        for row, names in _rows(conf, part):
            try:
                pairs.append(_pair(row, names, model))
            except Unusable as reason:
                unusable[str(reason)] += 1
    refuse_unusable(
        len(pairs), unusable, MAX_UNUSABLE, f"warmup.path={conf.path}", f"{MAX_UNUSABLE:.0%}", "fix the file"
    )
    return Pairs(conf, model.think_end_token, tuple(pairs), dict(unusable))


def _rows(conf: WarmupConf, part: Part) -> Iterator[tuple[Row | None, Sequence[str]]]:
    """Rows, None where the adapter skips one, each with the names of its problem, think and short."""
    if adapter := conf.adapter or ADAPTERS.get(part.source):
        for row in adapted(part, adapter, "warmup.adapter", PAIR):
            yield row, PAIR
    elif present := part.rows.columns():
        columns = {f"warmup.{name}_column": getattr(conf, f"{name}_column") for name in PAIR}
        for key, name in columns.items():
            refuse_absent_column(name, present, part.source, key)
        for row in part.rows.read(names := list(columns.values())):
            yield row, names


def gsm8k_pair(row: Mapping[str, Any]) -> dict[str, str]:
    r"""An adapter for GSM8K: its worked solution is the long answer, its result the short one.

    Example: answer "5 * 2 = <<5*2=10>>10\n#### 10" -> think "5 * 2 = 10</think>\boxed{10}", short "\boxed{10}".
    """
    solution, _, result = str(row["answer"]).rpartition("####")
    boxed = rf"\boxed{{{result.strip().replace(',', '')}}}"
    steps = re.sub(r"<<.*?>>", "", solution).strip()
    return {"problem": str(row["question"]), "think": f"{steps}</think>{boxed}", "short": boxed}


def _pair(row: Row | None, names: Sequence[str], model: ModelConf) -> Pair:
    if row is None:
        raise Unusable(SKIPPED)
    problem, think, short = (field_of(row, name) for name in names)
    for what, text in zip(PAIR, (problem, think, short)):
        text_of(text, what)
    think, short = think.removeprefix(model.think_token), short.removeprefix(model.short_token)
    if not think.partition(model.think_end_token)[2].strip():
        raise Unusable(f"think has no answer after {model.think_end_token}")
    if any(token in short for token in (model.think_token, model.think_end_token)):
        raise Unusable("short contains a think token")  # reward.format_error in training
    return Pair(problem.strip(), think, short)
