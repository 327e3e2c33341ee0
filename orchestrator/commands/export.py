"""thinkless export: store a chosen dial with a trained model.

In: a run or a model's folder, a bias. Out: the model, or a copy of it, with the bias in its config.json; how to serve
it. Must not know: Ray, vLLM.

Where the model was evaluated, the bias is looked up on its curve: what it gives is printed, and one behind the curve's
ends, where every problem has the same mode, is refused.
"""

from __future__ import annotations

import shutil
from argparse import Namespace
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from conf.errors import BadConfig
from conf.schema import ModelConf
from orchestrator.base.errors import RunError
from orchestrator.base.files import whole_folder
from orchestrator.base.lock import Taken, locked
from orchestrator.base.record import read_record
from orchestrator.evaluation.results import FORMAT
from orchestrator.tracking.results import read_config
from orchestrator.tracking.serving import ask_command, serve_command
from orchestrator.training import run_dir
from rollout.base.errors import BadInput
from rollout.data.tokens import control_tokens, load_tokenizer
from rollout.steering import refuse_dial, store_dial


def main(options: Namespace) -> None:
    given = options.given
    if "dial" not in given:
        raise BadConfig("thinkless export stores a dial with a model: give dial=<bias> (0: none)")
    dial = _number(given["dial"])
    model, config = _model(given)
    conf = ModelConf(**{key: value for key, value in config["model"].items() if key.endswith(("_token", "_from"))})
    control = control_tokens(load_tokenizer(model, conf), conf, model)
    for line in _from_its_curve(model, dial):
        print(line)
    target = model
    if "out" in given:
        target = Path(given["out"]).expanduser().absolute()
        if target.exists():
            raise BadInput(f"out={target} exists: give a folder that does not")
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with (
                locked(target.with_name(f".{target.name}.lock")),
                whole_folder(target, lambda why: RunError(f"cannot write out={target} ({why})")) as partial,
            ):
                shutil.copytree(model, partial, dirs_exist_ok=True, ignore=shutil.ignore_patterns("evaluate-*"))
                store_dial(partial, control, dial)
        except Taken as error:
            raise BadInput(f"out={target} is being written to by {error}: give another folder") from None
    else:
        store_dial(model, control, dial)
    print(f"{target} has {f'a dial of {dial:+g}' if dial else 'no dial'}; to serve it:")
    print(serve_command(target, config), ask_command(target, config, "What is 7 + 2?"), sep="\n")


def _number(text: str) -> float:
    try:
        dial = float(text)
    except ValueError:
        raise BadInput(f"dial={text} must be a number, such as -1.5") from None
    refuse_dial(dial, "dial")
    return dial


def _model(given: Mapping[str, str]) -> tuple[Path, Mapping[str, Any]]:
    """The folder, and the configuration of its run as far as there is one."""
    if "model" in given:
        if "run" in given:
            raise BadConfig("give run=<run> or model=<folder>, not both")
        folder = Path(given["model"]).expanduser().absolute()
        config = read_config(folder.parent)
    else:
        where = [f"run.root={given['run.root']}"] if "run.root" in given else []
        run = run_dir.find(given["run"], where) if "run" in given else run_dir.newest(where, "run")
        folder, config = run_dir.final_model(run, "give model=<folder>"), read_config(run)
    if not (folder / "config.json").is_file():
        raise BadInput(f"{folder} holds no model: give run=<run>, or model=<another folder>")
    return folder, config if isinstance(config.get("model"), dict) else {"model": {"dtype": "auto"}}


def _from_its_curve(model: Path, dial: float) -> Iterator[str]:
    """What the newest evaluation of this model says of the bias. Raises BadInput for one behind the curve's ends."""
    places = [path for beside in (model, model.parent) for path in beside.glob("evaluate-*/evaluation.json")]
    for path in sorted(places, key=lambda path: path.stat().st_mtime, reverse=True):
        found = read_record(path, f"remove {path.parent}, and evaluate again")
        curve = found.get("dial")
        if found.get("format") != FORMAT or not curve or Path(found["model"]) != model:
            continue
        turned = np.array(curve["bias"]) + found.get("bias", 0.0)  # what it was measured with is on the curve's 0
        low, high = float(turned[0]), float(turned[-1])
        if not low <= dial <= high:
            raise BadInput(
                f"dial={dial:g} is beyond what P(think) can express: from {low:.1f} down no problem of "
                f"{path.parent.name} is thought about, from {high:.1f} up every one is; give a number between"
            )
        rate, right, tokens = (
            float(np.interp(dial, turned, curve[key])) for key in ("think_rate", "accuracy", "tokens")
        )
        yield f"by {path.parent.name}: it thinks on {rate:.0%}, {right:.1%} right, {tokens:.1f} tokens an answer"
        return
