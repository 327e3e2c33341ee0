"""A file in the working directory is not run in place of a library of its name, and a user's own modules are found.

The same with Ray's workers, learner ranks and the children of a sweep: `members` (conftest.py).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.decoys import NAMES, decoys_run, put_decoys
from tests.helpers.launched import THINKLESS

ROOT = Path(__file__).parents[2]
MODULE = [sys.executable, "-m", "orchestrator"]
SHOW = """
import sys
from orchestrator.base.search_path import source_comes_first, working_directory_last
working_directory_last()
import json, os
print(json.dumps([sys.path, os.environ.get("PYTHONPATH"), os.environ.get("PYTHONSAFEPATH"), source_comes_first()]))
"""


def clean(**more: str) -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONSAFEPATH")} | more


@pytest.mark.parametrize("program", [MODULE, [THINKLESS]], ids=["module", "script"])
def test_the_working_directory_comes_last(tmp_path: Path, program: list[str]) -> None:
    """In the command and in the process that decides what takes sympy."""
    put_decoys(tmp_path)
    answer = {"id": 1, "response": r"\boxed{(x+1)^2}", "gold": "x^2+2x+1"}
    (tmp_path / "answers.jsonl").write_text(json.dumps(answer) + "\n")
    command = [*program, "verify", "answers.jsonl"]
    done = subprocess.run(command, cwd=tmp_path, env=clean(PYTHONPATH=str(ROOT)), capture_output=True, text=True)
    assert not decoys_run(tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["outcome"] == "correct"


def shown(folder: Path, **environment: str) -> list[object]:
    done = subprocess.run(
        [sys.executable, "-c", SHOW], cwd=folder, env=clean(**environment), capture_output=True, text=True, check=True
    )
    found: list[object] = json.loads(done.stdout)
    return found


def test_an_empty_entry_of_the_path_means_nothing_more(tmp_path: Path) -> None:
    """`export PYTHONPATH=$PYTHONPATH:/more` makes one where there was none: the working directory, ahead of all."""
    path, given, safe, first = shown(tmp_path, PYTHONPATH=f":{ROOT}")
    assert isinstance(path, list) and path[-1] == str(tmp_path) and path.count(str(tmp_path)) == 1
    assert (given, safe, first) == (str(ROOT), "1", True)


def test_a_path_that_names_the_working_directory_is_kept(tmp_path: Path) -> None:
    path, given, safe, _ = shown(tmp_path, PYTHONPATH=f"{tmp_path}:{ROOT}")
    assert isinstance(path, list) and path.index(str(tmp_path)) < path.index(str(ROOT))
    assert (given, safe) == (f"{tmp_path}:{ROOT}", None)


def test_a_checkout_that_is_not_installed_runs_itself(tmp_path: Path) -> None:
    """It is the program, and where another one is installed, the checkout wins, in workers as well."""
    (tmp_path / "orchestrator" / "base").mkdir(parents=True)
    for name in ("__init__.py", "__main__.py", "base/__init__.py"):
        (tmp_path / "orchestrator" / name).touch()
    code = (ROOT / "orchestrator" / "base" / "search_path.py").read_text()
    (tmp_path / "orchestrator" / "base" / "search_path.py").write_text(code)
    path, _, safe, first = shown(tmp_path)
    assert isinstance(path, list) and path[0] in ("", str(tmp_path)) and (safe, first) == (None, True)


def test_the_decoys_would_have_been_run(tmp_path: Path) -> None:
    """Python itself would take them."""
    put_decoys(tmp_path)
    subprocess.run([sys.executable, "-c", "import numpy"], cwd=tmp_path, env=clean(), capture_output=True)
    assert "numpy-was-run" in decoys_run(tmp_path) and len(NAMES) > 1
