"""The typed configuration tree, registered with Hydra by `conf.compose`.

In: nothing. Out: dataclasses; an unknown key or a wrong type in any YAML file or override is an error at start.
Units stand in the names (`_s` seconds, `_gib`) or in the comment. Must not know: Hydra, files, other rooms.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from conf.choices import (
    Device,
    Dtype,
    Form,
    Importance,
    KLEstimator,
    Loss,
    Old,
    OnWeightSync,
    Placement,
    Schedule,
    SystemTurn,
    Transport,
)

MISSING = "???"


@dataclass
class RunConf:
    """The run: its folder, its length, what it keeps."""

    name: str | None = None  # null: numbered, e.g. train-001; an explicit name that exists is refused
    root: str = "runs"  # relative: to where the command was started (inside a Ray job: to ~/thinkless)
    steps: int = 100  # training steps (one batch of trajectories each)
    seed: int = 0  # of sampling and of the order of problems
    max_staleness: int = 0  # batches asked for ahead; 0: strictly on-policy
    save_every: int = 50  # steps between checkpoints; 0: only the last
    keep_checkpoints: int = 2  # newest ones that stay; 0: all
    samples_per_step: int = 2  # trajectories written as text per step
    record: list[int] = field(default_factory=list)  # steps that are recorded whole, for `thinkless replay`
    logprob_check_every: int = 20  # steps between sampler/learner log-prob checks; 1 in tests; 0: never
    logprob_check_max_abs: float | None = (
        None  # largest |log-prob(vLLM) - log-prob(learner)| allowed, nats; null: by dtype
    )
    logprob_check_mean_abs: float | None = (
        None  # its mean, nats; null: by dtype (orchestrator/training/logprob_check.py)
    )


@dataclass
class RandomModelConf:
    """A Qwen2-shaped model with random weights and a character-level tokenizer (the quickstart's)."""

    hidden_size: int = 64  # width of the residual stream
    layers: int = 3  # transformer blocks
    heads: int = 2  # attention heads
    kv_heads: int = 2  # heads of keys and values
    ffn_size: int = 192  # hidden size of the feed-forward blocks
    init_std: float = 0.125  # hidden^-0.5: the usual 0.02 stalls at this size
    max_position_embeddings: int = 2048  # tokens of the longest sequence


@dataclass
class LoraConf:
    """Low-rank adapters (peft) in `train`: only they learn, the model's own weights stay as they are. A warm-up is not
    affected: it trains all weights."""

    rank: int | None = None  # of each adapter B A; null or 0: off, all weights learn
    alpha: float = 32.0  # an adapted weight is W + alpha / rank * B A
    dropout: float = 0.0  # must be 0: with it no log-prob would be that of the sampler, or the same twice
    targets: Any = "all-linear"  # every linear layer but the output head; or their names, e.g. [q_proj, v_proj]
    seed: int = 0  # of A's random start; B starts at zero


@dataclass
class ModelConf:
    """The model that is trained, and its control tokens."""

    path: str | None = None  # Hugging Face folder or hub id; null: the warm-up makes it
    revision: str | None = None  # hub revision
    dtype: Dtype = Dtype.float32  # of forward passes and of the sampler
    think_token: str = "<think>"  # control token that begins a long answer
    think_end_token: str = "</think>"  # what ends its reasoning
    short_token: str = "<short>"  # control token that begins a short answer
    short_token_from: str | None = None  # spare token of the tokenizer to rename to short_token
    chat_template: str | None = None  # file with a Jinja template; null: the tokenizer's own
    trust_remote_code: bool = False  # run the code that comes with the model
    random: RandomModelConf | None = None  # used by the warm-up when path is null
    lora: LoraConf = field(default_factory=LoraConf)


@dataclass
class ArithmeticConf:
    """The generated task: chains a~b~c of absolute differences of k single digits; k is the level."""

    levels: list[int] = field(default_factory=lambda: [2, 3, 7, 8])  # terms of a chain, each another one
    weights: list[float] = field(default_factory=lambda: [0.25, 0.55, 0.1, 0.1])  # share of each level
    width: int = 15  # characters the expression is padded to
    max_digit: int = 5  # digits are 0..max_digit


@dataclass
class DataConf:
    """Training problems."""

    path: Any = None  # file, folder, glob, address (s3://...), hub data set, or a list of them; null: arithmetic
    revision: str | None = None  # hub data set's commit; null: the one pinned in rollout/data/dataset_rows.py
    subset: str | None = None  # hub data set's configuration name; null: the pinned one
    split: str | None = None  # of a hub data set or a folder with several; null: the pinned one, the only one
    adapter: str | None = None  # pkg.mod:fn, row (dict) -> {problem, answer, level?, uid?} or None to skip
    problem_column: str | None = None  # "column" or "column.field"; null: the usual names (rollout/data/layouts.py)
    answer_column: str | None = None  # null: the usual names, answer first
    level_column: str | None = None  # null: level, difficulty when present
    system_turn: SystemTurn | None = None  # drop or prepend, for chats that have one; null: such rows are unusable
    all_answers: bool = False  # a list of answers: all must be given (true) or any may match (false)
    unusable_answers: list[str] = field(  # texts that stand for a missing answer, in capitals or not
        default_factory=lambda: ["nan", "none", "null", "n/a", "<na>", "[]", "?", "-"]
    )
    max_unusable: float = 0.05  # share of rows that may be unusable before the data set is refused
    max_prompt_tokens: int = 1024  # longer prompts are dropped and counted
    shuffle: bool = True  # anew in each epoch
    shard: int = 0  # this run's shard of num_shards
    num_shards: int = 1  # runs that share the problems
    arithmetic: ArithmeticConf = field(default_factory=ArithmeticConf)


@dataclass
class ValidationConf:
    """Held-out problems. path null: fresh generated questions, or `size` rows held out of data.path."""

    path: Any = None  # as data.path
    revision: str | None = None  # as data.revision
    subset: str | None = None  # as data.subset
    split: str | None = None  # as data.split
    size: int = 128  # problems per validation
    samples: int = 1  # responses per problem


@dataclass
class DynamicSamplingConf:
    """More prompts where groups carry no gradient because their rewards are equal (DAPO's dynamic sampling)."""

    rounds: int = 0  # how often a batch may be refilled; 0: off, all groups are learnt from as they are
    factor: float = 1.0  # prompts asked for in a round, for each that is missing at the batch's rate so far
    abort: bool = False  # give up what a round no longer needs, once the groups before it suffice


@dataclass
class RolloutConf:
    """Sampling by vLLM."""

    workers: int = 1  # vLLM engines, one Ray actor each
    device: Device = Device.cpu  # of the engines
    tensor_parallel: int = 1  # GPUs (or CPU processes) that one worker's engine is spread over, all on one host
    num_cpus: float = 0.4  # of each worker, times tensor_parallel, for Ray's placement
    num_gpus: float = (
        1.0  # of each worker with tensor_parallel=1, at most 1; device gpu and cluster.placement=disaggregated only
    )
    max_restarts: int = 0  # times that Ray starts a worker again that died; it then takes the current weights
    threads: int = 1  # OpenMP threads of each CPU engine
    group_size: int = 8  # G, siblings per prompt
    prompts_per_step: int = 16  # of one batch, group_size responses each
    temperature: float = 1.0  # of training samples; vLLM takes no lower and no higher one
    top_p: float = 1.0  # must be 1 in training (docs/method.md)
    max_response_tokens: int = 128  # control token included
    max_tokens_short: int | None = None  # a further limit on short responses, in training; null: none
    max_tokens_think: int | None = None  # the same for thinking ones
    on_weight_sync: OnWeightSync = OnWeightSync.keep  # run.max_staleness above 0: what becomes of sequences under way
    slowdown: float | None = None  # times that a newer batch may slow an older one's engine steps; null: no bound
    dynamic_sampling: DynamicSamplingConf = field(default_factory=DynamicSamplingConf)
    max_model_len: int = 2048  # tokens of the longest prompt with its response
    max_num_seqs: int = 256  # sequences that one engine samples at a time
    max_num_batched_tokens: int = 65536  # prompt and response tokens of one engine step
    kv_cache_gib: float = 1.0  # CPU engine
    gpu_memory_utilization: float = 0.5  # share of the GPU that an engine takes
    enforce_eager: bool = True  # no CUDA graphs
    prefix_caching: bool = True  # compute the keys and values of shared prompts once
    start_timeout_s: float = 600.0  # for an engine to load the model
    timeout_s: float = 3600.0  # for one batch of trajectories


@dataclass
class RewardConf:
    """Grading, and what each outcome is worth."""

    workers: int = 1  # reward actors
    num_cpus: float = 0.1  # of each actor, for Ray's placement
    processes: int = 1  # grading processes of each actor
    timeout_s: float = 5.0  # hard limit of one check; the process is killed
    memory_mib: int = 2048  # address-space limit of a grading process
    strict: bool = True  # training: \boxed{} only; false: lenient extraction
    max_unjudged: float = 0.1  # share of a step's answers without a verdict; above it 3 steps in a row end the run
    function: str | None = None  # pkg.mod:fn(problem, response, answer, mode) -> float; replaces grading, scheme, caps
    correct_short: float = 1.0  # reward of a right answer in short mode
    correct_think: float = 0.5  # 1 - gamma
    wrong: float = -1.0  # reward of a wrong answer
    cut_off: float = -1.0  # of a response that reached its limit
    no_answer: float = -1.0  # of a response without a final answer
    no_mode: float = -1.0  # of a response without a control token first
    format_error: float = -1.0  # of one with a think token in its answer (anywhere in a short one; docs/method.md)
    max_tokens_short: int | None = None  # a longer short response gets cut_off's reward, right or wrong; null: no cap
    max_tokens_think: int | None = None  # the same for thinking ones; response tokens, control token included


@dataclass
class AlgorithmConf:
    """The loss."""

    loss: Loss = Loss.degrpo  # the objective (docs/method.md)
    form: Form = Form.code  # weight of a token
    alpha: float = 0.001  # weight of the control token (DeGRPO)
    length_constant: int | None = None  # tokens that Dr. GRPO divides by; null: rollout.max_response_tokens
    clip: float = 0.2  # the ratio's lower bound is 1 - clip
    clip_high: float | None = None  # its upper bound is 1 + clip_high; null: clip
    dual_clip: float | None = None  # bound on the ratio where the advantage is negative, above 1; null: none
    old: Old = Old.learner  # what the ratio is taken against
    importance: Importance = Importance.none  # weights against a sampler that differs from the learner, or is stale
    importance_cap: float = 2.0  # bound on these weights
    kl: float = 0.001  # coefficient of the KL estimate to the frozen reference; 0: no reference model
    kl_estimator: KLEstimator = KLEstimator.k3  # see learner/loss/surrogate.py
    max_log_ratio: float = 10.0  # bound on the exponents of ratio, importance weight and KL
    optimizer_steps: int = 2  # optimizer steps per batch of trajectories
    mask_cut_off: bool = False  # leave cut-off responses out of the loss


@dataclass
class LearnerConf:
    """Training by DeepSpeed."""

    ranks: int = 1  # DeepSpeed processes
    sequence_parallel: int = 1  # consecutive ranks that share each micro-batch's tokens (Ulysses), for long answers
    device: Device = Device.cpu  # of the ranks
    num_cpus: float = 0.4  # of each rank, for Ray's placement
    num_gpus: float = 1.0  # of each rank, at most 1; device gpu and cluster.placement=disaggregated only
    threads: int = 1  # CPU threads of each rank
    lr: float = 1e-6  # learning rate of AdamW
    schedule: Schedule = Schedule.constant  # of the learning rate
    warmup_steps: int = 0  # optimizer steps of linear increase
    decay_start: float = 0.0  # share of the schedule at full rate before a linear or cosine decay begins
    min_lr_ratio: float = 0.1  # of lr, at the end of a linear or cosine schedule
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])  # AdamW's
    eps: float = 1e-8  # AdamW's
    weight_decay: float = 0.01  # AdamW's
    max_grad_norm: float = 1.0  # longer gradients are scaled down to it; 0: never
    max_tokens: int = 8192  # micro-batch budget, tokens
    logprob_chunk: int = 1024  # tokens whose logits exist at one time
    zero_stage: int = 0  # of DeepSpeed's ZeRO: what the ranks share; 0: nothing
    offload_optimizer: bool = False  # optimizer states in the CPU's memory
    offload_parameters: bool = False  # weights in the CPU's memory; zero_stage 3 only
    offload_reference: bool = False  # the frozen reference waits in the CPU's memory while it does not score
    gradient_checkpointing: bool = False  # less memory, a second forward pass
    weight_sync_bucket_mib: float = 256.0  # weights gathered (ZeRO-3), merged and sent at a time
    max_bad_steps: int = 3  # non-finite losses or gradients in a row before the run stops
    start_timeout_s: float = 600.0  # for the ranks to load the model and join
    timeout_s: float = 1800.0  # of one update, and of every collective call


@dataclass
class WarmupConf:
    """Supervised fine-tuning on paired long and short answers (Thinkless stage 1). It takes place where `path` is
    given, or where `steps` is above 0 (pairs of generated arithmetic)."""

    path: Any = None  # as data.path, with the columns below; null: generated arithmetic
    revision: str | None = None  # as data.revision
    subset: str | None = None  # as data.subset
    split: str | None = None  # as data.split
    adapter: str | None = None  # pkg.mod:fn, row (dict) -> {problem, think, short} or None to skip
    problem_column: str = "problem"  # text of the problem
    think_column: str = "think"  # text after the think token: reasoning, </think>, answer
    short_column: str = "short"  # text after the short token: concise answer
    max_tokens: int = 2048  # longer examples are dropped and counted
    steps: int = 0  # optimizer steps; 0: with path one epoch, without path no warm-up
    batch_size: int = 32  # questions per step, each in both modes
    ranks: int | None = None  # learner ranks that warm up; null: learner.ranks
    short_weight: float = 1.0  # weight of a short answer's tokens after the control token, against 1 for all others
    lr: float | None = None  # null: 1e-5 for a given model, 3e-3 for random weights (model.path null)
    schedule: Schedule = Schedule.linear  # of the learning rate
    warmup_steps: int = 30  # optimizer steps of linear increase
    min_lr_ratio: float = 0.1  # of lr, at the end of a linear or cosine schedule
    betas: list[float] = field(default_factory=lambda: [0.9, 0.98])  # AdamW's
    weight_decay: float = 0.0  # AdamW's
    max_grad_norm: float = 1.0  # longer gradients are scaled down to it; 0: never
    arithmetic: ArithmeticConf = field(default_factory=ArithmeticConf)
    seed: int = 0  # of the order of pairs and of random weights
    cache: str | None = None  # folder of finished warm-ups; null: <run.root>/warmup


@dataclass
class EvaluateConf:
    """Validation during a run, and the evaluation at its end or by `thinkless evaluate`."""

    every: int = 20  # steps between validations, one before the first step; 0: never
    final: bool = True  # evaluate warm-up and final model with free and forced modes at the end of train
    questions: int = 512  # fresh questions per level (generated task) or problems in all (data sets), final evaluation
    temperature: float = 1.0  # of validation and evaluation
    top_p: float = 1.0  # likewise; may be below 1
    samples: int = 1  # responses per problem
    max_response_tokens: int | None = None  # null: rollout.max_response_tokens
    seed: int = 1234  # of generated questions, held-out rows and sampling


@dataclass
class ClusterConf:
    """Ray, and where weights and GPUs go."""

    address: str | None = None  # null: RAY_ADDRESS if set, else a private local cluster; "auto", "host:port"
    object_store_gib: float = 0.5  # private local cluster only
    port: int | None = None  # of the learner's process group; null: a free one
    metrics_port: int | None = None  # Prometheus end point of a private local cluster; null: a free one
    start_timeout_s: float = 120.0  # for Ray to start or answer, and for reward actors
    placement: Placement = Placement.disaggregated  # of samplers and learner ranks
    transport: Transport = Transport.auto  # of weights
    weight_sync_timeout_s: float = (
        600.0  # ipc, nccl: for each other, both sides (rollout.on_weight_sync=drain: for the last answers)
    )
    colocation_timeout_s: float = (
        300.0  # placement colocated: for samplers or learner ranks to leave or take their GPUs
    )


@dataclass
class TrackerConf:
    """What a run shows while it goes on, and its report."""

    console: bool = True  # a line for each step
    progress: bool = True  # bars on a terminal
    gauges: bool = True  # ray.util.metrics, on Ray's Prometheus end point
    report: bool = True  # write report.html at the end


@dataclass
class Config:
    run: RunConf = field(default_factory=RunConf)
    model: ModelConf = field(default_factory=ModelConf)
    data: DataConf = field(default_factory=DataConf)
    validation: ValidationConf = field(default_factory=ValidationConf)
    rollout: RolloutConf = field(default_factory=RolloutConf)
    reward: RewardConf = field(default_factory=RewardConf)
    algorithm: AlgorithmConf = field(default_factory=AlgorithmConf)
    learner: LearnerConf = field(default_factory=LearnerConf)
    warmup: WarmupConf | None = None  # null: none takes place (`conf.compose` makes it so where none is configured)
    evaluate: EvaluateConf = field(default_factory=EvaluateConf)
    cluster: ClusterConf = field(default_factory=ClusterConf)
    tracker: TrackerConf = field(default_factory=TrackerConf)
    resume: str | None = None  # run folder (or name under run.root) to go on with
