r"""Warm-up pairs: every question with a long and a short answer (Thinkless stage 1), or with one of them (unpaired);
where there are modes between, also with answers in these.

In: `WarmupConf`. Out: `Pair` number i of an endless sequence, which depends only on the configuration and i, so that
ranks take disjoint pairs and a resumed warm-up continues by number. Must not know: tokens, batches, the loss.

Unpaired rows have one answer; the modes come from different questions (arXiv 2510.12680). A long one and a short one
take the place of a pair, matched anew in each epoch, so that batches have as many of either as the data allow; the rest
of the mode with more rows is spread over the epoch. The answer of a mode between goes with its row: it stands in the
column (an adapter's key) that is named as the mode.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from conf.schema import DataConf, ModelConf, WarmupConf
from rollout.base.errors import BadInput
from rollout.data import generated
from rollout.data.dataset_rows import SKIPPED, LeftOut, Part, adapted, read_parts, refuse_absent_column
from rollout.data.files import Row
from rollout.data.golds import Unusable, gold_of, level_of, text_of
from rollout.data.layouts import field as field_of
from rollout.data.pair_file import Pair, PairFile, sha256
from rollout.data.pair_layouts import Texts, pair_layout
from rollout.data.stream import shuffled
from rollout.mode import MODES, Mode, modes_of, names_of_tokens

PAIR = ("problem", "think", "short")
LEVEL = "level"  # column of a question's difficulty
MISSING = tuple(DataConf().unusable_answers)  # texts that mean no answer
MAX_UNUSABLE = 0.05  # share of a file's rows
ADAPTERS = {"openai/gsm8k": "rollout.data.pairs:gsm8k_pair"}  # of hub data sets, if warmup.adapter is null


@dataclass(frozen=True, slots=True)
class Pairs:
    """An endless sequence of pairs: generated, or the rows of a file, reshuffled in each epoch."""

    conf: WarmupConf
    think_end: str
    rows: Sequence[Pair] | None = None  # with both answers; None: generated
    unusable: Mapping[str, int] = field(default_factory=dict)  # reason -> rows of the file
    think_only: Sequence[Pair] = ()
    short_only: Sequence[Pair] = ()
    modes: Sequence[Mode] = MODES

    @property
    def size(self) -> int | None:
        """Places in an epoch; None for generated ones, which never repeat an index."""
        return None if self.rows is None else len(self.rows) + max(len(self.think_only), len(self.short_only))

    def at(self, index: int) -> Pair:
        """Pair number `index` >= 0, the first of `together`."""
        return self.together(index)[0]

    def together(self, index: int) -> tuple[Pair, ...]:
        """What is learnt at place `index` >= 0; for a file, index % size in the order of epoch index // size.

        A pair, or a long and a short answer of two questions, or one of them where the other mode has fewer rows.
        """
        if self.rows is None or self.size is None:
            thinking = [mode for mode in self.modes if mode.thinks]
            problem, short, *texts = generated.answers_at(
                self.conf.seed, index, self.conf, self.think_end, [mode.effort for mode in thinking]
            )
            by_mode = dict(zip((mode.name for mode in thinking), texts, strict=True))
            return (Pair(problem, by_mode.pop("think"), short, between=by_mode),)
        epoch, offset = divmod(index, self.size)
        seed = f"warm-up/{self.conf.seed}/{epoch}"
        place = shuffled(self.size, seed)[offset]
        if place < len(self.rows):
            return (self.rows[place],)
        place -= len(self.rows)
        sides = (("think", self.think_only), ("short", self.short_only))
        return tuple(s[shuffled(len(s), f"{seed}/{name}")[place]] for name, s in sides if place < len(s))

    def summary(self) -> str:
        """One line for the console where rows have one answer alone; otherwise empty."""
        if not self.think_only and not self.short_only:
            return ""
        return (
            f"{len(self.rows or ())} questions in both modes, {len(self.think_only)} only in thinking mode, "
            f"{len(self.short_only)} only in short mode"
        )

    def sha256(self) -> str:
        """SHA-256 of the content (hex), part of the key under which a finished warm-up is cached."""
        if self.rows is None:
            return generated.conf_hash(self.conf)
        return sha256(self.rows, self.think_only, self.short_only)


def short_answers(pairs: Pairs, count: int) -> list[str]:
    """About `count` short answers, evenly from all pairs."""
    if pairs.rows is None:
        return [str(pairs.at(index).short) for index in range(count)]
    found = []
    for side in (pairs.rows, pairs.short_only):
        found += [side[place].short for place in range(0, len(side), -(-len(side) // count) or 1)]
    return [text for text in found if text is not None]


def load_pairs(conf: WarmupConf, model: ModelConf | None = None) -> Pairs:
    """The pairs that `conf` describes; the names of the control tokens come from `model`.

    Where the warm-up is evaluated, pairs have their row's gold answer and level too, if it has any.
    A control token repeated at the start of its answer is removed. An answer that is null makes its row unpaired. Rows
    with an empty text, without either answer, or whose long answer never closes its thinking or has nothing after it,
    are skipped and counted.
    Raises BadInput: as `rollout.data.dataset_rows.read_parts`; missing column; more than 5 % of the rows unusable; no
    answer in one of the modes.
    """
    model = model or ModelConf()
    if conf.path is None:
        return Pairs(conf, model.think_end_token, modes=modes_of(model.modes))
    between: Counter[str] = Counter()
    both, think_only, short_only = PairFile(), PairFile(), PairFile()
    left_out = LeftOut()
    for part in read_parts(conf, "warmup"):
        for index, (texts_of, row) in enumerate(_rows(conf, part, model)):
            try:
                pair = _pair(texts_of(row), model, *(_gold(row, conf) if conf.evaluate_every else ()))
            except Unusable as reason:
                left_out.add(str(reason), part.source, index)
            else:
                between.update(pair.between)
                (think_only if pair.short is None else short_only if pair.think is None else both).append(pair)
    count = len(both) + len(think_only) + len(short_only)
    left_out.refuse(count, MAX_UNUSABLE, f"warmup.path={conf.path}", f"{MAX_UNUSABLE:.0%}", "fix the file")
    for name, side in (("think", think_only), ("short", short_only)):
        if not both and not side:
            raise BadInput(
                f"warmup.path={conf.path}: none of {count} rows has a {name} answer, and a warm-up teaches both "
                "modes: name a file that has some as well, warmup.path=[<file>,<file>]"
            )
    for name in model.modes[1:-1]:
        if not between[name]:
            raise BadInput(
                f"warmup.path={conf.path}: none of {count} rows has a {name} answer, and a warm-up teaches every mode "
                f"of model.modes={list(model.modes)}: give such answers in a column {name}"
            )
    return Pairs(
        conf, model.think_end_token, both, dict(left_out.counts), think_only, short_only, modes_of(model.modes)
    )


def _rows(
    conf: WarmupConf, part: Part, model: ModelConf
) -> Iterator[tuple[Callable[[Any], Texts], Mapping[str, Any] | None]]:
    """Rows, None where the adapter skips one, each with the function that finds problem and answers in it."""
    between = model.modes[1:-1]
    if adapter := conf.adapter or ADAPTERS.get(part.source):
        for row in adapted(part, adapter, "warmup.adapter", PAIR):
            yield _named(PAIR, between), row
    elif present := part.rows.columns():
        columns = {f"warmup.{name}_column": getattr(conf, f"{name}_column") for name in PAIR}
        own = any(name in present for name in (conf.think_column, conf.short_column))
        if not own and (layout := pair_layout(present, model.think_end_token)):
            for row in part.rows.read(layout.names):
                yield layout.of, row
            return
        for key, name in columns.items():
            refuse_absent_column(name, present, part.source, key)
        names = list(columns.values())
        graded = [name for name in (conf.answer_column, LEVEL) if name in present and name not in names]
        there = [name for name in between if name in present]
        for row in part.rows.read([*names, *there, *(graded if conf.evaluate_every else ())]):
            yield _named(names, between), row


def _named(names: Sequence[str], between: Sequence[str]) -> Callable[[Any], Texts]:
    def texts(row: Row | None) -> Texts:
        if row is None:
            raise Unusable(SKIPPED)
        problem, think, short = (field_of(row, name) for name in names)
        return problem, think, short, *(row.get(name) for name in between)

    return texts


def gsm8k_pair(row: Mapping[str, Any]) -> dict[str, str]:
    r"""An adapter for GSM8K: its worked solution is the long answer, its result the short one.

    Example: answer "5 * 2 = <<5*2=10>>10\n#### 10" -> think "5 * 2 = 10</think>\boxed{10}", short "\boxed{10}"; that
    answer is also the gold.
    """
    solution, _, result = str(row["answer"]).rpartition("####")
    gold = result.strip().replace(",", "")
    boxed = rf"\boxed{{{gold}}}"
    steps = re.sub(r"<<.*?>>", "", solution).strip()
    return {"problem": str(row["question"]), "think": f"{steps}</think>{boxed}", "short": boxed, "answer": gold}


def _gold(row: Row | None, conf: WarmupConf) -> tuple[str | tuple[str, ...] | None, str | None]:
    """(answer, level); an answer that is none is no fault of the pair: its question is only not held out."""
    if row is None:
        return None, None
    column = "answer" if conf.adapter else conf.answer_column
    try:
        return gold_of(row.get(column), False, MISSING), level_of(row.get(LEVEL))
    except Unusable:
        return None, None


def _pair(
    texts: Texts, model: ModelConf, answer: str | tuple[str, ...] | None = None, level: str | None = None
) -> Pair:
    problem, tokens = text_of(texts[0], "problem"), names_of_tokens(model)
    if found := next((token for token in (*tokens.values(), model.think_end_token) if token in problem), None):
        raise Unusable(f"problem contains {found}")
    if texts[1] is None and texts[2] is None:
        raise Unusable("think and short are null")
    think, short = (None if text is None else _unstripped(text, name) for name, text in zip(PAIR[1:], texts[1:]))
    if think is not None:
        think = _thinking("think", think, model.think_token, model)
    named = zip([*tokens][1:-1], texts[3:], strict=False)  # ready-made layouts have none of them
    between = {
        mode.name: _thinking(mode.name, _unstripped(text, mode.name), tokens[mode], model)
        for mode, text in named
        if text is not None
    }
    if short is not None:
        short = short.removeprefix(model.short_token)
        if any(token in short for token in (*[*tokens.values()][1:], model.think_end_token)):
            raise Unusable("short contains a think token")  # reward.format_error in training
    return Pair(problem, think, short, answer, level, between)


def _thinking(name: str, text: str, token: str, model: ModelConf) -> str:
    """`text` without the control token at its beginning. Raises Unusable: it has no answer."""
    if not text.partition(model.think_end_token)[2].strip():
        raise Unusable(f"{name} has no answer after {model.think_end_token}")
    return text.removeprefix(token)


def _unstripped(text: object, what: str) -> str:
    """`text`, with the spaces around it, if it is one."""
    text_of(text, what)
    assert isinstance(text, str)
    return text
