"""Refuses values outside their ranges and impossible combinations of settings, in one line that says what to do.

In: a typed configuration. Out: nothing, or `BadConfig`. Must not know: files, machines, other rooms.
"""

from __future__ import annotations

from conf.choices import Device, Dtype, FlashAttention, Importance, Loss, Old, OnWeightSync, Placement, Task, Transport
from conf.distill import check_distill
from conf.errors import BadConfig
from conf.evaluation import check_evaluate
from conf.modes import check_modes
from conf.retention import check_retention
from conf.schema import Config
from conf.settings import ABSENT, settings
from conf.source import check_generated, refuse_many

ANSWERS = 10_000_000  # of a step: each is an object of the driver, 2 KB and more


def check(conf: Config, command: str = "train") -> None:
    """Every value within its range, and the settings fit each other.

    command: "train", "warmup", "evaluate", "distill", "replay", or "plan", which looks for a placement itself. Raises
    BadConfig with the first fault.
    """
    _values(conf)
    _run(conf, command)
    _model(conf)
    _data(conf)
    _rollout(conf, command)
    _algorithm(conf)
    _learner(conf)
    check_evaluate(conf.evaluate, conf.data.max_prompt_tokens, conf.rollout)
    _gpus(conf)
    _warmup(conf)
    if command == "distill":
        check_distill(conf.distill)
        if conf.data.path is None:
            refuse_many(conf.distill.problems or 0, f"distill.problems={conf.distill.problems}")
    if command != "plan":
        _colocated(conf)
        _transport(conf)
    _something_to_do(conf, command)


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise BadConfig(message)


def _values(conf: Config) -> None:
    """Every number is within its range, and every text of its form."""
    for setting in settings().values():
        if (value := setting.of(conf)) is not ABSENT:
            setting.refuse_outside(value)


def _run(conf: Config, command: str) -> None:
    run, algorithm = conf.run, conf.algorithm
    beyond = [step for step in run.record if step > run.steps]
    _require(
        command != "train" or not beyond,
        f"run.record={run.record} must lie within this run's steps, 1 to run.steps={run.steps}",
    )
    _require(
        run.max_staleness == 0 or algorithm.importance is not Importance.none or algorithm.old is Old.sampler,
        f"run.max_staleness={run.max_staleness} learns from answers of older weights: add "
        "algorithm.importance=truncate (the decoupled objective), or algorithm.old=sampler",
    )
    best = None if run.keep_best is None else run.keep_best.value
    size = conf.validation.size if conf.validation.path is None else None
    check_retention(run.save_every, run.keep_every, best, conf.evaluate.every, size)


def _model(conf: Config) -> None:
    check_modes(conf)
    random, lora = conf.model.random, conf.model.lora
    if random is not None:
        _require(
            random.hidden_size % (2 * random.heads) == 0,
            f"model.random.hidden_size={random.hidden_size} must be a multiple of twice model.random.heads="
            f"{random.heads}: rotary embeddings need an even size per head",
        )
        _require(
            random.heads % random.kv_heads == 0,
            f"model.random.heads={random.heads} must be a multiple of model.random.kv_heads={random.kv_heads}",
        )
    if lora.rank:
        _require(
            lora.dropout == 0,
            f"model.lora.dropout must be 0, got {lora.dropout}: the learner's log-probs would not be the sampler's",
        )
        named = isinstance(lora.targets, list) and all(isinstance(name, str) and name for name in lora.targets)
        _require(
            lora.targets == "all-linear" or (named and len(lora.targets) > 0),
            f"model.lora.targets must be all-linear or layers' names such as [q_proj,v_proj], got {lora.targets}",
        )


def _data(conf: Config) -> None:
    _require(
        conf.data.shard < conf.data.num_shards,
        f"data.shard={conf.data.shard} must be below data.num_shards={conf.data.num_shards}: shards count from 0",
    )
    if conf.data.path is None:
        data, questions = conf.data, conf.evaluate.questions
        check_generated(data.task, data.arithmetic, data.register, "data")
        levels = len(data.register.levels if data.task is Task.register else data.arithmetic.levels)
        refuse_many(questions * levels, f"evaluate.questions={questions} of each of {levels} levels")
        refuse_many(conf.validation.size, f"validation.size={conf.validation.size}")


def _rollout(conf: Config, command: str) -> None:
    rollout = conf.rollout
    _require(
        command not in ("train", "replay", "plan") or rollout.top_p == 1,
        f"rollout.top_p must be 1 in training, got {rollout.top_p}: the sampler's log-probs would be those of the "
        "cut-off distribution, the learner's those of the whole one (evaluate.top_p may be lower)",
    )
    _require(
        rollout.prompts_per_step >= conf.algorithm.optimizer_steps,
        f"algorithm.optimizer_steps={conf.algorithm.optimizer_steps} needs at least as many rollout.prompts_per_step, "
        f"got {rollout.prompts_per_step}",
    )
    _require(
        not rollout.async_scheduling or rollout.device is Device.gpu,
        f"rollout.async_scheduling=true needs rollout.device=gpu, got {rollout.device.value}: vLLM has none on a CPU",
    )
    answers = rollout.prompts_per_step * rollout.group_size
    _require(
        answers <= ANSWERS,
        f"rollout.prompts_per_step={rollout.prompts_per_step} x rollout.group_size={rollout.group_size} are {answers} "
        f"answers a step; there must be at most {ANSWERS}",
    )
    longest = conf.data.max_prompt_tokens + rollout.max_response_tokens
    _require(
        longest <= rollout.max_model_len,
        f"rollout.max_model_len={rollout.max_model_len} must hold data.max_prompt_tokens={conf.data.max_prompt_tokens} "
        f"+ rollout.max_response_tokens={rollout.max_response_tokens} = {longest}",
    )
    _require(
        longest <= conf.learner.max_tokens,
        f"learner.max_tokens={conf.learner.max_tokens} must hold the longest sequence, data.max_prompt_tokens "
        f"+ rollout.max_response_tokens = {longest}",
    )
    tokens = max(rollout.max_num_batched_tokens, rollout.max_model_len)  # as rollout.engine asks for
    _require(
        rollout.max_num_seqs <= tokens,
        f"rollout.max_num_seqs={rollout.max_num_seqs} must not exceed rollout.max_num_batched_tokens={tokens}: each "
        "sequence takes a token of every engine step",
    )


def _algorithm(conf: Config) -> None:
    algorithm = conf.algorithm
    _require(
        algorithm.clip_high is None or algorithm.clip_high >= algorithm.clip,
        f"algorithm.clip_high must be at least algorithm.clip={algorithm.clip}, got {algorithm.clip_high}",
    )
    _require(
        algorithm.length_constant is None or algorithm.loss is Loss.dr_grpo,
        f"algorithm.length_constant is Dr. GRPO's alone: choose algorithm.loss=dr_grpo, or leave it null; "
        f"got algorithm.loss={algorithm.loss.value}",
    )
    _require(
        algorithm.importance is Importance.none or algorithm.old is Old.learner,
        f"algorithm.importance={algorithm.importance.value} needs algorithm.old=learner: a ratio against the sampler's "
        "log-probs holds these weights already",
    )


def _learner(conf: Config) -> None:
    learner = conf.learner
    _require(
        learner.ranks % learner.sequence_parallel == 0,
        f"learner.ranks={learner.ranks} must be a multiple of learner.sequence_parallel={learner.sequence_parallel}",
    )
    _require(
        learner.zero_stage > 0
        or conf.model.dtype is Dtype.float32
        or (bool(conf.model.lora.rank) and conf.warmup is None),  # adapters are float32; a warm-up trains all weights
        "learner.zero_stage=0 trains float32 weights: for model.dtype=bfloat16 choose stage 1, 2 or 3",
    )
    _require(
        conf.model.dtype is Dtype.bfloat16 or conf.model.head_dtype is Dtype.float32,
        "model.head_dtype=bfloat16 needs model.dtype=bfloat16: a float32 model has float32 logits",
    )
    _require(
        learner.zero_stage == 3 or not learner.offload_parameters,
        f"learner.offload_parameters needs learner.zero_stage=3, got {learner.zero_stage}",
    )
    _require(
        learner.zero_stage > 0 or not learner.offload_optimizer,
        "learner.offload_optimizer needs learner.zero_stage 1, 2 or 3, got 0",
    )
    _require(
        not learner.overlap_comm or learner.zero_stage in (2, 3),
        f"learner.overlap_comm reduces gradients that ZeRO partitions: choose learner.zero_stage 2 or 3, got "
        f"{learner.zero_stage}",
    )
    _require(
        learner.flash_attention is not FlashAttention.fa3
        or (learner.device is Device.gpu and conf.model.dtype is Dtype.bfloat16),
        f"learner.flash_attention=fa3 needs learner.device=gpu and model.dtype=bfloat16, got {learner.device.value} "
        f"and {conf.model.dtype.value}",
    )
    _require(
        not learner.compile_layers or (learner.zero_stage < 3 and not conf.model.lora.rank),
        "learner.compile_layers needs layers that hold their weights as they are: choose learner.zero_stage 0, 1 or 2, "
        f"and no adapters; got learner.zero_stage={learner.zero_stage} and model.lora.rank={conf.model.lora.rank}",
    )


def _warmup(conf: Config) -> None:
    warmup = conf.warmup
    if warmup is None:
        return
    if warmup.path is None:
        _require(warmup.steps > 0, f"warmup.steps must be above 0 for generated questions, got {warmup.steps}")
        check_generated(warmup.task, warmup.arithmetic, warmup.register, "warmup")
        refuse_many(warmup.evaluate_questions, f"warmup.evaluate_questions={warmup.evaluate_questions}")
    _require(
        warmup.max_tokens <= conf.learner.max_tokens,
        f"warmup.max_tokens={warmup.max_tokens} must not exceed learner.max_tokens={conf.learner.max_tokens}",
    )
    learner = conf.learner
    ranks = learner.ranks if warmup.ranks is None else warmup.ranks
    _require(
        ranks % learner.sequence_parallel == 0,
        f"warmup.ranks={ranks} must be a multiple of learner.sequence_parallel={learner.sequence_parallel}",
    )
    _require(
        ranks == 1 or learner.device is Device.cpu or learner.num_gpus == 1,
        f"warmup.ranks={ranks} needs learner.num_gpus=1, got {learner.num_gpus:g}: NCCL wants a GPU for each rank",
    )
    if warmup.evaluate_every and conf.cluster.placement is Placement.colocated:
        said = f"warmup.evaluate_every={warmup.evaluate_every} with cluster.placement=colocated"
        _require(ranks == learner.ranks, f"{said} needs warmup.ranks=null (learner.ranks={learner.ranks}), got {ranks}")


def _gpus(conf: Config) -> None:
    rollout, learner = conf.rollout, conf.learner
    each = {"rollout.num_gpus": rollout.num_gpus, "learner.num_gpus": learner.num_gpus}
    each |= {f"{name}.num_cpus": getattr(conf, name).num_cpus for name in ("rollout", "learner", "reward")}
    for key, share in each.items():
        _require(
            abs(share * 10_000 - round(share * 10_000)) < 1e-6,
            f"{key} must be a multiple of 0.0001, in which Ray counts CPUs and GPUs, got {share!r}",
        )
    for name, part in (("rollout", rollout), ("learner", learner)):
        _require(
            part.device is Device.cpu or part.num_gpus > 0,
            f"{name}.num_gpus must be above 0 with {name}.device=gpu, got {part.num_gpus:g}",
        )
    _require(
        rollout.device is Device.cpu
        or rollout.num_gpus == 1
        or (rollout.num_gpus < 1 and rollout.tensor_parallel == 1),
        f"rollout.num_gpus must be 1, or less with rollout.tensor_parallel=1, got {rollout.num_gpus:g} with "
        f"{rollout.tensor_parallel}: a worker on several GPUs is rollout.tensor_parallel=<GPUs>",
    )
    _require(
        learner.device is Device.cpu or learner.num_gpus == 1 or (learner.num_gpus < 1 and learner.ranks == 1),
        f"learner.num_gpus must be 1, or less with learner.ranks=1, got {learner.num_gpus:g} with "
        f"{learner.ranks}: NCCL wants a GPU for each rank",
    )


def _colocated(conf: Config) -> None:
    """cluster.placement=colocated: samplers and learner ranks on the same GPUs, one at a time."""
    rollout, learner = conf.rollout, conf.learner
    if conf.cluster.placement is not Placement.colocated:
        return
    _one_device(conf, "cluster.placement=colocated")
    _sampler_beside_every_rank(conf, "cluster.placement=colocated")
    _require(
        conf.run.max_staleness == 0 or rollout.on_weight_sync is OnWeightSync.recompute,
        f"cluster.placement=colocated with run.max_staleness={conf.run.max_staleness} interrupts answers while the "
        "learner has the GPUs, which drops their keys and values: rollout.on_weight_sync must be recompute, got "
        f"{rollout.on_weight_sync.value}",
    )
    _require(
        rollout.num_gpus == 1 and learner.num_gpus == 1,
        "cluster.placement=colocated divides each GPU itself: leave rollout.num_gpus and learner.num_gpus at 1",
    )


def _transport(conf: Config) -> None:
    rollout, learner, transport = conf.rollout, conf.learner, conf.cluster.transport
    gpus = rollout.device is Device.gpu and learner.device is Device.gpu
    if transport is Transport.nccl:
        _require(
            gpus
            and rollout.num_gpus == 1
            and learner.num_gpus == 1
            and conf.cluster.placement is Placement.disaggregated,
            "cluster.transport=nccl broadcasts between whole GPUs of cluster.placement=disaggregated: choose "
            "object_store (or auto) where sampler or learner has none, or a part of one, and ipc where they share them",
        )
    if transport is Transport.ipc:
        _one_device(conf, "cluster.transport=ipc", ": choose object_store")
        if gpus:
            _sampler_beside_every_rank(conf, "cluster.transport=ipc")


def _one_device(conf: Config, choice: str, advice: str = "") -> None:
    sampler, learner = conf.rollout.device, conf.learner.device
    _require(
        sampler is learner,
        f"{choice} needs one device for both, got rollout.device={sampler.value} and learner.device={learner.value}"
        f"{advice}",
    )


def _sampler_beside_every_rank(conf: Config, choice: str) -> None:
    rollout, learner = conf.rollout, conf.learner
    _require(
        rollout.workers * rollout.tensor_parallel == learner.ranks,
        f"{choice} needs a sampler beside every learner rank: rollout.workers={rollout.workers} x "
        f"rollout.tensor_parallel={rollout.tensor_parallel} must be learner.ranks={learner.ranks}",
    )


def _something_to_do(conf: Config, command: str) -> None:
    """The command has a model, and a warm-up its pairs."""
    made = conf.warmup is not None and conf.model.random is not None
    _require(
        command != "train" or conf.resume is not None or conf.model.path is not None or made,
        "nothing to train: choose an experiment (experiment=quickstart, one_gpu, thinkless_1p5b, ...; all: thinkless "
        "train --help experiment), or give model.path=<Hugging Face folder or hub id>",
    )
    _require(
        command != "warmup" or conf.warmup is not None,
        "no warm-up is configured: give warmup.path=<pairs>, or choose experiment=quickstart",
    )
    _require(
        command != "warmup" or conf.model.path is not None or conf.model.random is not None,
        "nothing to warm up: give model.path=<Hugging Face folder or hub id>, or choose model=tiny",
    )
