"""thinkless watch: the live page of runs, from their folders."""

from __future__ import annotations

import sys
from argparse import Namespace
from pathlib import Path

from conf.errors import BadConfig
from orchestrator.sweeps import state as sweep
from orchestrator.training import run_dir
from orchestrator.training.run_root import root
from orchestrator.watch.index import Index, is_run, runs_in
from orchestrator.watch.server import Server
from rollout.base.errors import BadInput


def main(options: Namespace) -> None:
    """options: runs (names, folders, run.root=<folder>), host, port, terminal."""
    index = Index(folders(options.runs))
    if options.terminal:
        from orchestrator.watch.terminal import follow

        follow(index, sys.stdout)
        return
    with Server(index, options.host, options.port) as server:
        print(told(server, index), flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print("stopped watching; the runs go on", flush=True)


def folders(words: list[str]) -> list[Path]:
    """The runs, and folders of runs, that were named; without any, the folder of runs. Raises BadInput, BadConfig."""
    given = [word for word in words if word.startswith("run.root=")]
    if wrong := [word for word in words if "=" in word and word not in given]:
        raise BadConfig(f"thinkless watch takes runs and run.root=<folder>, got {' '.join(wrong)}")
    names = [word for word in words if word not in given]
    if not names:
        runs = root(given[-1].partition("=")[2] if given else "runs")
        if given and not runs.is_dir():
            raise BadInput(f"run.root={runs} does not exist")
        return [runs]
    return [_folder(name, given) for name in names]


def _folder(name: str, given: list[str]) -> Path:
    path = Path(name).expanduser()
    for folder in (path, root(given[-1].partition("=")[2] if given else "runs") / name):
        if is_run(folder) or (folder / sweep.FILE).is_file() or (folder.is_dir() and runs_in(folder)):
            return folder.absolute()
    if path.is_dir():
        raise BadInput(f"{path} is no run's folder and holds none: a run's has a config.yaml, a sweep's a {sweep.FILE}")
    return run_dir.find(name, given)  # which says what runs there are


def told(server: Server, index: Index) -> str:
    """What the command says when it begins to listen."""
    index.refresh(0.0)
    count = len(index.runs)
    what = f"{count} run{'' if count == 1 else 's'}" if count else f"no run yet in {index.folders[0]}"
    lines = [f"{what}: {server.url}  (Ctrl-C ends)"]
    if server.local:
        port = server.server_port
        lines.append(
            f"from another machine: ssh -L {port}:{server.address}:{port} <this host>, "
            f"then http://127.0.0.1:{port} there"
        )
    else:
        lines.append(
            f"WARNING: --host {server.host} lets everyone who reaches this machine read all runs and their answers; "
            "there is no password"
        )
    return "\n".join(lines)
