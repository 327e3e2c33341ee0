"""Three modes from end to end, as a person runs them: a short quickstart with one between short and think."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator.replay import step_format
from rollout.data.tokens import load_tokenizer
from rollout.mode import Mode, modes_of
from tests.helpers.launched import succeeded, thinkless
from tests.helpers.runs import TASK, TINY, read_lines

pytestmark = pytest.mark.heavy

NAMES = ["short", "medium", "think"]
STEPS = 3
SETTINGS = [
    *TASK, *TINY, "model.modes=[short,medium,think]", "warmup.steps=120", f"run.steps={STEPS}",
    "run.name=three", "run.record=[2]", "run.save_every=0", "evaluate.every=3", "validation.size=8",
    "evaluate.final=true", "evaluate.questions=8", "rollout.prompts_per_step=16", "reward.wrong=-0.5",
]  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("three")
    succeeded(thinkless("train", *SETTINGS, folder=where))
    return where / "runs" / "three"


def lines(path: Path) -> list[dict[str, Any]]:
    return read_lines(path)


def test_every_mode_is_warmed_up_sampled_rewarded_and_learnt_from(run: Path) -> None:
    steps = [line for line in lines(run / "metrics.jsonl") if "seconds/step" in line]
    assert [line["step"] for line in steps] == [1, 2, 3]
    for line in steps:
        rates = [line[f"mode_rate/{name}"] for name in NAMES]
        assert sum(rates) + line["no_mode"] == pytest.approx(1)
        assert line["think_rate/all"] == pytest.approx(rates[1] + rates[2])
        assert sum(line[f"answers/{name}"] for name in (*NAMES, "none")) == 16 * 4
    sums = {name: sum(line[f"answers/{name}"] for line in steps) for name in NAMES}
    assert min(sums.values()) > 10, sums
    assert all(any(line[f"loss/{name}"] for line in steps) for name in NAMES)
    tokens = [sum(line[f"rollout/response_tokens/{name}"] for line in steps) / sums[name] for name in NAMES]
    assert tokens == sorted(tokens)


def test_a_recorded_step_has_the_modes_and_the_rewards_between(run: Path) -> None:
    recorded = step_format.read(run / "recorded" / "step_000002")
    modes = modes_of(NAMES)
    assert [*recorded.control.modes] == [*modes]
    taken = {t.mode for t in recorded.trajectories}
    assert {*modes} <= taken
    earned: dict[Mode, set[float]] = {mode: set() for mode in modes}
    for group in recorded.groups:
        for t, verdict, reward in zip(group.trajectories, group.verdicts, group.rewards, strict=True):
            assert t.mode == recorded.control.mode_of(int(t.token_ids[0]))
            if t.mode is not None and verdict.correct:
                earned[t.mode].add(float(np.round(reward, 6)))
    assert all(found <= {1 - mode.effort / 2} for mode, found in earned.items())


def test_validation_and_evaluation_ask_in_every_mode(run: Path) -> None:
    found = json.loads((run / "evaluation.json").read_text())["models"]
    for model in ("warmup", "final"):
        assert [*found[model]] == ["free", "think", "medium", "short"]
        for level in ("2", "4"):
            assert [found[model][way][level]["think_rate"] for way in NAMES] == [0.0, 1.0, 1.0]
    page = (run / "report.html").read_text()
    assert "always medium" in page


def test_the_exported_template_takes_every_mode_and_no_other(run: Path) -> None:
    from conf.schema import ModelConf

    tokenizer = load_tokenizer(run / "model", ModelConf(modes=NAMES))
    asked = [{"role": "user", "content": "1~2="}]

    def text(**variables: Any) -> str:
        return str(tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True, **variables))

    free = text()
    assert [text(mode=name) for name in ("auto", *NAMES)] == [free, *(f"{free}<{name}>" for name in NAMES)]
    assert text(enable_thinking=True) == f"{free}<think>" and text(enable_thinking=False) == f"{free}<short>"
    with pytest.raises(Exception, match="mode must be auto, think, medium or short, got long"):
        text(mode="long")
