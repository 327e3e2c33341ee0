"""python -m orchestrator.train: `thinkless train`, for Ray jobs and those who prefer modules to scripts."""

import sys

if __name__ == "__main__":
    from orchestrator.commands.interpreter import ensure_interpreter

    ensure_interpreter("orchestrator.train")  # a Ray job's python may be another than the project's
    from orchestrator.commands.cli import main

    sys.argv[1:1] = ["train"]
    main()
