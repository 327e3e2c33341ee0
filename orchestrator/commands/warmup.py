"""thinkless warmup: supervised fine-tuning on paired answers, cached by a hash of everything that determines it.

In: configuration. Out: a Hugging Face folder that answers in two modes, with warmup.jsonl beside, and
warmup_evaluation.jsonl where it is evaluated. Must not know: how an evaluation works
(`orchestrator.training.warmup_evaluation`), what it is evaluated on (`warmup_questions`).

A warm-up that is interrupted leaves its checkpoint in a hidden folder beside; the same configuration goes on from it,
to the same weights. Processes that want the same warm-up at the same time make it once: the others wait.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import shlex
import shutil
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from conf.schema import Config, Dtype, LearnerConf, LoraConf, WarmupConf
from conf.shell import command_line
from learner.data.flops import read_shape, tokens_only
from learner.data.sft import Curriculum
from learner.learner import Learner
from learner.model.prepare_model import prepared_model, random_model
from orchestrator.base.errors import RunError
from orchestrator.base.files import NOT_THE_DISK, replace_folder, whole_folder
from orchestrator.base.interrupt import Interrupted, defer_signals, saving
from orchestrator.base.lock import Taken, holder, left_behind, locked, locked_in_turn
from orchestrator.base.record import read_record, write_record
from orchestrator.base.waiting import enable, waiting
from orchestrator.cluster.cluster import Cluster
from orchestrator.cluster.object_store import sized
from orchestrator.cluster.parts import Parts, make_learner, start_all, start_learner
from orchestrator.commands.ready import ready
from orchestrator.report.damage import say_damage
from orchestrator.tracking.console import progress
from orchestrator.training.checkpoint import CheckpointStore, NoneVerifies
from orchestrator.training.retention import Retention
from orchestrator.training.run_root import root
from orchestrator.training.warmup_evaluation import FILE as EVALUATIONS
from orchestrator.training.warmup_evaluation import WarmupEvaluator, longest_short_answer, make_evaluator
from orchestrator.training.warmup_questions import Questions, choose_questions, prompts_of
from orchestrator.training.warmup_steps import WarmupLog, learn
from rollout.base.errors import BadInput
from rollout.base.spans import Spans
from rollout.data.pairs import Pairs, load_pairs
from rollout.data.tokens import control_tokens, load_tokenizer, save_tokenizer

RECIPE = 1  # raise when the same configuration comes to mean another result
LR_GIVEN, LR_RANDOM = 1e-5, 3e-3  # warmup.lr where it is null
SHARED = ("schedule", "warmup_steps", "min_lr_ratio", "betas", "weight_decay", "max_grad_norm")  # with the learner's
NO_PART = (  # of a warm-up's fingerprint: what changes no weight, and what the hash of the pairs has
    *("cache", "out", "ranks", "save_every_s", "evaluate_every", "evaluate_questions"),
    *("revision", "subset", "split", "answer_column"),
)
LOGS = ("warmup.jsonl", EVALUATIONS)
FACTS = "warmup.json"  # what `kept_bound` reads as well, in the folder of a run that began with it


def kept_bound(model: str) -> int | None:
    """Characters of a short answer at most, by those that the model, or that of its run, was warmed up on; None: not
    known."""
    folder = Path(model).expanduser()
    say_damage(folder.parent, [FACTS])  # of a run
    for path in (folder / FACTS, folder.parent / FACTS):
        if path.exists():
            found = read_record(path, "remove it, and short answers are measured without the warm-up's bound")
            bound = found.get("longest_short_answer") or (found.get("evaluation") or {}).get("longest_short_answer")
            return None if bound is None else int(bound)
    return None


def warm_up(conf: Config, cluster: Cluster) -> Path:
    """The finished warm-up of `conf`: from the cache, or made now. Raises BadInput for unusable pairs."""
    conf = replace(conf, model=replace(conf.model, lora=LoraConf()))  # all weights learn, the new tokens' rows too
    assert conf.warmup is not None
    pairs = load_pairs(conf.warmup, conf.model)
    if said := pairs.summary():
        _say(conf, said)
    questions = choose_questions(conf, pairs)
    if questions is not None:
        pairs = questions.pairs
        _say(conf, questions.summary)
    cache = root(conf.warmup.cache) if conf.warmup.cache else root(conf.run.root) / "warmup"
    target = cache / fingerprint(conf, pairs)
    partial, lock = (cache / f".{target.name}.{what}" for what in ("partial", "lock"))
    if (target / FACTS).is_file():
        _say(conf, f"taken from {target}")
        if partial.exists() or left_behind(lock):  # a process was killed when it had finished
            with contextlib.suppress(Taken, OSError), locked(lock):  # OSError: in a cache that is only read
                shutil.rmtree(partial, ignore_errors=True)
        _tell_evaluation(conf, target)
        return target
    cache.mkdir(parents=True, exist_ok=True)
    if who := holder(lock):
        _say(conf, f"the same warm-up is being made by {who}: waiting for it")
    with locked_in_turn(lock, "the same warm-up"):
        if (target / FACTS).is_file():  # made by whom this process waited for
            return target
        store = CheckpointStore(partial, Retention(1), to_go_on="give the same command again")
        if not store.steps():
            shutil.rmtree(partial, ignore_errors=True)
        try:
            partial.mkdir(parents=True, exist_ok=True)
            _fine_tune(conf, cluster, pairs, questions, store, target)
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


def _tell_evaluation(conf: Config, target: Path) -> None:
    """Of a warm-up that was made before: its warnings, or that it has no evaluation."""
    assert conf.warmup is not None
    found = read_record(target / FACTS, f"remove {target}, and the warm-up is made again").get("evaluation")
    if found is None and conf.warmup.evaluate_every:
        measure = command_line("evaluate", f"model.path={target}", "data.path=<problems>")
        _say(conf, f"it was made without an evaluation; to measure it: {measure}")
    for warning in found["warnings"] if found else ():
        _say(conf, warning)


def fingerprint(conf: Config, pairs: Pairs) -> str:
    """16 hex digits of (pairs, warm-up and model configuration); ranks, packing, adapters and evaluations do not
    enter."""
    assert conf.warmup is not None
    what: dict[str, Any] = {
        "recipe": RECIPE,
        "pairs": pairs.sha256(),
        "model": asdict(conf.model),
        "warmup": asdict(conf.warmup),
    }
    for name in NO_PART:
        what["warmup"].pop(name)
    what["model"].pop("lora")
    if len(conf.model.modes) == 2:
        what["model"].pop("modes")  # as in fingerprints from before there were more
    if conf.model.dtype is Dtype.float32:
        what["model"].pop("head_dtype")  # it changes nothing there
    return hashlib.sha256(json.dumps(what, sort_keys=True, default=str).encode()).hexdigest()[:16]


def learner_conf(conf: LearnerConf, warmup: WarmupConf, given_model: bool) -> LearnerConf:
    """The learner's settings in the warm-up of a given model, or of random weights."""
    rate = warmup.lr if warmup.lr is not None else LR_GIVEN if given_model else LR_RANDOM
    ranks = conf.ranks if warmup.ranks is None else warmup.ranks
    own = {key: getattr(warmup, key) for key in SHARED}
    return replace(conf, ranks=ranks, lr=rate, decay_start=0.0, max_restarts=0, **own)  # ranks go on from its own saves


def _fine_tune(
    conf: Config, cluster: Cluster, pairs: Pairs, questions: Questions | None, store: CheckpointStore, target: Path
) -> None:
    """Go on from the checkpoint in `store`, or begin. `target` appears when it is complete; then the folder around the
    store, without which a killed process would begin anew, goes."""
    warmup, partial, restarts = pairs.conf, store.folder.parent, conf.learner.max_restarts
    with waiting("warm-up: preparing the model"):
        if conf.model.path is None:
            assert conf.model.random is not None
            base = random_model(partial / "base", conf.model.random, conf.model, warmup.seed)
        else:
            base = prepared_model(conf.model, partial / "base")
    tokenizer = load_tokenizer(base, conf.model)
    shape = read_shape(base, conf.model.revision)
    settings = learner_conf(conf.learner, warmup, given_model=conf.model.path is not None)
    conf = replace(conf, learner=settings)
    replicas, cost = settings.ranks // settings.sequence_parallel, shape.cost if shape else tokens_only
    curriculum = Curriculum(pairs, tokenizer, warmup, conf.model, settings.max_tokens, replicas, cost)
    parts: Parts | None = None
    if questions is None:
        learner = make_learner(cluster, conf, settings, base, 1.0, curriculum.steps, warmup.max_tokens, shape)
        parameters = start_learner(learner, conf, reference=False, during="warm-up: ")
    else:
        control, sizes = control_tokens(tokenizer, conf.model, base), (curriculum.steps, warmup.max_tokens)
        prompts, too_long = prompts_of(questions, conf, tokenizer)
        parts = start_all(cluster, conf, base, control, 1.0, *sizes, Spans(), shape, False, "warm-up: ")
        learner, parameters = parts.learner, parts.parameters

    def attempt(anew: bool) -> tuple[bool, WarmupLog, WarmupEvaluator | None]:
        """Whether all steps are done. anew: the ranks are new ones."""
        if anew:
            start_learner(learner, conf, reference=False, during="warm-up: ")
            curriculum.too_long = 0
        done, before = go_on(conf, store, learner, curriculum)
        if anew and parts is not None:
            parts.weight_sync.forget()  # an evaluation sends its own
        note = functools.partial(_say, conf)
        log = WarmupLog(partial / "warmup.jsonl", curriculum.steps, done, before, settings, note)
        with progress(curriculum.steps, "warm-up", conf.tracker.console, start=done) as bar:
            evaluator = None
            if parts is not None and questions is not None:
                where = partial / EVALUATIONS, curriculum.steps, done, bar.note
                evaluator = make_evaluator(conf, parts, questions, prompts, tokenizer, control, *where)
            saves = store, warmup.save_every_s, _layout(settings)
            return learn(curriculum, learner, *saves, log, bar, evaluator, done), log, evaluator

    bounded = replace(settings, max_restarts=restarts)
    with saving("the warm-up's finished steps are being saved"), defer_signals():
        try:
            lost = cluster.lost_ranks(bounded, learner.ranks, "the warm-up's last saved steps")
            whole, log, evaluator = lost.survived(attempt)
        except Interrupted:
            _tell_saved(store, curriculum.steps)
            raise
        if not whole:
            _tell_saved(store, curriculum.steps)
            return  # and `saving` ends the command
        finished = partial / "finished"
        shutil.rmtree(finished, ignore_errors=True)
        finished.mkdir()
        with waiting("warm-up: exporting the model"):
            learner.export(str(finished))
            save_tokenizer(tokenizer, finished, conf.model)
        for name in LOGS:
            if (partial / name).is_file():
                shutil.copyfile(partial / name, finished / name)
        facts = {
            "parameters": parameters,
            "steps": curriculum.steps,
            "seconds": log.seconds(),
            "too_long": curriculum.too_long,
            "unusable": dict(pairs.unusable),
            "longest_short_answer": longest_short_answer(pairs),
        }
        if questions is not None and evaluator is not None:
            facts["evaluation"] = questions.facts | {"too_long": too_long} | evaluator.summary()
        write_record(finished / FACTS, facts)
        replace_folder(finished, target)
        shutil.rmtree(partial, ignore_errors=True)
    if parts is None:
        cluster.release(learner.ranks)
    else:
        parts.release(cluster)


def _tell_saved(store: CheckpointStore, steps: int) -> None:
    print(f"the warm-up's {store.steps()[-1]} of {steps} steps are saved: the same command goes on from there",
          file=sys.stderr, flush=True)  # fmt: skip


def _layout(conf: LearnerConf) -> dict[str, int]:
    """What the learner must still be for its checkpoint to load."""
    return {"zero_stage": conf.zero_stage, "ranks": conf.ranks if conf.zero_stage else 0}


def go_on(conf: Config, store: CheckpointStore, learner: Learner, curriculum: Curriculum) -> tuple[int, float]:
    """Load the checkpoint of an earlier process, or of ranks before these, when there is one. Returns its finished
    steps and their seconds."""
    try:
        found = store.latest()
    except NoneVerifies:  # it has said which file is damaged
        _say(conf, "begins anew: its saved steps are damaged")
        shutil.rmtree(store.folder)
        return 0, 0.0
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


def command(conf: Config, arguments: list[str]) -> None:
    """arguments: those that made `conf`; `train` finds the finished warm-up by them."""
    enable(conf.tracker.console)
    at_hand = ready(conf, "warmup")
    conf, config = at_hand.conf, at_hand.model
    assert conf.warmup is not None
    out = root(conf.warmup.out) if conf.warmup.out else None
    _refuse_foreign(out)
    cluster_conf = sized(conf, config, evaluated=conf.warmup.evaluate_questions) if conf.warmup.evaluate_every else None
    with Cluster(cluster_conf or conf.cluster) as cluster:
        warmed = warm_up(conf, cluster)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        with (
            locked_in_turn(out.with_name(f".{out.name}.lock"), f"another warm-up that writes {out}"),
            whole_folder(out, lambda why: RunError(f"cannot write warmup.out={out} ({why})")) as partial,
        ):
            shutil.copytree(warmed, partial, dirs_exist_ok=True)
    print(f"the warmed-up model is in {out or warmed}")
    if conf.warmup.path is not None and conf.data.path is None:
        print("to train it, give `train` the same arguments and data.path=<problems> (without: generated arithmetic)")
    else:
        print(f"to train it: cd {shlex.quote(os.getcwd())} && {command_line('train', *arguments)}")


def _refuse_foreign(out: Path | None) -> None:
    """BadInput for a warmup.out that holds anything but a warm-up, which a new one replaces."""
    if out is not None and out.exists() and not (out / FACTS).is_file():
        raise BadInput(f"warmup.out={out} exists and is no warm-up: give another folder, or remove it")
