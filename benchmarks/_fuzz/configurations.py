"""Configurations with one to three hostile overrides, and what a command says of them before it starts anything.

In: a seed and a number; a folder with the files that some values name. Out: `Case`s, `Outcome`s. Must not know: what a
setting means.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import io
import json
import os
import random
import sys
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

import hydra
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from omegaconf import DictConfig

from benchmarks._fuzz.children import Outcome
from benchmarks._fuzz.values import text, value
from conf.check import check
from conf.flags import Flags
from conf.groups import FOLDER, groups, options
from conf.overrides import read_overrides
from conf.schema import Config
from conf.settings import sections, settings

SIMULATED = 3000  # answers of a step at most that `plan` simulates here
OWN = ("model.path=model", "data.path=problems.jsonl")
BASES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("train", ("experiment=quickstart",)),
    ("train", ("experiment=quickstart", "warmup.path=pairs.jsonl", "data.path=problems.jsonl")),
    ("train", ("experiment=thinkless_1p5b", *OWN)),
    ("train", OWN),
    ("warmup", ("experiment=quickstart",)),
    ("warmup", ("experiment=quickstart", "warmup.path=pairs.jsonl")),
    ("evaluate", OWN),
    ("evaluate", ("experiment=quickstart", *OWN)),
    ("plan", ("experiment=thinkless_1p5b",)),
    ("plan", ("experiment=quickstart",)),
)


@dataclass(frozen=True, slots=True)
class Case:
    command: str
    base: tuple[str, ...]
    own: tuple[str, ...]
    whole: bool  # composed by Hydra from its files, not from a base that is kept: takes twice as long

    def __str__(self) -> str:
        shown = (word if len(word) < 80 else f"{word[:60]}...{word[-10:]}" for word in (*self.base, *self.own))
        return f"{self.command} {' '.join(map(repr, shown))}"


def draw_case(seed: int, index: int) -> Case:
    """Case `index` depends on both alone. Single keys come in the schema's order, so that each has its turn."""
    draw = random.Random(f"configuration/{seed}/{index}")
    command, base = draw.choice(BASES)
    keys = list(settings())
    count = draw.choices((1, 2, 3), (3, 1, 1))[0]
    chosen = [keys[index % len(keys)], *draw.choices(keys, k=count - 1)]
    own = tuple(_word(draw, key) for key in chosen)
    plain = all(word.partition("=")[0] in settings() for word in own)
    return Case(command, base, own, not plain or draw.random() < 0.1)


def _word(draw: random.Random, key: str) -> str:
    way = draw.random()
    if way < 0.03:
        group = draw.choice(groups())
        chosen = draw.choice([*options(group), text(draw), "[a,b]", "null", ""])
        return f"{draw.choice(('', '+', '~', '++'))}{group}={chosen}"
    if way < 0.05:
        section = draw.choice([one.key for one in sections() if one.key])
        return f"{section}={draw.choice(('null', '{}', '{a:1}', '[]', '1', text(draw)))}"
    if way < 0.06:
        return text(draw)
    prefix = draw.choice(("+", "++", "~")) if way < 0.10 else ""
    return f"{prefix}{key}={value(draw, settings()[key])}"


def attempt(case: Case) -> Outcome:
    """Compose, check and do everything that the command does before it starts anything, in this process."""
    from orchestrator.commands.cli import guarded

    printed, begun = io.TextIOWrapper(io.BytesIO(), errors="backslashreplace"), time.monotonic()
    with contextlib.redirect_stderr(printed), contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            code = guarded(lambda: _before(case))
        except SystemExit as end:  # argparse's, which prints its line itself; plan's, when nothing fits
            code = end.code if isinstance(end.code, int) else 1
            if case.command == "plan" and code == 1:
                code = 0
    printed.seek(0)
    return outcome_of(code, printed.read(), time.monotonic() - begun)


def outcome_of(code: int, printed: str, seconds: float) -> Outcome:
    said = [line for line in printed.splitlines() if line.strip()]
    errors = [line for line in said if line.startswith("thinkless")]
    if "Traceback" in printed or "fault of Thinkless" in printed:
        return Outcome("traceback", printed, seconds)
    if code == 0:
        return Outcome("accepted", printed, seconds)
    if code == 2 and errors:  # usage
        return Outcome("rejected", errors[-1], seconds)
    return Outcome("rejected" if len(errors) == 1 and said[-1] == errors[0] else "lines", printed, seconds)


def _before(case: Case) -> None:
    from conf import compose
    from orchestrator.commands import plan
    from orchestrator.commands.arguments import read
    from orchestrator.commands.ready import ready
    from orchestrator.evaluation.benchmarks import with_benchmark

    def body(conf: Config) -> None:
        if case.command == "plan":
            sampled = conf.rollout.prompts_per_step * conf.rollout.group_size
            if SIMULATED < sampled <= plan.ANSWERS:  # 0.7 ms an answer, which is meant to be
                conf.rollout.prompts_per_step, conf.rollout.group_size = 16, 8
            plan.command(conf, given)
        else:
            ready(with_benchmark(conf) if case.command == "evaluate" else conf, case.command)

    given = read(case.command, [*case.base, *case.own] if case.whole else case.own)
    if case.whole:
        compose.run_command(case.command, body, given.overrides, Flags.of(given))
        return
    with compose.one_line_errors(overrides := read_overrides(given.overrides)):
        config = copy.deepcopy(_composed(case.base))
        ConfigLoaderImpl._apply_overrides_to_config(overrides, config)  # as Hydra itself does after its files
    check(conf := compose.typed(config), case.command)
    body(conf)


@functools.cache
def _composed(base: tuple[str, ...]) -> DictConfig:
    from conf import compose

    compose.register()
    with hydra.initialize_config_dir(str(FOLDER), job_name="fuzz", version_base="1.3"):
        return hydra.compose("config", list(base))


def typeable(word: str) -> bool:
    """Whether a shell can give this word to a program."""
    try:
        return b"\0" not in os.fsencode(word) and len(word) < 100_000
    except UnicodeEncodeError:
        return False


def make_files(folder: Path) -> None:
    """What `benchmarks._fuzz.values.TEXTS` names, and what BASES need."""
    from conf.schema import ModelConf, RandomModelConf
    from learner.model.prepare_model import random_config
    from rollout.data.tokens import build_character_tokenizer

    (folder / "folder").mkdir()
    (folder / "folder.jsonl").mkdir()
    os.mkfifo(folder / "pipe.jsonl")
    (folder / "empty.jsonl").touch()
    (folder / "bad.jsonl").write_bytes(b'{"problem": "\xff')
    (folder / "bad.parquet").write_bytes(b"PAR1")
    rows = [f'{{"problem": "What is {n}+1?", "answer": "{n + 1}", "level": {n % 3}}}\n' for n in range(600)]
    (folder / "problems.jsonl").write_text("".join(rows))
    (folder / "problems.csv").write_text("problem,answer\n" + "".join(f"What is {n}+2?,{n + 2}\n" for n in range(600)))
    pairs = [
        f'{{"problem": "{n}+1", "think": "{n}+1={n + 1}</think>{n + 1}", "short": "{n + 1}", "answer": "{n + 1}"}}\n'
        for n in range(600)
    ]
    (folder / "pairs.jsonl").write_text("".join(pairs))
    (folder / "model").mkdir()
    build_character_tokenizer(folder / "model", ModelConf())
    config = random_config(RandomModelConf(max_position_embeddings=100_000)) | {"vocab_size": 264}
    (folder / "model" / "config.json").write_text(json.dumps(config))


def quiet() -> None:
    """Nothing is asked of the network, and no library says anything."""
    os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_VERBOSITY="error", HF_DATASETS_OFFLINE="1")
    os.environ.pop("RAY_ADDRESS", None)
    sys.setswitchinterval(0.05)
