"""Refuses impossible combinations at the door, each with one line that says what to do.

In: a typed configuration. Out: nothing, or `BadConfig`. Must not know: files, machines, other rooms.
"""

from __future__ import annotations

from conf.choices import Device, Dtype, Importance, Loss, Old, Placement, Transport
from conf.schema import Config


class BadConfig(ValueError):
    """One line: which key, what it must be, what it is."""


def check(conf: Config, command: str = "train") -> None:
    """Cross-field checks. command: "train", "warmup", "evaluate" or "report"."""

    def need(condition: bool, message: str) -> None:
        if not condition:
            raise BadConfig(message)

    def positive(**values: float) -> None:
        for name, value in values.items():
            need(value > 0, f"{name.replace('__', '.')} must be above 0, got {value}")

    rollout, learner, algorithm, reward = conf.rollout, conf.learner, conf.algorithm, conf.reward
    positive(
        reward__max_tokens_short=1 if reward.max_tokens_short is None else reward.max_tokens_short,
        reward__max_tokens_think=1 if reward.max_tokens_think is None else reward.max_tokens_think,
        rollout__workers=rollout.workers,
        learner__ranks=learner.ranks,
        learner__sequence_parallel=learner.sequence_parallel,
        reward__workers=reward.workers,
        reward__processes=reward.processes,
        rollout__prompts_per_step=rollout.prompts_per_step,
        rollout__temperature=rollout.temperature,
        rollout__threads=rollout.threads,
        rollout__tensor_parallel=rollout.tensor_parallel,
        cluster__turn_timeout_s=conf.cluster.turn_timeout_s,
        cluster__push_timeout_s=conf.cluster.push_timeout_s,
        learner__publish_bucket_mib=learner.publish_bucket_mib,
        learner__threads=learner.threads,
        learner__lr=learner.lr,
        learner__max_tokens=learner.max_tokens,
        learner__logprob_chunk=learner.logprob_chunk,
        learner__max_bad_steps=learner.max_bad_steps,
        algorithm__optimizer_steps=algorithm.optimizer_steps,
        algorithm__importance_cap=algorithm.importance_cap,
        algorithm__max_log_ratio=algorithm.max_log_ratio,
        algorithm__length_constant=1 if algorithm.length_constant is None else algorithm.length_constant,
        data__max_prompt_tokens=conf.data.max_prompt_tokens,
        evaluate__temperature=conf.evaluate.temperature,
        reward__timeout_s=reward.timeout_s,
        rollout__timeout_s=rollout.timeout_s,
        learner__timeout_s=learner.timeout_s,
    )
    need(
        rollout.group_size >= 2,
        f"rollout.group_size must be at least 2, got {rollout.group_size}: advantages compare siblings of one prompt",
    )
    need(conf.run.steps >= 0, f"run.steps must not be negative, got {conf.run.steps}")
    need(conf.run.max_staleness >= 0, f"run.max_staleness must not be negative, got {conf.run.max_staleness}")
    beyond = [step for step in conf.run.record if not 1 <= step <= conf.run.steps]
    need(
        command != "train" or not beyond,
        f"run.record={conf.run.record} must lie within this run's steps, 1 to run.steps={conf.run.steps}",
    )
    need(
        conf.run.max_staleness == 0 or algorithm.importance is not Importance.none or algorithm.old is Old.sampler,
        f"run.max_staleness={conf.run.max_staleness} learns from answers of older weights: add "
        "algorithm.importance=truncate (the decoupled objective), or algorithm.old=sampler",
    )
    need(
        rollout.slowdown is None or rollout.slowdown >= 1,
        f"rollout.slowdown must be at least 1, got {rollout.slowdown}",
    )
    refill = rollout.refill
    need(refill.rounds >= 0, f"rollout.refill.rounds must not be negative, got {refill.rounds}")
    need(refill.factor >= 1, f"rollout.refill.factor must be at least 1, got {refill.factor}")
    for name in ("max_tokens_short", "max_tokens_think"):
        limit = getattr(rollout, name)
        need(
            limit is None or 1 < limit <= rollout.max_response_tokens,
            f"rollout.{name} must be above 1 and at most rollout.max_response_tokens={rollout.max_response_tokens}, "
            f"got {limit}",
        )
    need(rollout.max_response_tokens >= 2, "rollout.max_response_tokens must be at least 2 (a control token and one)")
    need(
        rollout.prompts_per_step >= algorithm.optimizer_steps,
        f"algorithm.optimizer_steps={algorithm.optimizer_steps} needs at least as many rollout.prompts_per_step, "
        f"got {rollout.prompts_per_step}",
    )
    longest = conf.data.max_prompt_tokens + rollout.max_response_tokens
    need(
        longest <= rollout.max_model_len,
        f"rollout.max_model_len={rollout.max_model_len} must hold data.max_prompt_tokens={conf.data.max_prompt_tokens} "
        f"+ rollout.max_response_tokens={rollout.max_response_tokens} = {longest}",
    )
    need(
        longest <= learner.max_tokens,
        f"learner.max_tokens={learner.max_tokens} must hold the longest sequence, data.max_prompt_tokens "
        f"+ rollout.max_response_tokens = {longest}",
    )
    evaluated = conf.evaluate.max_response_tokens
    need(
        evaluated is None or conf.data.max_prompt_tokens + evaluated <= rollout.max_model_len,
        f"evaluate.max_response_tokens={evaluated} does not fit into rollout.max_model_len={rollout.max_model_len}",
    )
    need(
        learner.ranks % learner.sequence_parallel == 0,
        f"learner.ranks={learner.ranks} must be a multiple of learner.sequence_parallel={learner.sequence_parallel}",
    )
    need(learner.zero_stage in (0, 1, 2, 3), f"learner.zero_stage must be 0, 1, 2 or 3, got {learner.zero_stage}")
    need(
        learner.zero_stage > 0
        or conf.model.dtype is Dtype.float32
        or (bool(conf.model.lora.rank) and conf.warmup is None),  # adapters are float32; a warm-up trains all weights
        "learner.zero_stage=0 trains float32 weights: for model.dtype=bfloat16 choose stage 1, 2 or 3",
    )
    need(
        learner.zero_stage == 3 or not learner.offload_parameters,
        f"learner.offload_parameters needs learner.zero_stage=3, got {learner.zero_stage}",
    )
    need(
        learner.zero_stage > 0 or not learner.offload_optimizer,
        "learner.offload_optimizer needs learner.zero_stage 1, 2 or 3, got 0",
    )
    lora = conf.model.lora
    need(lora.rank is None or lora.rank >= 0, f"model.lora.rank must be above 0, or null for none, got {lora.rank}")
    if lora.rank:
        positive(model__lora__alpha=lora.alpha)
        need(
            lora.dropout == 0,
            f"model.lora.dropout must be 0, got {lora.dropout}: the learner's log-probs would not be the sampler's",
        )
        named = isinstance(lora.targets, list) and all(isinstance(name, str) and name for name in lora.targets)
        need(
            lora.targets == "all-linear" or (named and len(lora.targets) > 0),
            f"model.lora.targets must be all-linear or layers' names such as [q_proj,v_proj], got {lora.targets}",
        )
    need(len(learner.betas) == 2, f"learner.betas must be two numbers, got {list(learner.betas)}")
    need(0 < algorithm.clip < 1, f"algorithm.clip must be between 0 and 1, got {algorithm.clip}")
    need(
        algorithm.clip_high is None or algorithm.clip_high >= algorithm.clip,
        f"algorithm.clip_high must be at least algorithm.clip={algorithm.clip}, got {algorithm.clip_high}",
    )
    need(
        algorithm.dual_clip is None or algorithm.dual_clip > 1,
        f"algorithm.dual_clip must be above 1 (usual: 3), got {algorithm.dual_clip}",
    )
    need(
        algorithm.length_constant is None or algorithm.loss is Loss.dr_grpo,
        f"algorithm.length_constant is Dr. GRPO's alone: choose algorithm=dr_grpo, or leave it null; "
        f"got algorithm.loss={algorithm.loss.value}",
    )
    need(
        algorithm.importance is Importance.none or algorithm.old is Old.learner,
        f"algorithm.importance={algorithm.importance.value} needs algorithm.old=learner: a ratio against the sampler's "
        "log-probs holds these weights already",
    )
    need(algorithm.alpha >= 0, f"algorithm.alpha must not be negative, got {algorithm.alpha}")
    need(algorithm.kl >= 0, f"algorithm.kl must not be negative, got {algorithm.kl}")
    need(rollout.max_restarts >= 0, f"rollout.max_restarts must not be negative, got {rollout.max_restarts}")
    if rollout.device is Device.gpu:
        positive(rollout__num_gpus=rollout.num_gpus)
        need(
            rollout.num_gpus == 1 or (rollout.num_gpus < 1 and rollout.tensor_parallel == 1),
            f"rollout.num_gpus must be 1, or less with rollout.tensor_parallel=1, got {rollout.num_gpus:g} with "
            f"{rollout.tensor_parallel}: a worker on several GPUs is rollout.tensor_parallel=<GPUs>",
        )
    if learner.device is Device.gpu:
        positive(learner__num_gpus=learner.num_gpus)
        need(
            learner.num_gpus == 1 or (learner.num_gpus < 1 and learner.ranks == 1),
            f"learner.num_gpus must be 1, or less with learner.ranks=1, got {learner.num_gpus:g} with "
            f"{learner.ranks}: NCCL wants a GPU for each rank",
        )
    if conf.cluster.placement is Placement.shared:
        sampling = rollout.workers * rollout.tensor_parallel
        need(
            sampling == learner.ranks,
            f"cluster.placement=shared puts a sampler beside every learner rank: rollout.workers={rollout.workers} x "
            f"rollout.tensor_parallel={rollout.tensor_parallel} must be learner.ranks={learner.ranks}",
        )
        need(
            rollout.device is learner.device,
            f"cluster.placement=shared needs one device for both, got rollout.device={rollout.device.value} and "
            f"learner.device={learner.device.value}",
        )
        need(
            conf.run.max_staleness == 0,
            f"cluster.placement=shared samples and learns in turns: run.max_staleness must be 0, got "
            f"{conf.run.max_staleness}; sampling ahead wants cluster.placement=split",
        )
        need(
            rollout.num_gpus == 1 and learner.num_gpus == 1,
            "cluster.placement=shared divides each GPU itself: leave rollout.num_gpus and learner.num_gpus at 1",
        )
        need(
            rollout.max_restarts == 0,
            f"rollout.max_restarts={rollout.max_restarts} needs cluster.placement=split: a sampler cannot start "
            "on a GPU that the learner holds",
        )
    gpus = rollout.device is Device.gpu and learner.device is Device.gpu
    sampling = rollout.workers * rollout.tensor_parallel
    if conf.cluster.transport is Transport.nccl:
        need(
            gpus and rollout.num_gpus == 1 and learner.num_gpus == 1 and conf.cluster.placement is Placement.split,
            "cluster.transport=nccl broadcasts between whole GPUs of cluster.placement=split: choose object_store (or "
            "auto) where sampler or learner has none, or a part of one, and ipc where they share them",
        )
    if conf.cluster.transport is Transport.ipc:
        need(
            rollout.device is learner.device,
            f"cluster.transport=ipc needs one device for both, got rollout.device={rollout.device.value} and "
            f"learner.device={learner.device.value}: choose object_store",
        )
        need(
            not gpus or sampling == learner.ranks,
            f"cluster.transport=ipc needs a sampler beside every learner rank: rollout.workers={rollout.workers} x "
            f"rollout.tensor_parallel={rollout.tensor_parallel} must be learner.ranks={learner.ranks}",
        )
    if command == "train" and conf.resume is None:
        need(
            conf.model.path is not None or (conf.warmup is not None and conf.model.random is not None),
            "nothing to train: choose an experiment (experiment=quickstart, one_gpu, thinkless_1p5b or "
            "thinkless_1p5b_paper), or give model.path=<Hugging Face folder or hub id>",
        )
    if command == "warmup":
        need(
            conf.warmup is not None,
            "no warm-up is configured: give warmup.path=<pairs>, or choose experiment=quickstart",
        )
        need(
            conf.model.path is not None or conf.model.random is not None,
            "nothing to warm up: give model.path=<Hugging Face folder or hub id>, or choose model=tiny",
        )
    if conf.warmup is not None:
        lr = conf.warmup.lr
        positive(warmup__batch_size=conf.warmup.batch_size, warmup__lr=1 if lr is None else lr)
        need(
            conf.warmup.path is not None or conf.warmup.steps > 0,
            f"warmup.steps must be above 0 for generated questions, got {conf.warmup.steps}",
        )
        need(
            conf.warmup.max_tokens <= learner.max_tokens,
            f"warmup.max_tokens={conf.warmup.max_tokens} must not exceed learner.max_tokens={learner.max_tokens}",
        )
