"""Options of commands, those of several first; key=value arguments and examples are in `orchestrator.commands.table`.

In: nothing. Out: names, arguments of argparse, help. Must not know: which command takes which.
"""

from __future__ import annotations

import argparse
import os
from typing import Any

from conf.schema import RewardConf

Option = tuple[tuple[str, ...], dict[str, Any], str]  # names, arguments of `add_argument`, meaning

COMPOSED = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")  # what --info tells of
# Overrides, and `conf.flags.Flags` under the names that they have in other programs of Hydra's.
CONFIGURATION: tuple[Option, ...] = (
    (("-h", "--help"), {"action": "store_true"}, "this; with words behind it, the groups and settings whose names hold "
     "one; with key=value, the values that settings would have"),
    (("-c", "--cfg"), {"choices": ("job", "hydra", "all"), "metavar": "job"}, "print the configuration that would run, "
     "and run nothing (hydra, all: Hydra's own as well)"),
    (("-p", "--package"), {"metavar": "KEY"}, "with --cfg: one section of it, e.g. learner"),
    (("--resolve",), {"action": "store_true"}, "with --cfg: every ${key} replaced by its value"),
    (("-m", "--multirun"), {"action": "store_true"}, "one run for each value: run.seed=1,2,3"),
    (("-cd", "--config-dir"), {"metavar": "FOLDER"}, "YAML files of your own, beside those of Thinkless"),
    (("-cp", "--config-path"), {"metavar": "FOLDER"}, "YAML files of your own, in the place of those of Thinkless"),
    (("-cn", "--config-name"), {"metavar": "NAME"}, "the YAML file that the configuration begins with (config)"),
    (("-i", "--info"), {"nargs": "?", "const": "all", "choices": COMPOSED, "metavar": "WHAT"}, "print how Hydra "
     f"composes the configuration, or a part: {', '.join(COMPOSED[1:])}"),
    (("words",), {"nargs": "*", "default": []}, argparse.SUPPRESS),
)  # fmt: skip
JSON: Option = (("--json",), {"action": "store_true"}, "everything as JSON on standard output")
DIAL: Option = (("--dial",), {"action": "store_true"}, "print the whole curve of accuracy and tokens by the bias")
KEYS: tuple[Option, ...] = ((("words",), {"nargs": "*", "default": []}, argparse.SUPPRESS),)
GRADING: tuple[Option, ...] = (
    (("files",), {"nargs": "*", "default": []}, argparse.SUPPRESS),
    (("--strict",), {"action": "store_true"}, "an answer must be in \\boxed{}, as in training; else it may be said in "
     "any usual way"),
    (("--processes",), {"type": int, "default": len(os.sched_getaffinity(0)), "metavar": "N"}, "that check what is not "
     "decided at once (as many as there are CPUs)"),
    (("--timeout",), {"type": float, "default": RewardConf.timeout_s, "metavar": "SECONDS"}, "of one check, whose "
     f"process is then killed ({RewardConf.timeout_s:g})"),
    (("--memory-mib",), {"type": int, "default": RewardConf.memory_mib, "metavar": "MIB"}, "address space of each "
     f"process ({RewardConf.memory_mib})"),
    (("--output",), {"metavar": "FILE"}, "instead of standard output"),
    (("--summary",), {"action": "store_true"}, "counts, speed and the three slowest answers on standard error (on a "
     "terminal anyway)"),
    (("--progress",), {"action": argparse.BooleanOptionalAction}, "lines done, rate and share correct on standard "
     "error (when that is a terminal)"),
)  # fmt: skip
WATCHING: tuple[Option, ...] = (
    (("runs",), {"nargs": "*"}, argparse.SUPPRESS),
    (("--port",), {"type": int, "default": 8270, "metavar": "N"}, "of the page (8270)"),
    (("--host",), {"default": "127.0.0.1", "metavar": "ADDRESS"}, "to listen at (127.0.0.1: this machine alone)"),
    (("--terminal",), {"action": "store_true"}, "a screen of text instead of a page; once, when it goes to a file"),
)
CHATTING: tuple[Option, ...] = (
    (("model",), {"nargs": "?"}, argparse.SUPPRESS),
    (("--url",), {"metavar": "URL"}, "of a server of an exported model that runs already (vllm serve ... )"),
    (
        ("--mode",),
        {"default": "auto", "metavar": "MODE"},
        "auto (the model chooses), think, short or one between (auto)",
    ),
    (("--dial",), {"type": float, "default": 0.0, "metavar": "B"}, "bias on the think token's logit (0)"),
    (("--budget",), {"type": int, "metavar": "N"}, "tokens of thinking, after which it is closed (no limit)"),
    (("--temperature",), {"type": float, "default": 1.0, "metavar": "T"}, "of sampling (1)"),
    (("--max-tokens",), {"type": int, "default": 1024, "metavar": "N"}, "of an answer (1024)"),
)
HEAD = "of the Ray head's dashboard, or of the head (RAY_ADDRESS, else http://127.0.0.1:8265)"
ADDRESS: Option = (("--address",), {"metavar": "URL"}, HEAD)
DETACH: Option = (("--detach",), {"action": "store_true"}, "return at once, and do not follow the log")
INSTALL: Option = (("--install",), {"choices": ("uv", "pip")}, "install the checkout's lock on the cluster's hosts")
JOB: Option = (("name",), {"metavar": "NAME"}, "a job's or its run's name, as thinkless jobs shows it")
WORDS: Option = (("words",), {"nargs": "*", "default": []}, argparse.SUPPRESS)
