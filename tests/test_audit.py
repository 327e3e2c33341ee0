"""What `make audit` makes of pip-audit's output."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.scripts import script

ROOT = Path(__file__).parents[1]
VULNERABLE = {
    "name": "jinja2",
    "version": "3.1.2",
    "vulns": [
        {"id": "PYSEC-1", "aliases": ["CVE-2024-22195"], "fix_versions": ["3.1.3"], "description": "long"},
        {"id": "GHSA-2", "aliases": [], "fix_versions": [], "description": "long"},
    ],
}
SOUND = {"name": "idna", "version": "3.11", "vulns": []}
UNKNOWN = {"name": "torch", "skip_reason": "Dependency not found on PyPI and could not be audited: torch (2.13.0+cpu)"}


@pytest.fixture(scope="module")
def audit() -> Any:
    return script(".ci/audit.py")


def test_vulnerabilities_are_listed_and_counted(audit: Any) -> None:
    assert audit.report([VULNERABLE, SOUND, UNKNOWN], {}) == (
        [
            "jinja2 3.1.2: PYSEC-1, CVE-2024-22195 (fixed in 3.1.3)",
            "jinja2 3.1.2: GHSA-2 (fixed in no version)",
            "not known to the index: torch",
        ],
        2,
    )


def test_ignored_ones_are_listed_with_the_reason(audit: Any) -> None:
    lines, count = audit.report([VULNERABLE], {"CVE-2024-22195": "no template is a user's"})
    assert count == 1 and "(ignored: no template is a user's)" in lines[0]
    assert all(reason.strip() for reason in audit.IGNORED.values())


@pytest.mark.parametrize(
    ("probe", "said"),
    [
        ('{"dependencies": [{"name": "jinja2", "skip_reason": "not found"}]}', "has no data on vulnerabilities"),
        ("", "did not run: no network"),
    ],
)
def test_an_index_without_the_data_proves_nothing(
    probe: str, said: str, audit: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """pip-audit would say "No known vulnerabilities found"."""
    answer = subprocess.CompletedProcess([], 0, probe, "WARNING: x\nno network\n")
    monkeypatch.setattr(audit, "index_variables", dict)
    monkeypatch.setattr(audit.subprocess, "run", lambda *_, **__: answer)
    assert audit.main([]) == 0
    out = capsys.readouterr().out
    assert out.startswith("audit: nothing was checked, ") and said in out and out.count("\n") == 1


def test_a_lock_with_vulnerabilities_fails(
    audit: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(audit, "index_variables", dict)
    monkeypatch.setattr(audit, "audit", lambda requirements, *_: [VULNERABLE, SOUND])
    assert audit.main(["requirements-cpu.lock"]) == 1
    assert "requirements-cpu.lock: 2 known vulnerabilities" in capsys.readouterr().out
