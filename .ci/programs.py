"""The programs that tests start and that no Python package holds: Prometheus and a browser, from Debian's packages.

Does nothing where they are there. As root on Debian or Ubuntu it installs what is missing; elsewhere it says what to
install, and the tests that need it are skipped with the same words. Standard library only.
"""

from __future__ import annotations

import os
import shutil
import subprocess

PACKAGES = {  # a program, the Debian package that has it
    "prometheus": "prometheus",
    "promtool": "prometheus",
    "chromium": "chromium",
    "chromedriver": "chromium-driver",
    "ip": "iproute2",
    "debootstrap": "debootstrap",
}
ENVIRONMENT = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}  # packages start no service
TIMEOUT_S = 600


def missing() -> list[str]:
    """Packages, each once."""
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
    return sorted({package for program, package in PACKAGES.items() if not shutil.which(program, path=path)})


def run(*command: str) -> bool:
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=TIMEOUT_S)
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[-1]
        print(f"[programs] {' '.join(command[:2])}: {last}")
    return done.returncode == 0


def main() -> None:
    wanted = missing()
    if not wanted:
        return
    by_hand = f"sudo apt-get install {' '.join(wanted)}"
    if os.geteuid() or not shutil.which("apt-get"):
        print(f"[programs] missing, the tests that need them are skipped: {by_hand}")
        return
    print(f"[programs] installing {', '.join(wanted)}", flush=True)
    install = ("apt-get", "install", "-y", "-qq", "--no-install-recommends", *wanted)
    if not (run("apt-get", "update", "-qq") and run(*install)):
        print(f"[programs] not installed, the tests that need them are skipped; by hand: {by_hand}")


if __name__ == "__main__":
    main()
