"""How long a person waits for the command line, in a process of its own each time. Run: python benchmarks/cli.py

    cli_help_s      the slowest --help, of all commands
    cli_mistake_s   the slowest answer to a mistyped key, of the commands that take settings

The median of --rounds for each command line, after one that does not count; seconds of every one go to stderr.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.pop(0)
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks._figures import add_small, figure, say, without_goals
from orchestrator.commands.table import COMMANDS

GOAL_S = 2.0


def seconds(arguments: list[str], code: int, rounds: int) -> float:
    """The median over `rounds`, after one that does not count. The command must end with `code`."""
    measured = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        done = subprocess.run([sys.executable, "-m", "orchestrator", *arguments], cwd=sys.path[0], capture_output=True)
        measured.append(time.perf_counter() - start)
        if done.returncode != code:
            sys.exit(f"thinkless {' '.join(arguments)} ended with {done.returncode}: {done.stderr.decode()[-2000:]}")
    median = statistics.median(measured[1:])
    say(f"thinkless {' '.join(arguments)}: {median:.2f} s (the first time {measured[0]:.2f} s)")
    return median


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    add_small(parser)
    options = parser.parse_args()
    commands, configured = list(COMMANDS), [name for name, command in COMMANDS.items() if command.configured]
    if options.small:
        without_goals()
        options.rounds, commands, configured = 1, ["train"], ["train"]
    helped = [seconds(["--help"], 0, options.rounds)]
    helped += [seconds([name, "--help"], 0, options.rounds) for name in commands]
    mistaken = [["rollout.wokers=2"], ["experiment=quickstart", "learner.lr=2"]]
    told = [seconds([name, *wrong], 1, options.rounds) for name in configured for wrong in mistaken]
    figure("cli_help_s", max(helped), "s", GOAL_S)
    figure("cli_mistake_s", max(told), "s", GOAL_S)


if __name__ == "__main__":
    main()
