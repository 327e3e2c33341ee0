"""PromptStream: an endless stream of prompts, resumable from one number.

In: problems (or the generated task), an encode function, `DataConf`, a seed. Out: `Prompt`s; a JSON-serializable state.
Draw n of a shard depends only on (data, seed, shard, n), so the state is the number of draws. A shard is a fixed part
of the rows (every num_shards-th), reshuffled in each epoch. Must not know: tokenizers, modes, the sampler.
"""

from __future__ import annotations

import random
from array import array
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from conf.schema import DataConf
from rollout.base.errors import BadInput
from rollout.data import generated
from rollout.data.problems import Problem, content_hash
from rollout.prompt import Prompt

Encode = Callable[[str], np.ndarray]  # problem text -> i32[P], the generation prompt's ids

PATIENCE = 1000  # consecutive generated questions that may be too long before the stream gives up


@lru_cache(maxsize=4)
def shuffled(rows: int, seed: str) -> Sequence[int]:
    """The numbers 0..rows-1 in an order that depends on `seed` alone."""
    order = array("q", range(rows))
    random.Random(seed).shuffle(order)
    return order


def shard_of(problems: Sequence[Problem], conf: DataConf) -> Sequence[Problem]:
    """Those of `conf.shard`. Raises BadInput where there is none."""
    rows = problems[conf.shard :: conf.num_shards]
    if not rows:
        raise BadInput(
            f"data.shard={conf.shard} of {conf.num_shards} is empty: the data set has {len(problems)} usable rows"
        )
    return rows


class PromptStream:
    """An endless, seeded, sharded, resumable stream of prompts.

    problems: rows, repeated in every epoch; None: the generated task of `conf`.
    encode: called once per problem, when it is first drawn.
    Prompts longer than `conf.max_prompt_tokens` are dropped and counted in `counts["too_long"]`, once per draw.
    Raises BadInput for a shard without rows.
    """

    def __init__(self, problems: Sequence[Problem] | None, encode: Encode, conf: DataConf, seed: int) -> None:
        self._conf, self._seed, self._encode = conf, seed, encode
        self._rows = None if problems is None else shard_of(problems, conf)
        self._ids: dict[int, np.ndarray] = {}  # row -> i32[P]
        self.position = 0  # draws so far, dropped ones included
        self.counts = {"taken": 0, "too_long": 0}
        if problems is None:
            data = generated.conf_hash(conf)
        else:
            data = content_hash(problems)
        self._identity: dict[str, Any] = {
            "data": data,
            "seed": seed,
            "shard": conf.shard,
            "num_shards": conf.num_shards,
            "shuffle": conf.shuffle,
        }

    @property
    def epoch(self) -> int:
        """Finished passes over this shard (0 for the generated task)."""
        return self.position // len(self._rows) if self._rows else 0

    def take(self, n: int) -> list[Prompt]:
        """The next `n` prompts. BadInput if a whole epoch has no prompt that is short enough."""
        taken: list[Prompt] = []
        dropped = 0  # consecutive; any 2 * rows - 1 consecutive draws contain a whole epoch
        patience = 2 * len(self._rows) - 1 if self._rows else PATIENCE
        while len(taken) < n:
            problem, uid, ids = self._draw(self.position)
            self.position += 1
            if len(ids) <= self._conf.max_prompt_tokens:
                taken.append(_prompt(problem, uid, ids))
                dropped = 0
                continue
            self.counts["too_long"] += 1
            dropped += 1
            if dropped >= patience:
                raise BadInput(
                    f"{problem.source}: every prompt is longer than data.max_prompt_tokens="
                    f"{self._conf.max_prompt_tokens} (the last one: {len(ids)} tokens); raise it"
                )
        self.counts["taken"] += n
        return taken

    def again(self, cursor: dict[str, Any], n: int) -> list[Prompt]:
        """The `n` prompts drawn from state `cursor` on; the stream's own position does not change."""
        here = self.state()
        self.restore(cursor)
        taken = self.take(n)
        self.restore(here)
        return taken

    def state(self) -> dict[str, Any]:
        """The stream's position, JSON-serializable."""
        return {**self._identity, "position": self.position, "counts": dict(self.counts)}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from `state`. BadInput if it was saved with other data or another order."""
        for key, mine in self._identity.items():
            if key not in state or state[key] != mine:
                raise BadInput(
                    f"this run's prompts cannot continue from the saved position: {key} was {state.get(key)!r}, "
                    f"is {mine!r}; resume with the saved data and settings, or start a new run"
                )
        position, counts = state.get("position"), state.get("counts")
        if not isinstance(position, int) or position < 0 or not isinstance(counts, dict):
            raise BadInput(f"the saved prompt position is damaged ({position=!r}, {counts=!r}); start a new run")
        self.position, self.counts = position, {key: int(counts.get(key, 0)) for key in self.counts}

    def _draw(self, position: int) -> tuple[Problem, str, np.ndarray]:
        if self._rows is None:
            index = self._conf.shard + position * self._conf.num_shards
            problem = generated.problem_at(self._seed, index, self._conf)
            return problem, problem.uid, _encoded(self._encode, problem)
        epoch, offset = divmod(position, len(self._rows))
        row = shuffled(len(self._rows), f"epoch/{self._seed}/{epoch}")[offset] if self._conf.shuffle else offset
        problem = self._rows[row]
        if row not in self._ids:
            self._ids[row] = _encoded(self._encode, problem)
        return problem, f"{problem.uid}#e{epoch}", self._ids[row]


def as_prompts(problems: Iterable[Problem], encode: Encode, max_prompt_tokens: int) -> tuple[list[Prompt], int]:
    """(prompts, number dropped as too long): each problem once, in order, uid unchanged. For evaluation."""
    encoded = [(p, _encoded(encode, p)) for p in problems]
    prompts = [_prompt(p, p.uid, ids) for p, ids in encoded if len(ids) <= max_prompt_tokens]
    return prompts, len(encoded) - len(prompts)


def _encoded(encode: Encode, problem: Problem) -> np.ndarray:
    ids = np.array(encode(problem.problem), dtype=np.int32)
    ids.setflags(write=False)  # shared by the prompts of one problem in several epochs
    return ids


def _prompt(problem: Problem, uid: str, ids: np.ndarray) -> Prompt:
    return Prompt(uid, problem.problem, ids, problem.answer, problem.source, problem.level, problem.all_answers)
