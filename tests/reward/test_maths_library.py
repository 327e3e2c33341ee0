"""`reward.maths` as a library: alone, called by TRL and verl, and from several threads."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from reward.maths import compute_score, equivalent, extract, trl_reward, verify
from reward.maths.compare import equality

LIBRARY = Path(__file__).parents[2] / "reward" / "maths"


def test_verify_extracts_and_compares() -> None:
    assert verify(r"<think>is it 4?</think> The answer is \boxed{5}", "5")
    assert verify("#### 5", "5")
    assert not verify("#### 5", "5", strict=True)
    assert not verify(r"<think>\boxed{5}", "5")
    assert not verify(r"it may be 5 \boxed{5}", "5", thinking=True)
    assert verify(r"\boxed{5}[/R]\boxed{6}", "6", think_end="[/R]")
    assert not verify("", "5")
    assert not verify(r"\boxed{}", "")


def test_several_golds_are_alternatives_or_all_required() -> None:
    assert verify(r"\boxed{7}", ["6", "7"])
    assert not verify(r"\boxed{7}", ["6", "7"], all_answers=True)
    assert verify(r"\boxed{7, 6}", ["6", "7"], all_answers=True)


def test_trl_may_pass_texts_or_conversations_and_every_column() -> None:
    texts = [r"so \boxed{0.25}", r"so \boxed{0.2}", "so 0.25"]
    columns: dict[str, Any] = {
        "prompts": ["?"] * 3,
        "completion_ids": [[1]] * 3,
        "trainer_state": None,
        "level": [1] * 3,
    }
    golds = [r"\frac14", "1/4", r"We divide: $\boxed{\tfrac{1}{4}}$."]  # the last is a worked solution
    assert trl_reward(completions=texts, solution=golds, **columns) == [1.0, 0.0, 0.0]
    conversations = [[{"role": "assistant", "content": text}] for text in texts]
    assert trl_reward(completions=conversations, solution=golds[::-1], **columns) == [1.0, 0.0, 0.0]
    with pytest.raises(ValueError, match="shorter"):
        trl_reward(completions=texts, solution=golds[:2])


def test_verl_may_pass_its_own_keywords() -> None:
    call: dict[str, Any] = {
        "data_source": "own/maths",
        "ground_truth": "2\\sqrt{3}",
        "extra_info": {"index": 3},
        "reward_router": None,
    }
    assert compute_score(solution_str=r"<think>hm</think>\boxed{\sqrt{12}}", **call) == 1.0
    assert compute_score(solution_str=r"\boxed{\sqrt{13}}", **call) == 0.0


def test_the_library_works_without_the_rest_of_the_project(tmp_path: Path) -> None:
    shutil.copytree(LIBRARY, tmp_path / "reward" / "maths")
    script = (
        "from reward.maths import verify\n"
        r"assert verify(r'\boxed{\int_0^1 2x\,dx}', '1') and not verify(r'\boxed{\sqrt2}', '1.5')"
        "\nimport sys\nassert not {'conf', 'rollout', 'numpy'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env={}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_comparisons_in_threads_run_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    at_once, most = 0, 0
    real = equality.equal

    def watched(*args: Any) -> bool:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        time.sleep(0.05)  # long enough for the others to come in, were they let in
        same = real(*args)
        at_once -= 1
        return same

    monkeypatch.setattr(equality, "equal", watched)
    found: list[bool] = []
    threads = [
        threading.Thread(target=lambda n=n: found.append(equivalent(rf"\sqrt{{{n * n * 2}}}", rf"{n}\sqrt{{2}}")))
        for n in range(2, 6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 4 and most == 1


def test_extract_gives_the_answer_as_written() -> None:
    assert extract(r"<think>is it 4?</think>It is $\boxed{5}$.") == "5"
    assert extract("Nothing was found.") is None
