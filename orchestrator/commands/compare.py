"""thinkless compare: several models on the same problems, from the folders that `thinkless evaluate` wrote.

In: two or more folders. Out: each model's figures, and its differences from the first, on standard output. Must not
know: Ray, models.
"""

from __future__ import annotations

import json
from argparse import Namespace
from dataclasses import asdict
from pathlib import Path
from typing import Any

from orchestrator.base.line import read
from orchestrator.base.record import read_record
from orchestrator.evaluation.answers import FREE, Answer, Grid
from orchestrator.evaluation.compare import differences
from orchestrator.evaluation.results import grids
from orchestrator.evaluation.words import compared
from rollout.base.errors import BadInput
from rollout.mode import modes_of

SAME = ("temperature", "top_p", "max_response_tokens", "rewards")  # or a line says that they differ


def main(options: Namespace) -> None:
    if len(options.folders) < 2:
        raise BadInput("two or more folders of `thinkless evaluate` are needed, the one to compare with first")
    folders = [Path(one).expanduser() for one in options.folders]
    read = [_read(folder) for folder in folders]
    first = read[0][0]
    for (found, _), folder in zip(read[1:], folders[1:], strict=True):
        if found["data"]["sha256"] != first["data"]["sha256"]:
            raise BadInput(
                f"{folder} is of other problems ({found['data']['name']}, sha256 {found['data']['sha256'][:12]}) than "
                f"{folders[0]} ({first['data']['name']}, {first['data']['sha256'][:12]}): only answers to the same "
                "ones can be compared"
            )
    names = _names([found["model"] for found, _ in read])
    made = differences({name: grid for name, (_, grid) in zip(names, read, strict=True)})
    if options.json:
        print(json.dumps({"data": first["data"], "differences": [asdict(one) for one in made]}, indent=1))
        return
    print(compared(names, [found for found, _ in read], made).text())
    for key in SAME:
        values = {name: found[key] for name, (found, _) in zip(names, read, strict=True)}
        if len({json.dumps(value) for value in values.values()}) > 1:
            print(f"they differ in {key}: " + ", ".join(f"{name} {value}" for name, value in values.items()))


def _read(folder: Path) -> tuple[dict[str, Any], Grid]:
    """Its evaluation.json, and the answers of the free choice."""
    again = "give a folder that `thinkless evaluate` wrote, evaluate-<data>-<hash>, or evaluate again"
    found = read_record(folder / "evaluation.json", again)
    levels: dict[str, str] = read_record(folder / "problems.json", again)
    path, answers, number = folder / "answers.jsonl", [], 0
    try:
        with path.open("rb") as file:
            for line in file:
                number += 1
                answers.append(Answer.of(read(line)))
    except OSError as error:
        raise BadInput(f"{path} cannot be read ({error.strerror}): {again}") from error
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise BadInput(f"{path}, line {number}: damaged; delete that line, and evaluate again") from error
    there, asked = len({(one.uid, one.way, one.sample) for one in answers}), len(levels) * found["samples"]
    if there < asked * len(found["ways"]):
        raise BadInput(
            f"{path} holds {there} of {asked * len(found['ways'])} answers: evaluate again, which asks for the rest"
        )
    modes = modes_of([way for way in reversed(found["ways"]) if way != FREE])
    return found, grids(answers, levels, found["samples"], found["weights"], modes)["free"]


def _names(models: list[str]) -> list[str]:
    """The last parts of their paths that tell them apart."""
    parts = [Path(model).parts for model in models]
    for deep in range(1, max(map(len, parts)) + 1):
        names = ["/".join(one[-deep:]) for one in parts]
        if len(set(names)) == len(names):
            return names
    return [f"{model} ({number})" for number, model in enumerate(models, start=1)]
