"""python -m orchestrator <command>: as the `thinkless` script, and under the project's interpreter in a Ray job."""

if __name__ == "__main__":
    from orchestrator.base.search_path import working_directory_last

    working_directory_last()  # before anything else is imported
    from orchestrator.commands.interpreter import ensure_interpreter

    ensure_interpreter("orchestrator")
    from orchestrator.commands.cli import main

    main()
