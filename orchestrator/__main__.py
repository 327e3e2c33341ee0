"""python -m orchestrator <command>: as the `thinkless` script, and under the project's interpreter in a Ray job."""

if __name__ == "__main__":
    from orchestrator.commands.interpreter import ensure_interpreter

    ensure_interpreter("orchestrator")
    from orchestrator.commands.cli import main

    main()
