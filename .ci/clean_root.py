"""Carry out a Dockerfile without Docker, in a clean root of Debian's, and start what the image starts.

    sudo python3 .ci/clean_root.py docker/Dockerfile [COMMAND...]

Reads the steps from the Dockerfile itself, so that what is tested is what an image is built with. debootstrap makes the
root that a base image stands for; each RUN step is done in it by chroot, in namespaces that end with the step. As
Docker would, it takes only files that .dockerignore lets through. Packages come as pip on this machine is configured
(given as the secret `pip`) and through uv's cache. COMMAND: of the finished image, as its user; otherwise its own.

It is no build: the base image's own content, layers and the network of a container are not tested. A Dockerfile may
use what INSTRUCTIONS names; anything else stops with its line. Standard library only; needs root and debootstrap.
"""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import shutil
import string
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MIRROR = "http://deb.debian.org/debian"
BASES = {  # what stands for a base image: a release of Debian's, and packages that the image brings
    "python:3.11-slim-bookworm": ("bookworm", ["ca-certificates", "python3", "python3-venv"]),
    "nvidia/cuda:13.0.1-devel-ubuntu24.04": ("bookworm", ["ca-certificates"]),
}
INSTRUCTIONS = ("FROM", "WORKDIR", "COPY", "RUN", "ENV", "USER", "ENTRYPOINT", "CMD")
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def instructions(dockerfile: str) -> list[tuple[str, str]]:
    """(name, arguments) of each, lines that are continued joined. ValueError for one that is not in INSTRUCTIONS."""
    lines = [line for line in dockerfile.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    found = []
    for line in re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines():
        name, _, arguments = line.strip().partition(" ")
        if name not in INSTRUCTIONS:
            raise ValueError(f"not known here: {line}")
        found.append((name, arguments.strip()))
    return found


def flags(arguments: str) -> tuple[list[tuple[str, str]], str]:
    """The leading `--name=value`s, and the rest."""
    found = []
    while match := re.match(r"--(\w+)=(\S+)\s+", arguments):
        found.append((match[1], match[2]))
        arguments = arguments[match.end() :]
    return found, arguments


# ---- the build context ----


def _pattern(line: str) -> re.Pattern[str]:
    words = {"**/": "(.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    translated = (words.get(part) or re.escape(part) for part in re.split(r"(\*\*/|\*\*|\*|\?)", line.strip("/")))
    return re.compile("".join(translated) + "(/.*)?")  # what is below a folder follows it


def context(root: Path = ROOT) -> list[Path]:
    """Files, relative to `root`, that .dockerignore lets through: the last line that matches a path decides."""
    lines = [line.strip() for line in (root / ".dockerignore").read_text().splitlines()]
    rules = [(not line.startswith("!"), line.lstrip("!")) for line in lines if line and not line.startswith("#")]
    patterns = [(ignored, _pattern(line)) for ignored, line in rules]
    named = [line for ignored, line in rules if not ignored]

    def ignored(path: str) -> bool:
        return next((out for out, pattern in reversed(patterns) if pattern.fullmatch(path)), False)

    def walk(folder: Path) -> Iterator[Path]:
        for entry in sorted((root / folder).iterdir()):
            path = entry.relative_to(root)
            if entry.is_dir() and not entry.is_symlink():
                if not ignored(str(path)) or any(line.startswith(f"{path}/") for line in named):
                    yield from walk(path)
            elif not ignored(str(path)):
                yield path

    return list(walk(Path()))


# ---- a root ----


@dataclass
class Stage:
    root: Path
    folder: str = "/"
    user: str = "0"
    environment: dict[str, str] = field(default_factory=lambda: {"PATH": PATH})
    entrypoint: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)

    def below(self, path: str) -> Path:
        """Of a path inside, absolute or relative to its folder."""
        return self.root / os.path.normpath(os.path.join(self.folder, path)).lstrip("/")


class Machine:
    """What of this machine a step may see: pip's configuration with the folders that it names, and uv's cache."""

    def __init__(self, work: Path):
        self.secret = work / "pip.conf"
        listed = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True)
        settings = {}
        for line in listed.stdout.splitlines():
            name, _, value = line.partition("=")
            settings[name.rpartition(".")[2]] = ast.literal_eval(value)
        lines = [f"{name} = " + value.strip().replace("\n", "\n    ") for name, value in settings.items()]
        self.secret.write_text("\n".join(["[global]", *lines, ""]))
        words = [word.removeprefix("file://") for value in settings.values() for word in value.split()]
        self.bound = [Path(word) for word in words if word.startswith("/") and Path(word).exists()]
        self.cache = Path(os.environ.get("UV_CACHE_DIR") or Path.home() / ".cache" / "uv")
        self.cache.mkdir(parents=True, exist_ok=True)


def enter(stage: Stage, command: list[str], binds: list[tuple[Path, str]]) -> None:
    """Run in the stage's root, as its user; processes that it leaves and mounts end with it."""
    lines = ["set -e", "mount --make-rprivate /", f"cd {shlex.quote(str(stage.root))}", "mkdir -p proc dev sys etc"]
    lines += ["mount -t proc proc proc", "mount --rbind /dev dev", "mount --rbind /sys sys"]
    for source, target in [*binds, (Path("/etc/resolv.conf"), "/etc/resolv.conf"), (Path("/etc/hosts"), "/etc/hosts")]:
        inside = stage.root / target.lstrip("/")
        if source.is_dir():
            inside.mkdir(parents=True, exist_ok=True)
        else:
            inside.parent.mkdir(parents=True, exist_ok=True)
            inside.touch()
        lines.append(f"mount --bind {shlex.quote(str(source))} {shlex.quote(str(inside))}")
    environment = {"HOME": "/root", "DEBIAN_FRONTEND": "noninteractive", **stage.environment}
    if stage.user != "0":
        (entry,) = [row for row in (stage.root / "etc/passwd").read_text().splitlines() if f":{stage.user}:" in row]
        environment["HOME"] = entry.split(":")[5]
    inside_it = f"cd {shlex.quote(stage.folder)} && exec {shlex.join(command)}"
    user = [] if stage.user == "0" else [f"--userspec={stage.user}:{stage.user}"]
    lines.append("exec " + shlex.join(["chroot", *user, ".", "/bin/sh", "-c", inside_it]))
    spaces = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--ipc", "--uts"]
    subprocess.run([*spaces, "/bin/bash", "-c", "\n".join(lines)], env=environment, check=True)


def base(image: str, work: Path) -> Path:
    """The root that stands for a base image; made once."""
    release, packages = BASES[image]
    root = work / re.sub(r"\W", "-", image)
    if not root.is_dir():
        command = ["debootstrap", "--variant=minbase", f"--include={','.join(packages)}", release, str(root), MIRROR]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return root


def copy(stage: Stage, arguments: str, stages: dict[str, Stage]) -> None:
    options, rest = flags(arguments)
    *sources, target = shlex.split(rest)
    into, folder = stage.below(target), target.endswith("/") or len(sources) > 1 or target in (".", "./")
    if options:
        ((_, other),) = options  # --from is the only one
        for source in sources:  # hard links: neither is changed afterwards
            into.parent.mkdir(parents=True, exist_ok=True)
            subprocess.run(["cp", "-alT", str(stages[other].below(source)), str(into)], check=True)
        return
    files = context()
    for source in map(os.path.normpath, sources):
        wanted = [path for path in files if source == "." or path == Path(source) or Path(source) in path.parents]
        if not wanted:
            raise ValueError(f"COPY {source}: .dockerignore lets nothing of it through")
        for path in wanted:
            inner = path if source == "." else path.relative_to(source)
            to = into / (path.name if inner == Path() else inner) if folder or inner != Path() else into
            to.parent.mkdir(parents=True, exist_ok=True)
            to.unlink(missing_ok=True)  # it may be a hard link into another stage
            shutil.copy(ROOT / path, to)


def build(dockerfile: Path, work: Path) -> Stage:
    """Every stage, in order; the last is the image."""
    machine, stages, stage = Machine(work), dict[str, Stage](), Stage(work)
    for number, (name, arguments) in enumerate(instructions(dockerfile.read_text())):
        began = time.monotonic()
        if name == "FROM":
            image, _, alias = arguments.partition(" AS ")
            known = stages.get(image)
            root = work / f"stage-{number}"
            subprocess.run(["cp", "-a", str(known.root if known else base(image, work)), str(root)], check=True)
            stage = stages[alias or str(number)] = Stage(root)
        elif name == "WORKDIR":
            stage.folder = os.path.join(stage.folder, arguments)
            stage.below(".").mkdir(parents=True, exist_ok=True)
        elif name == "ENV":
            for one in shlex.split(arguments):
                key, _, value = one.partition("=")
                stage.environment[key] = string.Template(value).substitute(stage.environment)
        elif name == "USER":
            stage.user = arguments
        elif name in ("ENTRYPOINT", "CMD"):
            setattr(stage, "entrypoint" if name == "ENTRYPOINT" else "command", json.loads(arguments))
        elif name == "COPY":
            copy(stage, arguments, stages)
        else:
            options, line = flags(arguments)
            binds = [(path, str(path)) for path in machine.bound]
            for _, mount in options:  # --mount is the only one
                option = dict(part.split("=") for part in mount.split(","))
                binds.append(({"cache": machine.cache, "secret": machine.secret}[option["type"]], option["target"]))
            enter(stage, ["/bin/sh", "-c", line], binds)
        print(f"[image] {time.monotonic() - began:6.1f} s  {name} {arguments[:90]}", flush=True)
    return stage


def main() -> None:
    if len(sys.argv) < 2 or os.geteuid() or not shutil.which("debootstrap"):
        sys.exit("usage, as root and with debootstrap: python3 .ci/clean_root.py docker/Dockerfile [COMMAND...]")
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="image-") as work:
        stage = build(Path(sys.argv[1]), Path(work))
        used = subprocess.run(["du", "-s", "--block-size=1M", str(stage.root)], capture_output=True, text=True)
        command = sys.argv[2:] or [*stage.entrypoint, *stage.command]
        print(f"[image] $ {shlex.join(command)}", flush=True)
        enter(stage, command, [])
        print(f"[image] {sys.argv[1]}: {int(used.stdout.split()[0]) / 1e3:.1f} GB, {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
