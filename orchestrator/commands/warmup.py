"""thinkless warmup: supervised fine-tuning on paired answers, cached by a hash of everything that determines it.

In: configuration. Out: a Hugging Face folder that answers in two modes, with warmup.jsonl beside. Must not know:
rollouts.

A warm-up that is interrupted leaves its checkpoint in a hidden folder beside; the same configuration goes on from it,
to the same weights. Processes that want the same warm-up at the same time make it once: the others wait.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shlex
import shutil
import sys
import time
from collections import deque
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from conf.schema import Config, Dtype, LearnerConf, LoraConf, WarmupConf
from conf.shell import command_line
from learner.data.flops import read_shape, tokens_only
from learner.data.sft import Curriculum
from learner.learner import Learner
from learner.model.prepare_model import prepared_model, random_model
from learner.schedule import learning_rate
from orchestrator.base.errors import RunError
from orchestrator.base.files import NOT_THE_DISK, replace_folder, write_json
from orchestrator.base.interrupt import defer_signals, requested, saving
from orchestrator.base.lock import Taken, holder, left_behind, locked, locked_in_turn
from orchestrator.base.waiting import enable, waiting
from orchestrator.cluster.cluster import Cluster
from orchestrator.cluster.parts import make_learner, start_learner
from orchestrator.commands.preflight import located, refuse_no_gpu, refuse_unreadable
from orchestrator.commands.problems import refuse_foreign_warmup
from orchestrator.tracking.console import progress
from orchestrator.tracking.tracker import drop_after
from orchestrator.training.checkpoint import CheckpointStore
from orchestrator.training.run_root import root
from rollout.data.pairs import Pairs, load_pairs
from rollout.data.tokens import load_tokenizer, save_tokenizer

RECIPE = 1  # raise when the same configuration comes to mean another result
LR_GIVEN, LR_RANDOM = 1e-5, 3e-3  # warmup.lr where it is null
SHARED = ("schedule", "warmup_steps", "min_lr_ratio", "betas", "weight_decay", "max_grad_norm")  # with the learner's
AHEAD = 3  # steps under way before the oldest is waited for: the driver packs while the ranks compute


def warm_up(conf: Config, cluster: Cluster) -> Path:
    """The finished warm-up of `conf`: from the cache, or made now. Raises BadInput for unusable pairs."""
    conf = replace(conf, model=replace(conf.model, lora=LoraConf()))  # all weights learn, the new tokens' rows too
    assert conf.warmup is not None
    pairs = load_pairs(conf.warmup, conf.model)
    if said := pairs.summary():
        _say(conf, said)
    cache = Path(conf.warmup.cache).expanduser().absolute() if conf.warmup.cache else root(conf.run.root) / "warmup"
    target = cache / fingerprint(conf, pairs)
    partial, lock = (cache / f".{target.name}.{what}" for what in ("partial", "lock"))
    if (target / "warmup.json").is_file():
        _say(conf, f"taken from {target}")
        if partial.exists() or left_behind(lock):  # a process was killed when it had finished
            with contextlib.suppress(Taken, OSError), locked(lock):  # OSError: in a cache that is only read
                shutil.rmtree(partial, ignore_errors=True)
        return target
    cache.mkdir(parents=True, exist_ok=True)
    if who := holder(lock):
        _say(conf, f"the same warm-up is being made by {who}: waiting for it")
    with locked_in_turn(lock, "the same warm-up"):
        if (target / "warmup.json").is_file():  # made by whom this process waited for
            return target
        store = CheckpointStore(partial, keep=1, to_go_on="give the same command again")
        if not store.steps():
            shutil.rmtree(partial, ignore_errors=True)
        try:
            partial.mkdir(parents=True, exist_ok=True)
            _fine_tune(conf, cluster, pairs, store, target)
        except NOT_THE_DISK:
            raise
        except OSError as error:
            raise RunError(f"cannot write the warm-up to {cache} ({error}); free space or set warmup.cache") from error
        except FloatingPointError:  # going on would lead there again
            shutil.rmtree(partial, ignore_errors=True)
            raise
        finally:
            if not store.steps():
                shutil.rmtree(partial, ignore_errors=True)
    return target


def _say(conf: Config, text: str) -> None:
    if conf.tracker.console:
        print(f"warm-up: {text}", flush=True)


def fingerprint(conf: Config, pairs: Pairs) -> str:
    """16 hex digits of (pairs, warm-up and model configuration); ranks, packing and adapters do not enter."""
    assert conf.warmup is not None
    what: dict[str, Any] = {
        "recipe": RECIPE,
        "pairs": pairs.sha256(),
        "model": asdict(conf.model),
        "warmup": asdict(conf.warmup),
    }
    for name in ("cache", "ranks", "save_every_s", "revision", "subset", "split"):  # the last three: in pairs' hash
        what["warmup"].pop(name)
    what["model"].pop("lora")
    if conf.model.dtype is Dtype.float32:
        what["model"].pop("head_dtype")  # it changes nothing there
    return hashlib.sha256(json.dumps(what, sort_keys=True, default=str).encode()).hexdigest()[:16]


def learner_conf(conf: LearnerConf, warmup: WarmupConf, given_model: bool) -> LearnerConf:
    """The learner's settings in the warm-up of a given model, or of random weights."""
    rate = warmup.lr if warmup.lr is not None else LR_GIVEN if given_model else LR_RANDOM
    ranks = conf.ranks if warmup.ranks is None else warmup.ranks
    return replace(conf, ranks=ranks, lr=rate, decay_start=0.0, **{key: getattr(warmup, key) for key in SHARED})


def _fine_tune(conf: Config, cluster: Cluster, pairs: Pairs, store: CheckpointStore, target: Path) -> None:
    """Go on from the checkpoint in `store`, or begin. `target` appears when it is complete; then the folder around the
    store, without which a killed process would begin anew, goes."""
    warmup, partial = pairs.conf, store.folder.parent
    with waiting("warm-up: preparing the model"):
        if conf.model.path is None:
            assert conf.model.random is not None
            base = random_model(partial / "base", conf.model.random, conf.model, warmup.seed)
        else:
            base = prepared_model(conf.model, partial / "base")
    tokenizer = load_tokenizer(base, conf.model)
    shape = read_shape(base, conf.model.revision)
    settings = learner_conf(conf.learner, warmup, given_model=conf.model.path is not None)
    replicas, cost = settings.ranks // settings.sequence_parallel, shape.cost if shape else tokens_only
    curriculum = Curriculum(pairs, tokenizer, warmup, conf.model, conf.learner.max_tokens, replicas, cost)
    learner = make_learner(cluster, conf, settings, base, 1.0, curriculum.steps, warmup.max_tokens, shape)
    parameters = start_learner(learner, conf, reference=False, during="warm-up: ")
    done, before = _go_on(conf, store, learner, curriculum)
    with saving("the warm-up's finished steps are being saved"), defer_signals():
        log = _Log(partial / "warmup.jsonl", curriculum.steps, done, before, settings)
        with progress(curriculum.steps, "warm-up", conf.tracker.console, start=done) as bar:
            running: deque[tuple[int, Any]] = deque()  # steps and the futures of their losses
            step, saved = done, time.monotonic()
            for step, batch in enumerate(curriculum.batches(done), start=done + 1):
                running.append((step, learner.fine_tune(batch)))
                due = requested() or time.monotonic() - saved > warmup.save_every_s
                while len(running) >= AHEAD or (running and (due or step == curriculum.steps)):
                    log.take(*running.popleft(), bar)
                if due and step < curriculum.steps:
                    state = {"too_long": curriculum.too_long, "seconds": log.seconds(), **_layout(settings)}
                    store.save(step, learner, state)
                    saved = time.monotonic()
                    if requested():
                        break
        if requested() and step < curriculum.steps:
            print(f"the warm-up's {step} of {curriculum.steps} steps are saved: the same command goes on from there",
                  file=sys.stderr, flush=True)  # fmt: skip
            return  # and `saving` ends the command
        finished = partial / "finished"
        shutil.rmtree(finished, ignore_errors=True)
        finished.mkdir()
        with waiting("warm-up: exporting the model"):
            learner.export(str(finished))
            save_tokenizer(tokenizer, finished, conf.model)
        shutil.copyfile(log.path, finished / log.path.name)
        facts = {
            "parameters": parameters,
            "steps": curriculum.steps,
            "seconds": log.seconds(),
            "too_long": curriculum.too_long,
            "unusable": dict(pairs.unusable),
        }
        write_json(finished / "warmup.json", facts)
        replace_folder(finished, target)
        shutil.rmtree(partial, ignore_errors=True)
    cluster.release(learner.ranks)


def _layout(conf: LearnerConf) -> dict[str, int]:
    """What the learner must still be for its checkpoint to load."""
    return {"zero_stage": conf.zero_stage, "ranks": conf.ranks if conf.zero_stage else 0}


def _go_on(conf: Config, store: CheckpointStore, learner: Learner, curriculum: Curriculum) -> tuple[int, float]:
    """Load the checkpoint of an earlier process, when there is one. Returns its finished steps and their seconds."""
    found = store.latest()
    if found is None:
        return 0, 0.0
    folder, state = found
    if any(state[key] != value for key, value in _layout(learner.conf).items()):
        _say(conf, "begins anew: learner.ranks or learner.zero_stage is not what its saved steps were made with")
        shutil.rmtree(store.folder)
        return 0, 0.0
    learner.load(str(folder))
    curriculum.too_long = state["too_long"]
    _say(conf, f"goes on from step {state['step']} of {curriculum.steps}")
    return state["step"], state["seconds"]


class _Log:
    """warmup.jsonl: every tenth step."""

    def __init__(self, path: Path, steps: int, done: int, seconds: float, conf: LearnerConf):
        """done, seconds: of an earlier process."""
        self.steps, self.conf = steps, conf
        self._begin = time.monotonic() - seconds
        self.path = path
        drop_after(path, done)

    def seconds(self) -> float:
        return round(time.monotonic() - self._begin, 2)

    def take(self, step: int, pending: Any, bar: progress) -> None:
        """Wait for a step's answer. Raises FloatingPointError when its loss is not a number."""
        loss, tokens = pending.wait()
        if loss != loss:
            raise FloatingPointError(f"the warm-up's loss is not a number at step {step}: lower warmup.lr")
        bar.advance(1, loss=loss)
        if step % 10 == 0 or step == self.steps:
            rate = learning_rate(self.conf, step - 1, self.steps)
            line = {"step": step, "loss": loss, "lr": rate, "tokens": tokens, "seconds": self.seconds()}
            with self.path.open("a") as file:
                file.write(json.dumps(line) + "\n")


def command(conf: Config, arguments: list[str]) -> None:
    """arguments: those that made `conf`; `train` finds the finished warm-up by them."""
    enable(conf.tracker.console)
    refuse_no_gpu(conf, "warmup")
    refuse_foreign_warmup(conf)
    refuse_unreadable(conf, "warmup")
    conf = located(conf)
    assert conf.warmup is not None
    with Cluster(conf.cluster) as cluster:
        warmed = warm_up(conf, cluster)
    print(f"the warmed-up model is in {warmed}")
    if conf.warmup.path is not None and conf.data.path is None:
        print("to train it, give `train` the same arguments and data.path=<problems>")
    else:
        print(f"to train it: cd {shlex.quote(os.getcwd())} && {command_line('train', *arguments)}")
