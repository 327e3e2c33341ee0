"""Single files of a model folder or hub id."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rollout.base.errors import BadInput


def model_file(path: str | Path, name: str, revision: str | None) -> Path | None:
    """The file `name` of the model, fetched if `path` is a hub id; None if it has none. For a folder nothing heavy is
    imported."""
    folder = Path(path).expanduser()
    if folder.is_dir():
        return folder / name if (folder / name).is_file() else None
    from transformers.utils.hub import cached_file

    found = cached_file(str(path), name, revision=revision, _raise_exceptions_for_missing_entries=False)
    return None if found is None else Path(found)


def read_model_json(path: str | Path, name: str, revision: str | None) -> dict[str, Any] | None:
    """The content of `model_file`. Raises BadInput if it is not a JSON object."""
    file = model_file(path, name, revision)
    if file is None:
        return None
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(f"model.path={path}: its {name} cannot be read ({error}); get the model again") from error
    if not isinstance(content, dict):
        raise BadInput(f"model.path={path}: its {name} is not a JSON object; get the model again")
    return content
