"""The typed configuration tree, registered with Hydra by `conf.compose`.

In: nothing. Out: dataclasses; an unknown key or a wrong type in any YAML file or override is an error at start.
Units are in the names (`_s` seconds, `_gib`) or the comment, ranges beside defaults. Must not know: Hydra, files.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from conf.choices import (
    Device,
    Dtype,
    Figure,
    FlashAttention,
    Form,
    Importance,
    KLEstimator,
    Loss,
    Old,
    OnWeightSync,
    Placement,
    Schedule,
    SystemTurn,
    Task,
    Transport,
)
from conf.distill import DistillConf
from conf.evaluation import EvaluateConf
from conf.model_shape import LoraConf, RandomModelConf
from conf.ranges import ADDRESS, FOLDER, NAME, PATH, TOKEN, URL, number, text
from conf.source import ArithmeticConf, RegisterConf, SourceConf
from conf.sweep import SweepConf


@dataclass
class RunConf:
    """The run: its folder, its length, what it keeps."""

    name: str | None = text(None, NAME)  # null: numbered, e.g. train-001; an explicit name must not exist yet
    root: str = text("runs", FOLDER)  # if relative: to where the command was started (inside a Ray job: to ~/thinkless)
    steps: int = number(100, "[0, 1e7]")  # training steps (one batch of trajectories each)
    seed: int = number(0, "[0, 4294967295]")  # of sampling and of the order of problems
    deterministic: bool = False  # on GPUs: kernels that repeat bit for bit, slower (docs/gpu.md); a CPU's do so anyway
    max_staleness: int = number(0, "[0, 1000]")  # batches requested ahead; 0: strictly on-policy
    save_every: int = number(50, "[0, 1e7]")  # steps between checkpoints; 0: only the last
    save_in_background: bool = True  # beside training, from a copy in host memory; false: training waits for the disk
    checkpoints: str | None = text(None, URL)  # copies go to <this>/<run>, e.g. s3://bucket/runs; null: there are none
    keep_checkpoints: int = number(2, "[0, 1e6]")  # newest ones that are kept; 0: all
    keep_every: int = number(0, "[0, 1e7]")  # those of its multiples are kept as well; 0: none
    keep_best: Figure | None = None  # and the one with the highest such figure in its validation; null: none
    keep_best_lowest: bool = False  # the one with the lowest instead
    samples_per_step: int = number(2, "[0, 1e6]")  # trajectories written as text per step
    record: list[int] = number([], "[1, 1e7]")  # steps to record completely, for `thinkless replay`
    logprob_check_every: int = number(20, "[0, 1e7]")  # steps between sampler/learner log-prob checks; 0: never
    logprob_check_mean_abs: float | None = number(
        None, "[1e-9, 1000]"
    )  # mean log-prob difference, nats; null: by dtype
    logprob_check_p999_abs: float | None = number(None, "[1e-9, 1000]")  # its 99.9 % quantile, nats; null: by dtype
    logprob_check_kl: float | None = number(
        None, "[1e-9, 1000]"
    )  # estimate of KL(sampler, learner), nats; null: by dtype


@dataclass
class ModelConf:
    """The model to train, and its control tokens."""

    path: str | None = text(None, PATH)  # Hugging Face folder or hub id; null: the warm-up creates it
    revision: str | None = None  # hub revision
    dtype: Dtype = Dtype.float32  # of forward passes and of the sampler
    head_dtype: Dtype = Dtype.float32  # of the logits in learner and sampler; bfloat16 makes them differ more
    think_token: str = text("<think>", TOKEN)  # control token that begins a long answer
    think_end_token: str = text("</think>", TOKEN)  # token that ends its reasoning
    short_token: str = text("<short>", TOKEN)  # control token that begins a short answer
    short_token_from: str | None = None  # spare token of the tokenizer to rename to short_token
    modes: list[str] = field(default_factory=lambda: ["short", "think"])  # in order; medium begins with <medium>
    chat_template: str | None = text(None, PATH)  # file with a Jinja template; null: the tokenizer's own
    trust_remote_code: bool = False  # run the code that comes with the model
    random: RandomModelConf | None = None  # used by the warm-up when path is null
    lora: LoraConf = field(default_factory=LoraConf)


@dataclass
class DataConf(SourceConf):
    """Training problems. path null: generated ones."""

    adapter: str | None = None  # pkg.mod:fn, row (dict) -> {problem, answer, level?, uid?} or None to skip
    problem_column: str | None = None  # "column" or "column.field"; null: the usual names (rollout/data/layouts.py)
    answer_column: str | None = None  # null: the usual names, answer first
    level_column: str | None = None  # null: level, difficulty when present
    system_turn: SystemTurn | None = None  # drop or prepend, for chats that have one; null: such rows are unusable
    all_answers: bool = False  # a list of answers: all must be given (true) or any may match (false)
    unusable_answers: list[str] = field(  # texts that mean a missing answer, in any case
        default_factory=lambda: ["nan", "none", "null", "n/a", "<na>", "[]", "?", "-"]
    )
    max_unusable: float = number(0.05, "[0, 1]")  # share of rows that may be unusable before the data set is rejected
    max_prompt_tokens: int = number(1024, "[1, 1e8]")  # longer prompts are dropped and counted
    shuffle: bool = True  # differently in each epoch
    shard: int = number(0, "[0, 1e6]")  # this run's shard of num_shards
    num_shards: int = number(1, "[1, 1e6]")  # runs that share the problems
    task: Task = Task.arithmetic  # what is generated
    arithmetic: ArithmeticConf = field(default_factory=ArithmeticConf)
    register: RegisterConf = field(default_factory=RegisterConf)


@dataclass
class ValidationConf(SourceConf):
    """Held-out problems. path null: fresh generated questions, or `size` rows held out of data.path."""

    size: int = number(128, "[0, 1e5]")  # problems per validation
    samples: int = number(1, "[1, 10000]")  # responses per problem


@dataclass
class DynamicSamplingConf:
    """More prompts if groups carry no gradient because their rewards are equal (DAPO's dynamic sampling)."""

    rounds: int = number(0, "[0, 1000]")  # extra rounds per batch at most; 0: off, all groups are learnt from
    factor: float = number(1.0, "[1, 1000]")  # prompts requested in a round per missing one, at the batch's rate so far
    abort: bool = False  # abort what a round no longer needs, once the groups before it suffice


@dataclass
class RolloutConf:
    """Sampling by vLLM."""

    workers: int = number(1, "[1, 10000]")  # vLLM engines, one Ray actor each
    device: Device = Device.cpu  # of the engines
    tensor_parallel: int = number(1, "[1, 1024]")  # GPUs (or CPU processes) per engine, all on one host
    num_cpus: float = number(0.4, "[0.001, 10000]")  # of each worker, times tensor_parallel, for Ray's placement
    num_gpus: float = number(1.0, "[0, 1024]")  # of each worker, at most 1; device gpu, placement disaggregated
    max_restarts: int = number(0, "[0, 1e6]")  # times that Ray restarts a worker that died, with the current weights
    threads: int = number(1, "[1, 1024]")  # OpenMP threads of each CPU engine
    group_size: int = number(8, "[2, 1e5]")  # G, siblings per prompt
    prompts_per_step: int = number(16, "[1, 1e6]")  # per batch, group_size responses each
    temperature: float = number(1.0, "[0.01, 2]")  # of training samples; the range is vLLM's
    top_p: float = number(1.0, "(0, 1]")  # must be 1 in training (docs/method.md)
    max_response_tokens: int = number(128, "[2, 1e8]")  # control token included
    max_tokens_short: int | None = number(None, "[2, 1e8]")  # limit on short responses, in training; null: none
    max_tokens_between: list[int] = number([], "[2, 1e8]")  # on those of each mode between, in order; []: none
    max_tokens_think: int | None = number(None, "[2, 1e8]")  # likewise on thinking ones
    on_weight_sync: OnWeightSync = OnWeightSync.keep  # running sequences, max_staleness > 0; colocated: recompute
    slowdown: float | None = number(None, "[1, 1e6]")  # how much a newer batch may slow an older one; null: no limit
    dynamic_sampling: DynamicSamplingConf = field(default_factory=DynamicSamplingConf)
    max_model_len: int = number(2048, "[2, 1e8]")  # tokens of the longest prompt with its response
    max_num_seqs: int = number(256, "[1, 1e6]")  # sequences that one engine samples at a time
    max_num_batched_tokens: int = number(65536, "[1, 1e8]")  # prompt and response tokens of one engine step
    kv_cache_gib: float = number(1.0, "[1e-4, 1e5]")  # CPU engine
    gpu_memory_utilization: float = number(0.5, "[0.01, 1]")  # share of the GPU that an engine takes
    enforce_eager: bool = True  # no CUDA graphs
    async_scheduling: bool | None = None  # plan a step while the last one runs; true needs a GPU; null: on a GPU
    prefix_caching: bool = True  # compute the keys and values of shared prompts once
    start_timeout_s: float = number(600.0, "[0.1, 1e7]")  # for an engine to load the model
    timeout_s: float = number(3600.0, "[0.1, 1e7]")  # for one batch of trajectories


@dataclass
class RewardConf:
    """Grading, and what each outcome is worth."""

    workers: int = number(1, "[1, 10000]")  # reward actors
    num_cpus: float = number(0.1, "[0.001, 10000]")  # of each actor, for Ray's placement
    processes: int = number(1, "[1, 1024]")  # grading processes of each actor
    max_restarts: int = number(3, "[0, 1e6]")  # times that Ray restarts an actor that died; its work is done again
    timeout_s: float = number(5.0, "[0.01, 1e5]")  # hard limit of one check; the process is killed
    hung_s: float = number(60.0, "(0, 1e7]")  # that these may take of a batch and process; then limits are shorter
    batch_timeout_s: float = number(3600.0, "[1, 1e7]")  # for a batch's verdicts from an actor; then the run ends
    timeouts_as_no_answer: int | None = number(None, "[2, 1e6]")  # siblings with one answer that timed out; null: never
    memory_mib: int = number(2048, "[0, 1e8]")  # address-space limit of a grading process
    strict: bool = True  # training: \boxed{} only; false: lenient extraction
    max_unjudged: float = number(0.1, "[0, 1]")  # share of answers without a verdict; 3 steps above it end the run
    function: str | None = None  # pkg.mod:fn(problem, response, answer, mode) -> float; replaces grading, rewards, caps
    correct_short: float = number(1.0, "[-1e6, 1e6]")  # reward of a right answer in short mode
    correct_between: list[float] = number([], "[-1e6, 1e6]")  # in each mode between, in order; []: evenly between
    correct_think: float = number(0.5, "[-1e6, 1e6]")  # 1 - gamma
    wrong: float = number(-1.0, "[-1e6, 1e6]")  # reward of a wrong answer
    cut_off: float = number(-1.0, "[-1e6, 1e6]")  # of a response that reached its limit
    no_answer: float = number(-1.0, "[-1e6, 1e6]")  # of a response without a final answer
    no_mode: float = number(-1.0, "[-1e6, 1e6]")  # of a response without a control token first
    format_error: float = number(-1.0, "[-1e6, 1e6]")  # of one with a misplaced think token (docs/method.md)
    max_tokens_short: int | None = number(None, "[1, 1e8]")  # a longer short one gets cut_off's reward; null: no cap
    max_tokens_between: list[int] = number([], "[1, 1e8]")  # likewise in each mode between, in order; []: no cap
    max_tokens_think: int | None = number(None, "[1, 1e8]")  # likewise for thinking ones; control token included


@dataclass
class AlgorithmConf:
    """The loss."""

    loss: Loss = Loss.degrpo  # the objective (docs/method.md)
    form: Form = Form.code  # weight of a token
    alpha: float = number(0.001, "[0, 1e6]")  # weight of the control token (DeGRPO)
    length_constant: int | None = number(None, "[1, 1e8]")  # of Dr. GRPO, tokens; null: rollout.max_response_tokens
    clip: float = number(0.2, "[1e-6, 1)")  # the ratio's lower bound is 1 - clip
    clip_high: float | None = number(None, "[1e-6, 1e6]")  # its upper bound is 1 + clip_high; null: clip
    dual_clip: float | None = number(None, "(1, 1e6]")  # bound on the ratio for negative advantages; null: none
    old: Old = Old.learner  # denominator of the ratio
    importance: Importance = Importance.none  # weights for a sampler that differs from the learner, or is stale
    importance_cap: float = number(2.0, "[1e-6, 1e6]")  # bound on these weights
    kl: float = number(0.001, "[0, 1e6]")  # coefficient of the KL estimate to the frozen reference; 0: no reference
    kl_estimator: KLEstimator = KLEstimator.k3  # see learner/loss/surrogate.py
    max_log_ratio: float = number(10.0, "[1e-6, 80]")  # bound on exponents (ratio, importance, KL); exp(89) overflows
    optimizer_steps: int = number(2, "[1, 1e6]")  # optimizer steps per batch of trajectories
    mask_cut_off: bool = False  # leave cut-off responses out of the loss


@dataclass
class LearnerConf:
    """Training by DeepSpeed."""

    ranks: int = number(1, "[1, 1e5]")  # DeepSpeed processes
    sequence_parallel: int = number(1, "[1, 1e5]")  # consecutive ranks that split each micro-batch's tokens (Ulysses)
    device: Device = Device.cpu  # of the ranks
    num_cpus: float = number(0.4, "[0.001, 10000]")  # of each rank, for Ray's placement
    num_gpus: float = number(1.0, "[0, 1024]")  # of each rank, at most 1; device gpu, placement disaggregated
    threads: int = number(1, "[1, 1024]")  # CPU threads of each rank
    lr: float = number(1e-6, "[1e-12, 1)")  # learning rate of AdamW
    schedule: Schedule = Schedule.constant  # of the learning rate
    warmup_steps: int = number(0, "[0, 1e8]")  # optimizer steps of linear increase
    decay_start: float = number(0.0, "[0, 1]")  # share of the schedule at full rate, before a linear or cosine decay
    min_lr_ratio: float = number(0.1, "[0, 1]")  # of lr, at the end of a linear or cosine schedule
    betas: list[float] = number([0.9, 0.999], "[0, 1) x 2")  # AdamW's
    eps: float = number(1e-8, "[1e-16, 0.1]")  # AdamW's
    weight_decay: float = number(0.01, "[0, 10]")  # AdamW's
    max_grad_norm: float = number(1.0, "[0, 1e9]")  # longer gradients are scaled down to it; 0: never
    max_tokens: int = number(8192, "[1, 1e8]")  # micro-batch budget, tokens
    logprob_chunk: int = number(1024, "[1, 1e8]")  # tokens whose logits are in memory at a time
    fused_head: bool = True  # log-probs chunk by chunk, logits recomputed for the gradient; false: all logits at once
    zero_stage: int = number(0, "[0, 3]")  # of DeepSpeed's ZeRO: what is partitioned over the ranks; 0: nothing
    offload_optimizer: bool = False  # optimizer states in host memory
    offload_parameters: bool = False  # weights in host memory; zero_stage 3 only
    offload_reference: bool = False  # the frozen reference in host memory while it does not score
    gradient_checkpointing: bool = False  # less memory, a second forward pass
    flash_attention: FlashAttention = FlashAttention.auto  # on a GPU, in bfloat16
    compile_layers: bool = False  # the model's layers by torch.compile, all but their attention
    fused_adamw: bool | None = None  # one kernel for the optimizer step; null: on a GPU
    overlap_comm: bool | None = None  # reduce beside the backward pass, zero_stage 2 or 3; null: on several GPUs
    weight_sync_bucket_mib: float = number(
        256.0, "[0.001, 1e6]"
    )  # pieces in which weights are gathered, merged and sent
    max_bad_steps: int = number(3, "[1, 1e6]")  # non-finite losses or gradients in a row before the run stops
    start_timeout_s: float = number(600.0, "[0.1, 1e7]")  # for the ranks to load the model and join
    timeout_s: float = number(1800.0, "[0.1, 1e7]")  # of one collective call; a driver's call: twice and 60 s
    max_restarts: int = number(
        0, "[0, 1e6]"
    )  # times that all ranks start again after one died or hung; nothing is lost
    keep_state_every: int = number(
        1, "[1, 1e6]"
    )  # updates between copies of the state for that; later ones are repeated


@dataclass
class WarmupConf(SourceConf):
    """Supervised fine-tuning on paired long and short answers (Thinkless stage 1). It runs if `path` is given, or if
    `steps` is above 0 (pairs of generated arithmetic)."""

    adapter: str | None = None  # pkg.mod:fn, row (dict) -> {problem, think, short} or None to skip
    problem_column: str = "problem"  # text of the problem
    think_column: str = "think"  # text after the think token: reasoning, </think>, answer
    short_column: str = "short"  # text after the short token: concise answer
    answer_column: str = "answer"  # gold answer, where there is one; read only for evaluate_every
    max_tokens: int = number(2048, "[1, 1e8]")  # longer examples are dropped and counted
    steps: int = number(0, "[0, 1e8]")  # optimizer steps; 0: with path one epoch, without path no warm-up
    batch_size: int = number(32, "[1, 1e5]")  # questions per step, each in both modes
    ranks: int | None = number(None, "[1, 1e5]")  # learner ranks of the warm-up; null: learner.ranks
    short_weight: float = number(1.0, "[0, 1e6]")  # weight of a short answer's tokens after the control token
    lr: float | None = number(
        None, "[1e-12, 1)"
    )  # null: 1e-5 for a given model, 3e-3 for random weights (model.path null)
    schedule: Schedule = Schedule.linear  # of the learning rate
    warmup_steps: int = number(30, "[0, 1e8]")  # optimizer steps of linear increase
    min_lr_ratio: float = number(0.1, "[0, 1]")  # of lr, at the end of a linear or cosine schedule
    betas: list[float] = number([0.9, 0.98], "[0, 1) x 2")  # AdamW's
    weight_decay: float = number(0.0, "[0, 10]")  # AdamW's
    max_grad_norm: float = number(1.0, "[0, 1e9]")  # longer gradients are scaled down to it; 0: never
    task: Task = Task.arithmetic  # what is generated
    arithmetic: ArithmeticConf = field(default_factory=ArithmeticConf)
    register: RegisterConf = field(default_factory=RegisterConf)
    evaluate_every: int = number(0, "[0, 1e8]")  # steps between evaluations, the last after the last step; 0: none
    evaluate_questions: int = number(256, "[1, 1e5]")  # of an evaluation, at most
    seed: int = number(0, "[0, 4294967295]")  # of the order of pairs and of random weights
    cache: str | None = text(None, FOLDER)  # folder of finished warm-ups; null: <run.root>/warmup
    save_every_s: float = number(300.0, "[0, 1e9]")  # seconds between checkpoints: what a lost machine costs
    out: str | None = text(None, FOLDER)  # folder that `thinkless warmup` copies the finished model to; null: none


@dataclass
class ClusterConf:
    """Ray, placement and weight transport."""

    address: str | None = text(
        None, ADDRESS
    )  # null: RAY_ADDRESS if set, else a private local cluster; "auto", "host:port"
    object_store_gib: float | None = number(None, "[0.08, 1e5]")  # private cluster's; null: by batch and weights
    port: int | None = number(None, "[1, 65535]")  # of the learner's process group; null: a free one
    network_interface: str | None = None  # of traffic between hosts, e.g. eth0; null: that of Ray's node address
    metrics_port: int | None = number(None, "[1, 65535]")  # private Prometheus, on loopback; null: a free one
    hang_s: float | None = number(120.0, "[1, 1e7]")  # an actor without a sign of progress for so long is killed
    start_timeout_s: float = number(120.0, "[0.1, 1e7]")  # for Ray to start or answer, and for reward actors
    wait_for_resources_s: float = number(300.0, "[0, 1e7]")  # for nodes to join a Ray that is too small; 0: refuse
    placement: Placement = Placement.disaggregated  # of samplers and learner ranks
    transport: Transport = Transport.auto  # of weights
    weight_sync_timeout_s: float = number(600.0, "[0.1, 1e7]")  # ipc, nccl: for the other side; drain: for answers
    colocation_timeout_s: float = number(300.0, "[0.1, 1e7]")  # colocated: to free or take GPUs, not counting restarts


@dataclass
class TrackerConf:
    """Progress output and the report."""

    console: bool = True  # one line per step
    progress: bool = True  # bars on a terminal
    gauges: bool = True  # ray.util.metrics, on Ray's Prometheus endpoint
    report: bool = True  # write report.html at the end
    tensorboard: bool = False  # event files in tensorboard/ of the run folder
    wandb: str | None = None  # project on Weights & Biases (WANDB_MODE=offline: kept in the run folder); null: none
    mlflow: str | None = None  # MLflow's tracking URI, e.g. http://host:5000 or sqlite:////path/mlflow.db; null: none


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
    warmup: WarmupConf | None = None  # null: none (`conf.compose` sets it if none is configured)
    evaluate: EvaluateConf = field(default_factory=EvaluateConf)
    cluster: ClusterConf = field(default_factory=ClusterConf)
    tracker: TrackerConf = field(default_factory=TrackerConf)
    sweep: SweepConf = field(default_factory=SweepConf)
    distill: DistillConf = field(default_factory=DistillConf)
    resume: str | None = text(None, FOLDER)  # run folder, name under run.root, or address of its copies, to resume
