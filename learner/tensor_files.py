"""Reads what `torch.save` wrote without running any code that the file may hold.

In: the path of a checkpoint's file; classes that it may hold. Out: its tensors, numbers, texts and objects of those
classes. Must not know: what the tensors are, DeepSpeed.

A pickle calls any function that it names, at the moment it is read. Here every name but the given ones is refused, so
that a file from somebody else can give wrong weights at worst.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Sequence
from typing import Any

import torch

from rollout.base.errors import BadInput


def load(path: str, map_location: Any = None, *, classes: Sequence[Any] = ()) -> Any:
    """As `torch.load`. Raises BadInput for a file that holds anything else, or is damaged."""
    try:
        with torch.serialization.safe_globals([*classes]):
            return torch.load(path, map_location=map_location, weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, LookupError, ValueError) as error:
        raise BadInput(f"{path} is not loaded: {_why(error)}") from error


def _why(error: Exception) -> str:
    """In one line, without torch's advice to read the file in the way that runs code."""
    text = str(error)
    if found := re.search(r"\bGLOBAL (\S+) (?:was not|whose module)", text):
        return f"it names {found.group(1)}, which is no part of a checkpoint and could run code"
    found = re.search(r"WeightsUnpickler error:\s*(.+)", text)
    first = "" if "weights_only" in text else text.strip().partition("\n")[0].partition(". ")[0]
    said = found.group(1) if found else first
    return f"it is damaged, or no file of a checkpoint ({said or type(error).__name__})"
