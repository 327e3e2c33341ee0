"""python -m orchestrator.train: `thinkless train`, for Ray jobs and those who prefer modules to scripts."""

if __name__ == "__main__":
    from orchestrator.base.search_path import working_directory_last

    working_directory_last()  # before anything else is imported
    import sys

    from orchestrator.commands.interpreter import ensure_interpreter

    ensure_interpreter("orchestrator.train")  # a Ray job's python may be another than the project's
    from orchestrator.commands.cli import main

    sys.argv[1:1] = ["train"]
    main()
