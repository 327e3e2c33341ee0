#!/usr/bin/env python3
"""Known vulnerabilities of the packages in the locks: what `make audit` runs. Exit code 1: there are some.

    python .ci/audit.py [requirements-cpu.lock ...]       both locks, or those that are named

pip-audit asks the package index. An index that has no such data (a mirror) says nothing of any package, which pip-audit
takes for good news: so a package that is known to be vulnerable is asked for first.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
LOCKS = ("requirements-cpu.lock", "requirements-gpu.lock")
PIP_AUDIT = "pip-audit==2.10.1"
KNOWN = "jinja2==3.1.2"  # CVE-2024-22195 and more
FIRST_S, ALL_S = 120.0, 900.0  # for KNOWN; for a lock
IGNORED: Mapping[str, str] = {}  # id of a vulnerability -> why it does not concern this project


class NoData(Exception):
    """Why nobody knows."""


def audit(requirements: Path, timeout_s: float, environment: Mapping[str, str]) -> list[dict[str, Any]]:
    """pip-audit's findings, one for each package. Raises NoData."""
    uv = Path(sys.executable).with_name("uv")
    options = ["--disable-pip", "--no-deps", "--format=json", "--progress-spinner=off", "--requirement"]
    command = [uv, "tool", "run", "--quiet", "--from", PIP_AUDIT, "pip-audit", *options, requirements]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, env=dict(environment))
    except subprocess.TimeoutExpired:
        raise NoData(f"pip-audit gave no answer within {timeout_s:g} s") from None
    try:
        return list(json.loads(done.stdout)["dependencies"])
    except (ValueError, KeyError):
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise NoData(f"pip-audit did not run: {said[-1][:200]}") from None


def report(found: Sequence[Mapping[str, Any]], ignored: Mapping[str, str] = IGNORED) -> tuple[list[str], int]:
    """Lines about what was found, and how many vulnerabilities are not ignored."""
    lines, count = [], 0
    for package in found:
        for one in package.get("vulns", []):
            ids = [one["id"], *one.get("aliases", [])]
            reason = next((ignored[name] for name in ids if name in ignored), None)
            count += reason is None
            fixed = ", ".join(one.get("fix_versions", [])) or "no version"
            what = f"ignored: {reason}" if reason else f"fixed in {fixed}"
            lines.append(f"{package['name']} {package['version']}: {', '.join(ids)} ({what})")
    unknown = [package["name"] for package in found if "skip_reason" in package]
    if unknown:
        lines.append(f"not known to the index: {', '.join(unknown)}")
    return lines, count


def index_variables() -> Mapping[str, str]:
    """The environment in which uv takes packages from where pip does."""
    spec = importlib.util.spec_from_file_location("thinkless_setup", ROOT / ".ci" / "setup.py")
    assert spec is not None and spec.loader is not None
    setup = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(setup)
    environment: dict[str, str] = setup.uv_variables(sys.executable, setup.variables(setup.VENV))[0]
    return environment


def main(locks: Sequence[str]) -> int:
    environment, total = index_variables(), 0
    try:
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as probe:
            probe.write(KNOWN + "\n")
            probe.flush()
            if not report(audit(Path(probe.name), FIRST_S, environment))[1]:
                raise NoData(f"the package index has no data on vulnerabilities: it knows none of {KNOWN}")
        for lock in locks or LOCKS:
            lines, count = report(audit(ROOT / lock, ALL_S, environment))
            total += count
            print("\n".join([f"{lock}: {count} known vulnerabilities", *lines]), flush=True)
    except NoData as error:
        print(f"audit: nothing was checked, {error}", flush=True)
    return 1 if total else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
