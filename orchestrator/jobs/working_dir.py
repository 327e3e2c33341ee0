"""What a job is given to run: this installation's code and the user's own files, in one small archive.

In: the folder where the command is given, the files that its settings name. Out: a .zip, or BadInput where it would be
too large or mixed up. Must not know: Ray, settings.

A job runs in the archive's top folder, so that `data.path=problems.jsonl` and `reward.function=my_rewards:score` mean
there what they mean here. That folder is the checkout with the user's files in it, or, where the command is given
elsewhere, the user's own folder with the code put beside it.
"""

from __future__ import annotations

import glob
import json
import os
import stat
import sysconfig
import zipfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from orchestrator.base.source import NOTE, SOURCE, commit
from orchestrator.jobs.ignore import kept, never
from rollout.base.errors import BadInput

CODE = ("conf", "rollout", "reward", "learner", "orchestrator")
LIMIT_MIB = 100
HARMLESS = ("test", "tests")  # modules that no library imports
WHEN = (1980, 1, 1, 0, 0, 0)  # of every file in an archive: equal files give an equal archive, which is uploaded once


@dataclass(frozen=True, slots=True)
class WorkingDir:
    """Files by their names in the archive, and which commit their code is of."""

    files: dict[str, Path]
    commit: dict[str, Any] = field(default_factory=dict)  # orchestrator.base.source.commit

    @property
    def size(self) -> int:
        """Bytes, before they are packed."""
        return sum(path.stat().st_size for path in self.files.values())

    def pack(self, target: Path) -> None:
        """Write the archive `target`."""
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=3) as archive:
            for name, path in sorted(self.files.items()):
                _add(archive, name, path.read_bytes(), stat.S_IMODE(path.stat().st_mode))
            _add(archive, NOTE, json.dumps(self.commit).encode(), 0o644)

    def largest(self, count: int = 5) -> list[tuple[str, int]]:
        """The folders (and files at the top) that take most, with their bytes: those one level down, where one folder
        at the top takes nearly all."""
        sizes: Counter[str] = Counter()
        for name, path in self.files.items():
            parts = name.split("/")
            sizes["/".join(parts[:2]) + ("/" if len(parts) > 2 else "")] += path.stat().st_size
        tops: Counter[str] = Counter()
        for name, size in sizes.items():
            tops[name.split("/")[0] + ("/" if "/" in name else "")] += size
        finer = {top: [n for n in sizes if n.startswith(top)] for top in tops if top.endswith("/")}
        found = dict(tops)
        for top, inner in finer.items():
            if (biggest := max(inner, key=sizes.__getitem__)) and sizes[biggest] > 0.6 * tops[top]:
                found[biggest] = sizes[biggest]
                del found[top]
        return sorted(found.items(), key=lambda one: -one[1])[:count]


def collect(folder: Path, named: Sequence[str] = (), limit_mib: float = LIMIT_MIB) -> WorkingDir:
    """What a job that is submitted from `folder` needs.

    named: paths or globs relative to it that settings name (others are left alone); these files are included even where
    an ignore file leaves them out. Raises BadInput for more than `limit_mib`, a path that leads out of `folder`, a
    folder of the user's that has the name of one of ours.
    """
    folder = folder.resolve()
    inside = folder == SOURCE
    files = {} if folder == Path(folder.anchor) or folder == Path.home() else {n: folder / n for n in kept(folder)}
    for path in named:
        files |= _named(folder, path)
    if not inside and (ours := sorted({name.split("/")[0].removesuffix(".py") for name in files} & {*CODE})):
        raise BadInput(
            f"{folder / ours[0]} has the name of a package of Thinkless, whose code is put into the same folder of the "
            "job: rename it, or leave it out by a line in .thinklessignore"
        )
    if hiding := sorted(name for name in files if _hides_a_library(name)):
        raise BadInput(
            f"{folder / hiding[0]} has the name of a library, in whose place it would be run: Ray puts a job's folder "
            "first where Python looks for modules; rename it, or leave it out by a line in .thinklessignore"
        )
    files |= {name: SOURCE / name for name in _code()}
    files.pop(NOTE, None)  # of a job that submits another
    found = WorkingDir(files, commit())
    if (size := found.size) > limit_mib * 2**20:
        most = ", ".join(f"{name} {bytes_ / 2**20:,.1f} MiB" for name, bytes_ in found.largest())
        raise BadInput(
            f"{folder}: {size / 2**20:,.0f} MiB would be uploaded, more than {limit_mib:g} (largest: {most}): leave "
            "out what the job does not need by lines in .thinklessignore (as in .gitignore), and put large models and "
            "data on storage that the cluster's hosts see, under an absolute path"
        )
    return found


def _hides_a_library(name: str) -> bool:
    """Whether a file at the top is a module that Python, or a package of this environment, has as well."""
    if "/" in name:
        module, _, rest = name.partition("/")
        if rest != "__init__.py":
            return False
    elif name.endswith(".py"):
        module = name.removesuffix(".py")
    else:
        return False
    places = [sysconfig.get_path(one) for one in ("stdlib", "platstdlib", "purelib", "platlib")]
    return module not in HARMLESS and PathFinder.find_spec(module, places) is not None


def _add(archive: zipfile.ZipFile, name: str, content: bytes, mode: int) -> None:
    info = zipfile.ZipInfo(name, WHEN)
    info.external_attr = (mode | stat.S_IFREG) << 16
    info.compress_type = zipfile.ZIP_DEFLATED
    archive.writestr(info, content)


def _code() -> Iterable[str]:
    for package in CODE:
        for where, folders, names in os.walk(SOURCE / package):
            folders[:] = sorted(name for name in folders if not never(name))
            yield from (os.path.relpath(Path(where, name), SOURCE) for name in sorted(names) if not never(name))


def _named(folder: Path, path: str) -> dict[str, Path]:
    """The files that a relative path of the settings means, if it is one of this machine's at all."""
    if "://" in path or path.startswith(("/", "~")):
        return {}
    matches = glob.glob(glob.escape(path) if (folder / path).exists() else path, root_dir=folder, recursive=True)
    found: dict[str, Path] = {}
    for match in matches:
        whole = Path(os.path.normpath(folder / match))
        if not whole.is_relative_to(folder):
            raise BadInput(
                f"{path} lies outside of {folder}, which is what the job is given: start the command in a folder that "
                "holds it, or name it by an absolute path on storage that the cluster's hosts see"
            )
        under = [whole] if whole.is_file() else [one for one in sorted(whole.rglob("*")) if one.is_file()]
        found |= {str(one.relative_to(folder)): one for one in under}
    return found
