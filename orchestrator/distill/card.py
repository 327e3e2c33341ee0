"""The data card of a distilled data set: what it holds, where it is from, what was left out and why.

In: questions, counts, settings. Out: the same as JSON and as Markdown. Must not know: how any of it came about.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import Any

from conf.distill import TeacherConf
from conf.masking import masked
from conf.schema import Config
from orchestrator.distill.answers import SIDES
from orchestrator.distill.dataset import sides_of
from orchestrator.distill.questions import Questions
from orchestrator.distill.tally import Tally

ADDRESSES = ("key_env", "concurrency", "timeout_s", "workers", "tensor_parallel")  # of no answer's making


def teacher_card(conf: TeacherConf, name: str) -> dict[str, Any]:
    """What made its answers; an endpoint's address without what may be a secret in it."""
    found = {key: value for key, value in asdict(conf).items() if key not in ADDRESSES}
    if conf.endpoint is not None:
        found["endpoint"] = conf.endpoint.partition("?")[0].rpartition("@")[2]
    return {"teacher": name, **found}


def make_card(conf: Config, questions: Questions, tally: Tally, names: Mapping[str, str]) -> dict[str, Any]:
    """names: of the teachers, by side."""
    distill = conf.distill
    settings = {
        key: value.value if isinstance(value, Enum) else value
        for key, value in asdict(distill).items()
        if key not in ("think", "short", "out", "retries", "backoff_s", "against")
    }
    return {
        "rows": {"total": tally.rows.total(), **tally.rows},
        "answers_in": sides_of(tally.rows),
        "license": distill.license,
        "sources": dict(tally.sources),
        "data": {"path": masked(conf.data.path), "sha256": questions.data_hash, "rows": questions.rows},
        "questions": {
            "asked": len(questions.problems),
            "left_out": dict(questions.left_out),
            "lost": dict(tally.dropped),
        },
        "evaluation_sets": questions.evaluation_sets,
        "teachers": {
            side: {
                **teacher_card(getattr(distill, side), names[side]),
                "answers": tally.outcomes[side].total(),
                "outcomes": dict(tally.outcomes[side].most_common()),
                "pass_rate": tally.pass_rates(side),
                "chosen_length": tally.length(side),
                "truncated": tally.truncated[side],
            }
            for side in SIDES
        },
        "settings": {**settings, "run.seed": conf.run.seed, "reward.strict": conf.reward.strict},
    }


def write_card(folder: Path, card: Mapping[str, Any]) -> None:
    (folder / "card.json").write_text(json.dumps(card, indent=1, ensure_ascii=False), encoding="utf-8")
    (folder / "card.md").write_text(markdown(card), encoding="utf-8")


def markdown(card: Mapping[str, Any]) -> str:
    rows, questions, sets = card["rows"], card["questions"], card["evaluation_sets"]
    lines = ["# Distilled warm-up data", ""]
    lines += [
        f"{rows['total']:,} rows: "
        + ", ".join(f"{count:,} with {name}" for name, count in rows.items() if name != "total")
        + ".",
        "",
        "| column | what it is |",
        "|---|---|",
        "| `problem` | the question |",
        "| `think` | text after the think token: reasoning, `</think>`, answer; null: none |",
        "| `short` | text after the short token; null: none |",
        "| `uid`, `source`, `level`, `answer` | of the question, as its data set has them |",
        "| `think_teacher`, `short_teacher`, `think_tokens`, `short_tokens` | who answered, and its count of tokens |",
        "| `license` | of the questions |",
        "",
        f"Licence of the questions: {card['license'] or 'not stated (distill.license)'}. Sources: "
        + ", ".join(f"{name} ({count:,} rows)" for name, count in card["sources"].items())
        + f". Read from {card['data']['path'] or 'generated arithmetic'}, sha256 {card['data']['sha256'][:12]}.",
        "",
        "## Teachers",
        "",
    ]
    for side, one in card["teachers"].items():
        length = one["chosen_length"]
        kind = f"endpoint {one['endpoint']}" if one["endpoint"] else "sampled by vLLM"
        lines += [
            f"### {side}: {one['teacher']}",
            "",
            f"{kind}, temperature {one['temperature']:g}, top_p {one['top_p']:g}, at most {one['max_tokens']} tokens; "
            f"instruction: {one['instruction'] or 'none'}",
            "",
            f"{one['answers']:,} answers: " + ", ".join(f"{what} {count:,}" for what, count in one["outcomes"].items()),
            "",
            "| level | answers | correct |",
            "|---|---|---|",
            *(f"| {level} | {cell['answers']:,} | {cell['correct']:.1%} |" for level, cell in one["pass_rate"].items()),
            "",
        ]
        if length:
            lines += [
                f"Chosen answers, {length['unit']}: mean {length['mean']:g}, median {length['p50']}, 95 % at most "
                f"{length['p95']}, longest {length['max']}; "
                f"{one['truncated']} end at their last whole line before the cap.",
                "",
            ]
    lines += ["## Left out", ""]
    left = [f"- {why}: {count:,}" for why, count in {**questions["left_out"], **questions["lost"]}.items()]
    lines += [*(left or ["- nothing"]), "", "Each with its reason in `dropped.jsonl`.", "", "## Evaluation sets", ""]
    if sets:
        numbers = "the same numbers or with others" if card["settings"]["renumbered"] else "the same numbers"
        lines += [f"No question is left that is a copy of one of these, with {numbers}:", ""]
        lines += [f"- {name}: {count:,} questions" for name, count in sets.items()]
    else:
        lines += ["None was given (`distill.against`): **nothing was compared with any evaluation set.**"]
    lines += ["", "## Settings", "", "```json", json.dumps(card["settings"], indent=1), "```", ""]
    return "\n".join(lines)
