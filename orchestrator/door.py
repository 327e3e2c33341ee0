"""What a configuration names is there and whole: seen in a second, before anything is started or written.

In: a configuration. Out: nothing, or BadInput. Must not know: Ray, what a command does.
"""

from __future__ import annotations

import json
from pathlib import Path

from conf.schema import Config
from rollout.errors import BadInput
from rollout.function import load_function
from rollout.pairs import load_pairs
from rollout.tokens import load_tokenizer


def refuse_unreadable(conf: Config) -> None:
    """BadInput for a model, warm-up pairs or a reward function that cannot be used."""
    if conf.reward.function is not None:
        load_function(conf.reward.function, "reward.function")
    if conf.warmup is not None and conf.warmup.path is not None:
        load_pairs(conf.warmup, conf.model)
    if conf.model.path is not None:
        load_tokenizer(conf.model.path, conf.model)
        if Path(conf.model.path).expanduser().is_dir():
            _refuse_truncated(Path(conf.model.path).expanduser())


def _refuse_truncated(folder: Path) -> None:
    """Compare the size of every weights file with what its own header says."""
    index = folder / "model.safetensors.index.json"
    try:
        named = set(json.loads(index.read_text())["weight_map"].values()) if index.is_file() else set()
        for file in sorted({*folder.glob("*.safetensors"), *(folder / name for name in named)}):
            with file.open("rb") as weights:
                length = int.from_bytes(weights.read(8), "little")
                header = json.loads(weights.read(length))
            end = max((entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"), default=0)
            missing = 8 + length + end - file.stat().st_size
            if missing > 0:
                raise BadInput(
                    f"model.path={folder}: {file.name} is truncated, {missing} bytes are missing; get the model again"
                )
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, BadInput):
            raise
        raise BadInput(f"model.path={folder}: a *.safetensors file cannot be read ({error}); get it again") from error
