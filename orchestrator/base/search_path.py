"""Where Python looks for modules: in the working directory last, so that a numpy.py there is not run for numpy's.

In: the path as the interpreter made it, PYTHONPATH. Out: the same in another order, for this process and those that it
starts. Must not know: anything else of the project. Its own imports are the few that the interpreter has inside, since
it runs before the order is right, perhaps under an older Python (`commands.interpreter`).
"""

import os
import sys

SOURCE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))  # of this program
LIBRARY = os.path.dirname(os.__file__)  # Python's own, before which nothing is that was not asked for


def working_directory_last() -> None:
    """Reward functions and adapters in the working directory are found, after all libraries.

    It keeps its place where PYTHONPATH names it, and where it holds the program itself: a checkout that is not
    installed, run by `python -m orchestrator`.
    """
    try:
        here = os.getcwd()
    except FileNotFoundError:  # it was removed: the command says so when it needs it
        return
    given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if here in [os.path.abspath(entry) for entry in given if entry]:
        return
    rest = [entry for entry in _front() if os.path.abspath(entry) != here] + sys.path[len(_front()) :]
    if here == SOURCE and _home(rest) != SOURCE:
        return
    sys.path[:] = rest if here in rest else [*rest, here]
    os.environ["PYTHONSAFEPATH"] = "1"  # for children, to which `python -m` and `-c` would put it first again
    if any(given):
        os.environ["PYTHONPATH"] = os.pathsep.join(entry for entry in given if entry)  # an empty one is this folder


def source_comes_first() -> bool:
    """Whether this program was found ahead of Python's own library: who starts elsewhere may have to be told."""
    return SOURCE in [os.path.abspath(entry) for entry in _front()]


def _front() -> "list[str]":
    return sys.path[: sys.path.index(LIBRARY)] if LIBRARY in sys.path else []


def _home(path: "list[str]") -> "str | None":
    """The folder of `path` in which Python finds this program."""
    has = (entry for entry in path if os.path.isfile(os.path.join(entry, "orchestrator", "__main__.py")))
    return next((os.path.abspath(entry) for entry in has), None)
