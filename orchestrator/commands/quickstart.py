"""thinkless quickstart: `thinkless train experiment=quickstart` under a name of its own."""

from __future__ import annotations

if __name__ == "__main__":
    from orchestrator.commands.interpreter import ensure_interpreter

    ensure_interpreter("orchestrator.commands.quickstart")
    from orchestrator.commands.cli import module_main

    module_main("quickstart")
