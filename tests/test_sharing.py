"""How the tests are shared among processes, where one of them crashes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONFTEST = """
from tests.helpers.sharing import Sharing

def pytest_xdist_make_scheduler(config, log):
    config.option.loadscopereorder = False
    return Sharing(config, log, {})
"""
TWO = "def test_1():\n    pass\n\ndef test_2():\n    pass\n"
CRASHES = "import os\n\ndef test_1():\n    pass\n\ndef test_2():\n    os._exit(3)\n\ndef test_3():\n    pass\n"


def test_a_process_that_crashes_is_replaced_and_its_other_tests_are_done_once(tmp_path: Path) -> None:
    """One test, in which it did, has failed."""
    (tmp_path / "conftest.py").write_text(CONFTEST)
    for name in "abdefg":
        (tmp_path / f"test_{name}.py").write_text(TWO)
    (tmp_path / "test_c.py").write_text(CRASHES)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    environment |= {"PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "xdist", "-p", "no:cacheprovider", "-n", "2", "-q", "."],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert run.returncode == 1, run.stdout + run.stderr
    assert "crashed while running 'test_c.py::test_2'" in run.stdout
    assert "1 failed, 14 passed" in run.stdout
