"""Commands in messages, which the user can paste into a shell from any folder.

In: arguments of this program. Out: text for a POSIX shell. Must not know: other packages; standard library only.
Put a command on its own line, or at the very end of a line after a colon and a space.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path

from conf.masking import mask


def command_line(*arguments: object) -> str:
    """`thinkless` with these arguments, quoted, without secrets. Example: command_line("train", "resume=/my runs/a") ->
    "thinkless train 'resume=/my runs/a'" """
    return shlex.join([*program("thinkless"), *(mask(str(one)) for one in arguments)])


def start_head(*options: str) -> str:
    """The command that starts a Ray head on this host."""
    return " ".join([shlex.join(program("ray")), "start", "--head", *options])


def program(name: str) -> list[str]:
    """How to start a console script of this environment from any folder: by name if the user's shell finds this very
    file, otherwise by its path; `thinkless`, if it is not installed, as a module of this source tree."""
    script = Path(sys.executable).with_name(name)
    if script.is_file():
        found = shutil.which(name)
        return [name] if found and os.path.samefile(found, script) else [str(script)]
    if name != "thinkless":
        return [name]
    return ["env", f"PYTHONPATH={Path(__file__).parents[1]}", sys.executable, "-m", "orchestrator"]
