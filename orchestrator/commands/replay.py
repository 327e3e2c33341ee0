"""thinkless replay: runs a recorded step again, its sampling alone or its learning alone."""

from __future__ import annotations

from argparse import Namespace

from orchestrator.base.waiting import LIBRARIES, say_reading, waiting


def main(options: Namespace) -> None:
    say_reading("replay")
    with waiting(LIBRARIES):
        from orchestrator.replay import replay

    replay.main(options.given, options.overrides)
