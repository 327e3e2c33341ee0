"""Groups of settings in YAML files, chosen with group=option. In: this folder. Out: names and descriptions.
Must not know: Hydra, the settings inside."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent


def groups() -> list[str]:
    return sorted(path.name for path in FOLDER.iterdir() if path.is_dir() and not path.name.startswith("_"))


def options(group: str) -> list[str]:
    return sorted(path.stem for path in (FOLDER / group).glob("*.yaml"))


def description(group: str, option: str) -> str:
    """The comment at the beginning of its file; empty if there is none."""
    said = []
    for line in (FOLDER / group / f"{option}.yaml").read_text(encoding="utf-8").splitlines():
        if line.startswith("# @package"):
            continue
        if not line.startswith("#"):
            break
        said.append(line.removeprefix("#").strip())
    return " ".join(said)
