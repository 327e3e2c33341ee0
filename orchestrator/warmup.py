"""thinkless warmup: supervised fine-tuning on paired answers, cached by a hash of everything that determines it.

In: configuration. Out: a Hugging Face folder that answers in two modes, with warmup.jsonl beside. Must not know:
rollouts.
"""

from __future__ import annotations

if __name__ == "__main__":  # the settings are checked before anything heavy is imported
    from orchestrator.cli import module_main

    module_main("warmup")

import hashlib
import json
import os
import shlex
import shutil
import time
from collections import deque
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from conf.schema import Config, LearnerConf, LoraConf, WarmupConf
from conf.shell import command_line
from learner.flops import read_shape, tokens_only
from learner.learner import Learner
from learner.prepare import prepared_model, random_model
from learner.sft import Curriculum
from learner.worker import LearnerWorker
from orchestrator import folder
from orchestrator.cluster import Cluster, listening_on, started
from orchestrator.console import progress
from orchestrator.door import located, refuse_unreadable
from orchestrator.errors import RunError
from orchestrator.handles import wait_all
from orchestrator.problems import refuse_foreign_warmup
from rollout.pairs import Pairs, load_pairs
from rollout.tokens import load_tokenizer, save_tokenizer

RECIPE = 1  # raise when the same configuration comes to mean another result
LR_GIVEN, LR_RANDOM = 1e-5, 3e-3  # warmup.lr where it is null
AHEAD = 3  # steps asked for before the oldest is waited for: the driver packs while the ranks compute


def warm_up(conf: Config, cluster: Cluster) -> Path:
    """The finished warm-up of `conf`: from the cache, or made now. Raises BadInput for unusable pairs."""
    conf = replace(conf, model=replace(conf.model, lora=LoraConf()))  # all weights learn, the new tokens' rows too
    assert conf.warmup is not None
    pairs = load_pairs(conf.warmup, conf.model)
    cache = (
        Path(conf.warmup.cache).expanduser().absolute() if conf.warmup.cache else folder.root(conf.run.root) / "warmup"
    )
    target = cache / fingerprint(conf, pairs)
    if (target / "warmup.json").is_file():
        if conf.tracker.console:
            print(f"warm-up: taken from {target}")
        return target
    partial = cache / f".{target.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        _fine_tune(conf, conf.warmup, cluster, pairs, partial)
        shutil.rmtree(target, ignore_errors=True)
        partial.rename(target)
    except OSError as error:
        raise RunError(f"cannot write the warm-up to {cache} ({error}); free space or set warmup.cache") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def fingerprint(conf: Config, pairs: Pairs) -> str:
    """16 hex digits of (pairs, warm-up and model configuration); ranks, packing and adapters do not enter."""
    assert conf.warmup is not None
    what = {"recipe": RECIPE, "pairs": pairs.sha256(), "model": asdict(conf.model), "warmup": asdict(conf.warmup)}
    for name in ("cache", "ranks", "revision", "subset", "split"):  # what the last three choose is in the pairs' hash
        what["warmup"].pop(name)
    what["model"].pop("lora")
    return hashlib.sha256(json.dumps(what, sort_keys=True, default=str).encode()).hexdigest()[:16]


def learner_conf(conf: LearnerConf, warmup: WarmupConf, given_model: bool) -> LearnerConf:
    """The learner's settings in the warm-up of a given model, or of random weights."""
    return replace(
        conf,
        ranks=conf.ranks if warmup.ranks is None else warmup.ranks,
        lr=warmup.lr if warmup.lr is not None else LR_GIVEN if given_model else LR_RANDOM,
        schedule=warmup.schedule,
        warmup_steps=warmup.warmup_steps,
        decay_start=0.0,
        min_lr_ratio=warmup.min_lr_ratio,
        betas=warmup.betas,
        weight_decay=warmup.weight_decay,
        max_grad_norm=warmup.max_grad_norm,
    )


def _fine_tune(conf: Config, warmup: WarmupConf, cluster: Cluster, pairs: Pairs, target: Path) -> None:
    if conf.model.path is None:
        assert conf.model.random is not None
        base = random_model(target / "base", conf.model.random, conf.model, warmup.seed)
    else:
        base = prepared_model(conf.model, target / "base")
    tokenizer = load_tokenizer(base, conf.model)
    shape = read_shape(base, conf.model.revision)
    settings = learner_conf(conf.learner, warmup, given_model=conf.model.path is not None)
    curriculum = Curriculum(
        pairs,
        tokenizer,
        warmup,
        conf.model,
        conf.learner.max_tokens,
        settings.ranks // settings.sequence_parallel,
        shape.cost if shape else tokens_only,
    )
    arguments = [
        [settings, conf.model, base, rank, 1.0, curriculum.steps, warmup.max_tokens] for rank in range(settings.ranks)
    ]
    handles = cluster.learner_ranks(settings, LearnerWorker, arguments)
    learner = Learner(handles, settings, shape, wait_all)
    started(handles, "ready", settings.start_timeout_s)
    with listening_on(conf.cluster.port):
        parameters = learner.start(conf.cluster.port, reference=False)
    begin = time.monotonic()
    with (target / "warmup.jsonl").open("w") as log, progress(curriculum.steps, "warm-up", conf.tracker.console) as bar:
        asked: deque[Any] = deque()
        for step, batch in enumerate(curriculum.batches(), start=1):
            asked.append((step, learner.fine_tune(batch), learner.conf))
            if len(asked) >= AHEAD:
                _record(asked.popleft(), curriculum.steps, log, bar, begin)
        while asked:
            _record(asked.popleft(), curriculum.steps, log, bar, begin)
    learner.export(str(target))
    save_tokenizer(tokenizer, target, conf.model)
    shutil.rmtree(target / "base", ignore_errors=True)
    facts = {
        "parameters": parameters,
        "steps": curriculum.steps,
        "seconds": round(time.monotonic() - begin, 1),
        "too_long": curriculum.too_long,
        "unusable": dict(pairs.unusable),
    }
    (target / "warmup.json").write_text(json.dumps(facts, indent=1))
    cluster.release(handles)


def _record(asked: tuple[int, Any, LearnerConf], steps: int, log: Any, bar: progress, begin: float) -> None:
    from learner.schedule import learning_rate

    step, pending, settings = asked
    loss, tokens = pending.wait()
    if loss != loss:
        raise RunError(f"the warm-up's loss is not a number at step {step}: lower warmup.lr")
    bar.advance(1, loss=loss)
    if step % 10 == 0 or step == steps:
        rate = learning_rate(settings, step - 1, steps)
        seconds = round(time.monotonic() - begin, 2)
        log.write(json.dumps({"step": step, "loss": loss, "lr": rate, "tokens": tokens, "seconds": seconds}) + "\n")


def command(conf: Config, arguments: list[str]) -> None:
    """arguments: those that made `conf`; `train` finds the finished warm-up by them."""
    assert conf.warmup is not None
    refuse_foreign_warmup(conf)
    refuse_unreadable(conf, "warmup")
    conf = located(conf)
    with Cluster(conf.cluster) as cluster:
        warmed = warm_up(conf, cluster)
    print(f"the warmed-up model is in {warmed}")
    if conf.warmup.path is not None and conf.data.path is None:
        print("to train it, give `train` the same arguments and data.path=<problems>")
    else:
        print(f"to train it: cd {shlex.quote(os.getcwd())} && {command_line('train', *arguments)}")
