"""thinkless distill: warm-up data from a teacher that reasons and one that is brief.

In: configuration. Out: a folder that `warmup.path` takes: shards of parquet, a card, what was left out; in `_sampled/`
every answer and verdict, from which the same command goes on. Must not know: how teachers, grading and the choice work.

Settings that make answers are the folder's own. The others (pairing, which answer is taken, evaluation sets, more
samples or problems) may change: the choice is made anew, and only what is missing is asked for.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from conf.schema import Config
from conf.shell import command_line
from orchestrator.base.errors import RunError
from orchestrator.base.files import write_json
from orchestrator.base.journal import Journal
from orchestrator.base.lock import Taken, locked
from orchestrator.base.waiting import enable, waiting
from orchestrator.commands.preflight import refuse_no_gpu
from orchestrator.distill.asking import Teachers, ask_missing, make_teachers
from orchestrator.distill.card import make_card, teacher_card, write_card
from orchestrator.distill.dataset import Choice, publish, sides_of, write
from orchestrator.distill.endpoint import Endpoint
from orchestrator.distill.questions import Questions, load_questions
from orchestrator.distill.tally import Tally
from orchestrator.distill.verdicts import outcome_of
from orchestrator.jobs import keys
from orchestrator.training.run_root import root
from rollout.base.errors import BadInput
from rollout.base.load_function import load_function


def command(conf: Config) -> None:
    enable(conf.tracker.console)
    keys.take()
    if conf.distill.think.model or conf.distill.short.model:
        refuse_no_gpu(conf, "evaluate")  # samplers alone
    if conf.reward.function is not None:
        load_function(conf.reward.function, "reward.function")
    questions = load_questions(conf)
    left_out = [f"left out: {count} of {questions.rows} questions, {why}" for why, count in questions.left_out.items()]
    print(*questions.notes, *left_out, sep="\n", flush=True)
    out = root(conf.distill.out) if conf.distill.out else root(conf.run.root) / "distilled"
    sampled = out / "_sampled"
    sampled.mkdir(parents=True, exist_ok=True)
    try:
        with locked(sampled / ".lock"):
            given_up = _distill(conf, questions, out, sampled)
    except Taken as error:
        raise BadInput(f"{out} is being written to by {error}: wait for it, or give another distill.out") from error
    except KeyboardInterrupt:
        print("every answer that is there is kept: the same command goes on from there", file=sys.stderr, flush=True)
        raise
    model = f"model.path={conf.model.path or '<folder or hub id>'}"
    print(f"to warm a model up with it: {command_line('warmup', model, f'warmup.path={out}')}", flush=True)
    if given_up:
        raise RunError(f"{given_up}; the data set was written without them, and the same command asks for them again")


def _distill(conf: Config, questions: Questions, out: Path, sampled: Path) -> str:
    """Ask for what is missing, grade, and write the data set. Returns what was given up; empty: nothing."""
    teachers = make_teachers(conf)
    names = {side: one.name for side, one in teachers.items()}
    _refuse_other(conf, questions, names, sampled / "settings.json", out)
    with ExitStack() as stack:
        answers = Journal(sampled / "answers.jsonl")
        stack.callback(answers.close)
        verdicts = Journal(sampled / f"verdicts-{_grading(conf)}.jsonl", outcome_of)
        stack.callback(verdicts.close)
        ask_missing(conf, questions, teachers, answers, verdicts)
        choice = Choice(conf.distill, answers, verdicts, conf.reward.strict, conf.model.think_end_token, names)
        for one in teachers.values():
            if isinstance(one, Endpoint) and (said := one.summary()):
                print(said, flush=True)
        with waiting("writing the data set"):
            partial = write(out, questions, choice)
        if not all(sides_of(choice.tally.rows).values()):
            raise RunError(_nothing_kept(choice.tally, sampled))
        write_card(partial, make_card(conf, questions, choice.tally, names))
        shards = publish(partial, out)
    rows = ", ".join(f"{count} with {name}" for name, count in choice.tally.rows.items())
    print(f"{choice.tally.rows.total()} rows ({rows}) in {len(shards)} files of {out}, with card.md")
    return _given_up(teachers)


def _given_up(teachers: Teachers) -> str:
    return "; ".join(one.summary() for one in teachers.values() if isinstance(one, Endpoint) and one.left_out)


def _refuse_other(conf: Config, questions: Questions, names: Mapping[str, str], path: Path, out: Path) -> None:
    """BadInput where the folder holds answers that other settings made; else the settings are written there."""
    mine: dict[str, Any] = {"data": questions.data_hash, "run.seed": conf.run.seed}
    for side, name in names.items():
        card = teacher_card(getattr(conf.distill, side), name)
        card.pop("endpoint")  # the same model may move
        card["name"] = card.pop("teacher")
        mine |= {f"distill.{side}.{key}": value for key, value in card.items()}
    answers = path.with_name("answers.jsonl")
    if not path.is_file() or not answers.is_file() or not answers.stat().st_size:
        return write_json(path, mine)
    saved = json.loads(path.read_text(encoding="utf-8"))
    for key, value in mine.items():
        if saved.get(key) != value:
            what = (
                "other questions" if key == "data" else f"another configuration: {key} was {saved.get(key)}, is {value}"
            )
            raise BadInput(f"{out} holds answers of {what}: give another distill.out, or what it was made with")


def _grading(conf: Config) -> str:
    """8 hex digits of what verdicts depend on besides answers."""
    reward = {key: value for key, value in asdict(conf.reward).items() if key in ("strict", "function", "timeout_s")}
    what = json.dumps([reward, conf.distill.over_length.value], sort_keys=True)
    return hashlib.sha256(what.encode()).hexdigest()[:8]


def _nothing_kept(tally: Tally, sampled: Path) -> str:
    kept = sides_of(tally.rows)
    side = next(side for side, count in kept.items() if not count)
    became = {name: ", ".join(f"{what} {n}" for what, n in tally.outcomes[name].most_common()) for name in kept}
    return (
        f"nothing to teach {side} mode with: no question has an answer that is kept (answers of think: "
        f"{became['think'] or 'none'}; of short: {became['short'] or 'none'}); look at them in {sampled}/answers.jsonl"
    )
