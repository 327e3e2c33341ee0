"""The configuration: experiments have the documented settings, and every mistake is one line with its fix."""

from __future__ import annotations

import ast
import logging
import os
import re
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import asdict, replace
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf

from conf import compose
from conf.check import check
from conf.choices import Figure
from conf.compose import from_file, options, run_command, to_yaml
from conf.errors import BadConfig
from conf.flags import Flags
from conf.schema import (
    Config,
    Device,
    Dtype,
    Form,
    Importance,
    KLEstimator,
    LoraConf,
    Loss,
    ModelConf,
    Old,
    OnWeightSync,
    Placement,
    RandomModelConf,
    Schedule,
    WarmupConf,
)
from conf.settings import all_keys, settings
from orchestrator.cluster.placement import plan
from tests.helpers.composing import composed

EXPERIMENTS = [
    "long",
    "one_gpu",
    "quickstart",
    "thinkless_1p5b",
    "thinkless_1p5b_alphas",
    "thinkless_1p5b_continued",
    "thinkless_1p5b_grpo",
    "thinkless_1p5b_losses",
    "thinkless_1p5b_on_policy",
    "thinkless_1p5b_paper",
    "thinkless_1p5b_stage1",
    "thinkless_7b",
]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Stand in an empty folder, and see that composing a configuration writes nothing there (a multirun: in runs/)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", os.environ.get("HYDRA_FULL_ERROR", "0"))
    yield tmp_path
    assert {path.name for path in tmp_path.iterdir()} <= {"saved.yaml", "runs"}
    assert {path.name for path in tmp_path.glob("runs/*")} <= {"multirun.yaml"}


def rejection(*arguments: str, command: str = "train") -> str:
    with pytest.raises(BadConfig) as rejected:
        composed(*arguments, command=command)
    assert "\n" not in str(rejected.value) and str(rejected.value)
    return str(rejected.value)


def values(conf: Any, prefix: str = "") -> dict[str, Any]:
    """{"rollout.workers": 1, ...}"""
    flat: dict[str, Any] = {}
    for key, value in conf.items():
        flat |= values(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


# ---- presets ----


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_composes_and_passes_its_checks(name: str) -> None:
    (conf,) = composed(f"experiment={name}")
    check(conf, "train")


def test_the_experiments_are_those_listed_here() -> None:
    assert options("experiment") == EXPERIMENTS


def test_thinkless_1p5b_has_the_published_hyper_parameters() -> None:
    """Those of the published re-run, as ../docs and the paper's reference code give them."""
    (conf,) = composed("experiment=thinkless_1p5b")
    rollout, learner, algorithm, reward = conf.rollout, conf.learner, conf.algorithm, conf.reward
    assert rollout.prompts_per_step == 128 and rollout.group_size == 8
    assert rollout.prompts_per_step / algorithm.optimizer_steps == 64  # prompts of one optimizer step
    assert learner.lr == 1e-6 and learner.schedule is Schedule.constant and learner.warmup_steps == 0
    assert learner.weight_decay == 0.01 and learner.max_grad_norm == 1.0
    assert rollout.temperature == 0.6 and rollout.top_p == 1.0
    assert conf.data.max_prompt_tokens == 1024 and rollout.max_response_tokens == 24576
    assert rollout.max_model_len == 25600 and learner.max_tokens >= 25600
    assert algorithm.loss is Loss.degrpo and algorithm.form is Form.code
    assert algorithm.alpha == 0.001 and algorithm.clip == 0.2 and algorithm.kl == 0.001
    assert not algorithm.mask_cut_off
    assert (reward.correct_short, reward.correct_think, reward.wrong) == (1.0, 0.5, -1.0)
    assert (reward.cut_off, reward.no_answer, reward.no_mode) == (-1.0, -1.0, -1.0)
    assert conf.data.path == "agentica-org/DeepScaleR-Preview-Dataset"
    assert conf.validation.path == "HuggingFaceH4/aime_2024"
    assert conf.validation.size == 30 and conf.validation.samples == 8 and conf.evaluate.every == 10
    assert conf.run.steps == 600 and conf.run.max_staleness == 1
    assert algorithm.importance is Importance.truncate and algorithm.old is Old.learner
    assert conf.cluster.placement is Placement.colocated and rollout.on_weight_sync is OnWeightSync.recompute
    assert rollout.workers == learner.ranks == 4 and rollout.tensor_parallel == 1 and learner.zero_stage == 2
    assert plan(conf.cluster.placement, rollout, learner, reward).needs("GPU") == 4
    assert rollout.device is Device.gpu and learner.device is Device.gpu
    assert conf.model.dtype is Dtype.bfloat16 and conf.model.path


def test_thinkless_1p5b_on_policy_differs_in_what_is_requested_ahead_only() -> None:
    (ahead,), (strict,) = composed("experiment=thinkless_1p5b"), composed("experiment=thinkless_1p5b_on_policy")
    algorithm = replace(ahead.algorithm, importance=Importance.none)
    assert strict == replace(ahead, run=replace(ahead.run, max_staleness=0), algorithm=algorithm)


def test_thinkless_1p5b_paper_is_on_policy_and_differs_in_the_form_only() -> None:
    (code,), (paper,) = composed("experiment=thinkless_1p5b_on_policy"), composed("experiment=thinkless_1p5b_paper")
    assert paper.run.max_staleness == 0 and paper.algorithm.importance is Importance.none
    assert paper == replace(code, algorithm=replace(code.algorithm, form=Form.paper))


def test_thinkless_1p5b_stage1_has_the_published_hyper_parameters() -> None:
    """Those of the authors' code for the warm-up, with the paper's row length."""
    (conf,) = composed("experiment=thinkless_1p5b_stage1", command="warmup")
    (stage2,) = composed("experiment=thinkless_1p5b")
    warmup = conf.warmup
    assert warmup is not None and warmup.path == "Vinnnf/Hybrid-OpenThoughts2-1M-1.5B" and warmup.steps == 0
    assert 2 * warmup.batch_size == 128 and warmup.max_tokens == 24576
    assert warmup.schedule is Schedule.cosine and (warmup.lr, warmup.min_lr_ratio) == (1e-5, 0.1)  # 1e-6
    assert warmup.warmup_steps == 0.05 * 17_000 and warmup.betas == [0.9, 0.95] and warmup.weight_decay == 0.1
    assert warmup.max_grad_norm == 1.0 and warmup.short_weight == 1.0
    assert conf.model.path == "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B"
    assert replace(conf, warmup=None, model=stage2.model) == stage2


def test_thinkless_1p5b_continued_differs_in_model_reward_and_steps_only() -> None:
    (first,), (then,) = composed("experiment=thinkless_1p5b"), composed("experiment=thinkless_1p5b_continued")
    assert (then.run.steps, then.reward.correct_think) == (180, 0.8) and then.model.path != first.model.path
    reward = replace(first.reward, correct_think=0.8)
    assert then == replace(first, run=replace(first.run, steps=180), reward=reward, model=then.model)


def test_thinkless_1p5b_grpo_differs_from_the_paper_in_the_loss_only() -> None:
    (degrpo,), (grpo,) = composed("experiment=thinkless_1p5b_paper"), composed("experiment=thinkless_1p5b_grpo")
    assert grpo == replace(degrpo, algorithm=replace(degrpo.algorithm, loss=Loss.grpo))


def test_a_sweep_in_an_experiments_file_is_run_and_may_be_replaced() -> None:
    sweep = ["--multirun", "experiment=thinkless_1p5b_alphas"]
    assert [conf.algorithm.alpha for conf in composed(*sweep)] == [0.0001, 0.001, 0.01]
    assert [conf.algorithm.alpha for conf in composed(*sweep, "algorithm.alpha=0.5,2")] == [0.5, 2]
    losses = composed("--multirun", "experiment=thinkless_1p5b_losses")
    assert losses == [composed(f"experiment=thinkless_1p5b_{name}")[0] for name in ("paper", "grpo")]


def test_thinkless_7b_has_the_hyper_parameters_of_1p5b() -> None:
    (small,), (large,) = composed("experiment=thinkless_1p5b_stage1"), composed("experiment=thinkless_7b")
    assert large.model.path == "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B"
    rollout = replace(small.rollout, workers=2, tensor_parallel=2)
    learner = replace(small.learner, offload_reference=True)
    assert large == replace(small, model=large.model, rollout=rollout, learner=learner)


@pytest.mark.parametrize("name", [name for name in options("layout") if name != "none"])
def test_a_layout_takes_the_gpus_in_its_name_from_any_preset(name: str) -> None:
    (conf,) = composed("experiment=thinkless_1p5b", f"layout={name}")
    assert conf.cluster.placement.value == name.split("_")[0]
    placed = plan(conf.cluster.placement, conf.rollout, conf.learner, conf.reward)
    assert placed.needs("GPU") == int(name.split("_")[1])
    assert conf.rollout.tensor_parallel == (2 if name.endswith("_tp2") else 1)


def test_one_gpu_needs_one_gpu_and_takes_another_model() -> None:
    (conf,) = composed("experiment=one_gpu")
    assert plan(conf.cluster.placement, conf.rollout, conf.learner, conf.reward).needs("GPU") == 1
    assert conf.data.path == "openai/gsm8k"
    (other,) = composed("experiment=one_gpu", "model.path=Qwen/Qwen3-0.6B")
    assert other.model.path == "Qwen/Qwen3-0.6B"


def test_quickstart_needs_two_cpus_and_no_data_set() -> None:
    (conf,) = composed("experiment=quickstart")
    cpus = [
        conf.rollout.workers * conf.rollout.num_cpus,
        conf.learner.ranks * conf.learner.num_cpus,
        conf.reward.workers * conf.reward.num_cpus,
    ]
    assert sum(cpus) <= 2 and conf.cluster.address is None and conf.data.path is None
    assert conf.rollout.device is Device.cpu and conf.learner.device is Device.cpu
    assert conf.algorithm.loss is Loss.degrpo and conf.algorithm.form is Form.code and conf.warmup is not None


@pytest.mark.parametrize(
    ("group", "option"), [(g, o) for g in ("algorithm", "data", "cluster", "layout", "model") for o in options(g)]
)
def test_every_option_of_every_group_composes(group: str, option: str) -> None:
    arguments = [f"{group}={option}"] + ([] if group == "model" else ["model.path=some/model"])
    if group == "model":
        arguments += ["warmup=arithmetic"] if option == "tiny" else ["model.path=some/model"]
    if group == "model" and composed(*arguments, "learner.zero_stage=1")[0].model.dtype is Dtype.bfloat16:
        arguments += ["learner.zero_stage=1"]
    assert len(composed(*arguments)) == 1


# ---- mistakes in keys and values ----


@pytest.mark.parametrize(
    ("argument", "said", "nearest"),
    [
        ("experiment=quikstart", "unknown experiment 'quikstart'", "experiment=quickstart"),
        ("algorithm=degrp", "unknown algorithm 'degrp'", "algorithm=degrpo"),
        ("rollout=tpu", "unknown rollout 'tpu'", "cpu, gpu"),
        ("algoritm=grpo", "'algoritm'", "'algorithm'"),
        ("rollout.wokers=2", "'rollout.wokers'", "'rollout.workers'"),
        ("learner.temperature=1", "'learner.temperature'", "temperature'"),
        ("data.arithmetic.weight=[1]", "'data.arithmetic.weight'", "'data.arithmetic.weights'"),
        ("+rollout.wokers=2", "'rollout.wokers'", "'rollout.workers'"),
        ("+extra=1", "'extra'", "--help"),
        ("+rollout.seed=1", "'rollout.seed'", "seed'"),
        ("rollout.workers=two", "rollout.workers", "'two'"),
        ("rollout.workers=1.5", "rollout.workers", "'1.5'"),
        ("rollout.workers=", "rollout.workers", "''"),
        ("learner.schedule=step", "learner.schedule", "[constant, linear, cosine]"),
        ("algorithm.form=both", "algorithm.form", "[paper, code]"),
        ("algorithm=dr_grop", "unknown algorithm 'dr_grop'", "algorithm=dr_grpo"),
        ("algorithm.importance=tis", "algorithm.importance", "[none, truncate, mask]"),
        ("algorithm.old=behavior", "algorithm.old", "[learner, sampler]"),
        ("algorithm.kl_estimator=k4", "algorithm.kl_estimator", "[k1, k2, k3]"),
        ("algorithm.dual_clip=yes", "algorithm.dual_clip", "'yes'"),
        ("learner.betas=0.9", "learner.betas", "list"),
        ("run.root=[a,b]", "run.root", "str"),
        ("rollout.workers", "'rollout.workers'", "key=value"),
        ("run.seed=1,2", "run.seed=1,2", "--multirun"),
        ("run.name='a", "run.name='a", "quotes"),
        ("run.name=${nothing}", "run.name", "'nothing'"),
        ("--cofnig=x", "--cofnig=x", "--help"),
        ("=3", "", ""),
    ],
)
def test_a_mistyped_override_is_one_line_with_the_nearest_name(argument: str, said: str, nearest: str) -> None:
    message = rejection("experiment=quickstart", argument)
    assert said in message and nearest in message


def test_the_off_policy_combinations_of_the_documentation_compose() -> None:
    """The combinations of the table in docs/method.md, as a person writes them."""
    (plain,) = composed("experiment=quickstart")
    algorithm = plain.algorithm
    assert (algorithm.old, algorithm.importance) == (Old.learner, Importance.none)
    assert (algorithm.clip_high, algorithm.dual_clip, algorithm.length_constant) == (None, None, None)
    assert algorithm.kl_estimator is KLEstimator.k3
    for arguments, old, importance in (
        (["algorithm.old=sampler"], Old.sampler, Importance.none),
        (["algorithm.importance=truncate"], Old.learner, Importance.truncate),
        (["algorithm.importance=mask", "algorithm.importance_cap=5"], Old.learner, Importance.mask),
    ):
        (conf,) = composed("experiment=quickstart", "run.max_staleness=1", *arguments)
        assert (conf.algorithm.old, conf.algorithm.importance) == (old, importance)
    (dr_grpo,) = composed("experiment=quickstart", "algorithm=dr_grpo", "algorithm.kl=0")
    assert dr_grpo.algorithm.loss is Loss.dr_grpo and dr_grpo.algorithm.length_constant is None
    (dapo,) = composed("experiment=quickstart", "algorithm=grpo", "algorithm.form=code", "algorithm.clip_high=0.28")
    assert (dapo.algorithm.clip, dapo.algorithm.clip_high) == (0.2, 0.28)


def test_every_setting_is_in_the_list_of_keys() -> None:
    """The nearest key is looked up in the schema itself: all of it."""
    (conf,) = composed("experiment=quickstart")
    assert set(values(asdict(conf))) <= set(all_keys())


def test_lora_settings_compose() -> None:
    """Off by default; both spellings of targets; over half-precision weights also at ZeRO stage 0."""
    (conf,) = composed("experiment=quickstart")
    assert not conf.model.lora.rank
    (conf,) = composed("experiment=quickstart", "model.lora.rank=8")
    assert conf.model.lora == LoraConf(rank=8, alpha=32.0, dropout=0.0, targets="all-linear")
    arguments = ["model.path=some/model", "model.dtype=bfloat16", "learner.zero_stage=0", "model.lora.rank=8"]
    (conf,) = composed(*arguments, "model.lora.targets=[q_proj,v_proj]")
    assert conf.model.lora.targets == ["q_proj", "v_proj"] and type(conf.model.lora.targets) is list
    assert from_text(to_yaml(conf)) == conf
    assert "'model.lora.rank'" in rejection("experiment=quickstart", "model.lora.ranks=8")


def from_text(text: str) -> Config:
    return compose.typed(OmegaConf.create(text))


# ---- combinations that cannot be ----

# Each is refused in one line that names the key, its range and the value.
OUTSIDE = [
    ("rollout.group_size=1", "in [2, "),
    ("rollout.prompts_per_step=0", "in [1, "),
    ("rollout.workers=-2", "in [1, "),
    ("rollout.temperature=.inf", "in [0.01, 2]"),
    ("rollout.temperature=0.001", "in [0.01, 2]"),
    ("rollout.top_p=1.5", "in (0, 1]"),
    ("rollout.top_p=0", "in (0, 1]"),
    ("rollout.max_num_seqs=-1", "in [1, "),
    ("rollout.max_response_tokens=1", "in [2, "),
    ("rollout.max_tokens_short=1", "in [2, 1e8] or null"),
    ("rollout.gpu_memory_utilization=1.01", "in [0.01, 1]"),
    ("rollout.slowdown=0.5", "in [1, 1e6] or null"),
    ("rollout.dynamic_sampling.rounds=-1", "in [0, "),
    ("rollout.dynamic_sampling.factor=.nan", "in [1, "),
    ("rollout.timeout_s=0", "in [0.1, "),
    ("rollout.start_timeout_s=1e-200", "in [0.1, "),
    ("rollout.num_cpus=-.inf", "in [0.001, "),
    ("reward.wrong=-.inf", "in [-1e6, 1e6]"),
    ("reward.no_mode=.nan", "in [-1e6, 1e6]"),
    ("reward.memory_mib=-5", "in [0, "),
    ("reward.processes=0", "in [1, "),
    ("reward.max_tokens_think=-5", "or null, got -5"),
    ("algorithm.clip=1", "in [1e-6, 1)"),
    ("algorithm.dual_clip=1", "in (1, "),
    ("algorithm.max_log_ratio=100", "in [1e-6, 80]"),
    ("algorithm.length_constant=0", "in [1, 1e8] or null"),
    ("algorithm.optimizer_steps=0", "in [1, "),
    ("algorithm.alpha=-1", "in [0, "),
    ("algorithm.kl=-1", "in [0, "),
    ("learner.lr=1", "in [1e-12, 1)"),
    ("learner.lr=.inf", "in [1e-12, 1)"),
    ("learner.betas=[0.9]", "2 numbers in [0, 1)"),
    ("learner.betas=[0.9,1]", "2 numbers in [0, 1)"),
    ("learner.betas=[0.9,0.99,0.999]", "2 numbers in [0, 1)"),
    ("learner.betas=[.nan,.nan]", "2 numbers in [0, 1)"),
    ("learner.weight_decay=-0.1", "in [0, "),
    ("learner.decay_start=.nan", "in [0, 1]"),
    ("learner.min_lr_ratio=2", "in [0, 1]"),
    ("learner.max_grad_norm=-1", "in [0, "),
    ("learner.zero_stage=4", "in [0, 3]"),
    ("learner.ranks=0", "in [1, "),
    ("learner.max_bad_steps=0", "in [1, "),
    ("warmup.betas=[]", "2 numbers in [0, 1)"),
    ("warmup.batch_size=0", "in [1, "),
    ("warmup.arithmetic.levels=[1,3]", "integers in [2, "),
    ("warmup.lr=0", "in [1e-12, 1)"),
    ("model.lora.rank=-1", "in [0, "),
    ("model.lora.alpha=0", "in [1e-6, "),
    ("model.random.layers=0", "in [1, "),
    ("model.random.init_std=.inf", "in [1e-6, "),
    ("data.num_shards=0", "in [1, "),
    ("data.max_unusable=1.2", "in [0, 1]"),
    ("data.arithmetic.width=5000000", "in [1, 1000]"),
    ("data.arithmetic.weights=[0.5,-0.5,0.5,0.5]", "a list of numbers in [0, "),
    ("data.arithmetic.max_digit=10", "in [1, 9]"),
    ("validation.samples=0", "in [1, "),
    ("validation.size=-1", "in [0, "),
    ("evaluate.samples=0", "in [1, "),
    ("evaluate.questions=20000000", "in [1, "),
    ("evaluate.top_p=-0.5", "in (0, 1]"),
    ("evaluate.max_response_tokens=1", "in [2, "),
    ("run.steps=-1", "in [0, "),
    ("run.seed=-7", "in [0, 4294967295]"),
    ("run.max_staleness=-1", "in [0, "),
    ("run.save_every=-3", "in [0, "),
    ("run.record=[[4]]", "a list of integers in [1, "),
    ("run.record=[0,2]", "a list of integers in [1, "),
    ("run.logprob_check_p999_abs=0", "or null"),
    ("cluster.port=65536", "in [1, 65535] or null"),
    ("cluster.metrics_port=0", "in [1, 65535] or null"),
    ("cluster.object_store_gib=0.01", "in [0.08, "),
    ("cluster.colocation_timeout_s=.inf", "in [0.1, "),
]

REFUSED = [
    ("run.max_staleness=1", "run.max_staleness=1", "algorithm.importance=truncate"),
    ("run.keep_every=30 run.save_every=20", "run.keep_every=30", "a multiple of run.save_every=20"),
    ("run.keep_every=30 run.save_every=0", "run.keep_every=30", "a multiple of run.save_every=0"),
    ("rollout.max_tokens_think=129", "rollout.max_tokens_think", "rollout.max_response_tokens=128"),
    ("model.modes=[think,short]", "model.modes=['think', 'short']", "must begin with short, end with think"),
    ("model.modes=[short,all,think]", "'all' cannot be a mode's name", "free"),
    ("model.modes=[short,a,a,think]", "'a' cannot be a mode's name", "each name once"),
    ("reward.correct_between=[0.7]", "reward.correct_between=[0.7]", "there is no such mode (model.modes)"),
    ("model.modes=[short,low,think] reward.max_tokens_between=[5,6]", "reward.max_tokens_between=[5, 6]", "low"),
    ("model.modes=[short,low,think] rollout.max_tokens_between=[129]", "rollout.max_tokens_between", "=128"),
    ("rollout.prompts_per_step=1", "algorithm.optimizer_steps=2", "rollout.prompts_per_step"),
    ("rollout.max_response_tokens=4000", "rollout.max_model_len=2048", "= 5280"),
    ("learner.max_tokens=1000", "learner.max_tokens=1000", "1408"),
    ("evaluate.max_response_tokens=2000", "evaluate.max_response_tokens=2000", "2048"),
    ("evaluate.thinking_budget=126", "evaluate.thinking_budget=126", "rollout.max_response_tokens=128"),
    ("model.dtype=bfloat16", "learner.zero_stage=0", "bfloat16"),
    ("model.head_dtype=bfloat16", "model.head_dtype=bfloat16", "model.dtype=bfloat16"),
    ("learner.offload_parameters=true", "learner.offload_parameters", "zero_stage=3"),
    ("learner.offload_optimizer=true", "learner.offload_optimizer", "got 0"),
    ("learner.overlap_comm=true learner.zero_stage=1", "learner.overlap_comm", "zero_stage 2 or 3, got 1"),
    ("learner.flash_attention=fa3", "learner.flash_attention=fa3", "got cpu and float32"),
    ("learner.compile_layers=true learner.zero_stage=3", "learner.compile_layers", "learner.zero_stage=3"),
    ("rollout.async_scheduling=true", "rollout.async_scheduling", "got cpu"),
    ("model.lora.rank=8 model.lora.dropout=0.1", "model.lora.dropout", "got 0.1"),
    ("model.lora.rank=8 model.lora.targets=[]", "model.lora.targets", "all-linear"),
    ("model.lora.rank=8 model.lora.targets=q_proj", "model.lora.targets", "[q_proj,v_proj], got q_proj"),
    ("model.lora.rank=8 model.lora.targets=[3]", "model.lora.targets", "got [3]"),
    ("model.lora.rank=8 model.dtype=bfloat16", "learner.zero_stage=0", "bfloat16"),
    ("algorithm.clip_high=0.1", "algorithm.clip_high", "at least algorithm.clip=0.2, got 0.1"),
    ("algorithm.length_constant=512", "algorithm.length_constant", "algorithm.loss=dr_grpo"),
    ("algorithm.importance=truncate algorithm.old=sampler", "algorithm.importance=truncate", "algorithm.old=learner"),
    ("rollout.device=gpu rollout.num_gpus=0", "rollout.num_gpus", "above 0"),
    ("learner.device=gpu learner.num_gpus=0", "learner.num_gpus", "above 0"),
    ("cluster.transport=nccl", "cluster.transport=nccl", "object_store"),
    ("cluster.transport=ipc rollout.device=gpu", "learner.device=cpu", "object_store"),
    (
        "cluster.transport=ipc rollout.device=gpu learner.device=gpu learner.ranks=2",
        "rollout.workers=1",
        "learner.ranks=2",
    ),
    ("rollout.device=gpu rollout.num_gpus=2", "got 2", "rollout.tensor_parallel=<GPUs>"),
    ("rollout.device=gpu rollout.num_gpus=0.5 rollout.tensor_parallel=2", "rollout.num_gpus", "0.5 with 2"),
    ("warmup.ranks=3 learner.ranks=2 learner.sequence_parallel=2", "warmup.ranks=3", "multiple"),
    ("warmup.evaluate_every=9 warmup.ranks=2 cluster.placement=colocated", "warmup.evaluate_every=9", "null (learner"),
    ("learner.device=gpu learner.num_gpus=0.5 learner.ranks=2", "learner.num_gpus", "a GPU for each rank"),
    ("cluster.placement=colocated learner.ranks=2", "rollout.workers=1", "learner.ranks=2"),
    ("cluster.placement=colocated learner.device=gpu", "rollout.device=cpu", "learner.device=gpu"),
    (
        "cluster.placement=colocated run.max_staleness=1 algorithm.importance=truncate",
        "cluster.placement=colocated with run.max_staleness=1",
        "rollout.on_weight_sync must be recompute, got keep",
    ),
    (
        "cluster.placement=colocated run.max_staleness=2 algorithm.old=sampler rollout.on_weight_sync=drain",
        "run.max_staleness=2 interrupts answers",
        "must be recompute, got drain",
    ),
    ("cluster.placement=colocated rollout.num_gpus=0.5", "rollout.num_gpus", "at 1"),
    ("warmup=null", "nothing to train", "model.path"),
    ("model.random=null", "nothing to train", "model.path"),
    ("model.random.hidden_size=30", "model.random.hidden_size=30", "twice model.random.heads=2"),
    ("model.random.heads=8 model.random.kv_heads=3", "model.random.heads=8", "model.random.kv_heads=3"),
    ("data.shard=2 data.num_shards=2", "data.shard=2", "data.num_shards=2"),
    ("data.arithmetic.levels=[2,2,3,4]", "data.arithmetic.levels=[2, 2, 3, 4]", "must be different"),
    ("data.arithmetic.weights=[0,0,0,0]", "data.arithmetic.weights", "must not all be 0"),
    ("warmup.arithmetic.levels=[2,3,7,20]", "warmup.arithmetic.width=15", "at least 39 to hold level 20"),
    ("rollout.max_num_seqs=100000", "rollout.max_num_seqs=100000", "rollout.max_num_batched_tokens=65536"),
    ("warmup.steps=0", "warmup.steps", "got 0"),
    ("warmup.max_tokens=9000", "warmup.max_tokens=9000", "learner.max_tokens=8192"),
]


@pytest.fixture(scope="module")
def quickstart() -> Config:
    """With one sampler beside its one learner rank."""
    return composed("experiment=quickstart", "rollout.workers=1")[0]


def changed(conf: Config, *overrides: str) -> Config:
    """A copy with overrides, without Hydra: composing takes a third of a second."""
    copy = deepcopy(conf)
    for override in overrides:
        key, _, text = override.partition("=")
        *sections, name = key.split(".")
        section: Any = copy
        for inner in sections:
            section = getattr(section, inner)
        old, value = getattr(section, name), yaml.safe_load(text)
        setattr(section, name, type(old)(value) if isinstance(old, Enum) else value)
    return copy


@pytest.mark.parametrize(("arguments", "said", "why"), REFUSED, ids=[arguments for arguments, *_ in REFUSED])
def test_impossible_combinations_are_rejected(quickstart: Config, arguments: str, said: str, why: str) -> None:
    with pytest.raises(BadConfig) as rejected:
        check(changed(quickstart, *arguments.split()), "train")
    message = str(rejected.value)
    assert said in message and why in message and "\n" not in message


@pytest.mark.parametrize(
    ("every", "validate", "size", "said"),
    [
        (20, 0, 128, "evaluate.every=0"),
        (20, 5, 0, "validation.size=0"),
        (12, 5, 128, "run.save_every=12 must be a multiple of evaluate.every=5"),
        (0, 5, 128, "run.save_every=0 must be a multiple of evaluate.every=5"),
    ],
)
def test_the_best_checkpoint_needs_a_validation_at_each(
    quickstart: Config, every: int, validate: int, size: int, said: str
) -> None:
    conf = changed(quickstart, f"run.save_every={every}", f"evaluate.every={validate}", f"validation.size={size}")
    check(conf, "train")
    conf.run.keep_best = Figure.tokens
    with pytest.raises(BadConfig) as rejected:
        check(conf, "train")
    assert str(rejected.value).startswith("run.keep_best=tokens ") and said in str(rejected.value)
    check(changed(conf, "run.save_every=20", "evaluate.every=5", "validation.size=128"), "train")


@pytest.mark.parametrize(("argument", "said"), OUTSIDE, ids=[argument for argument, _ in OUTSIDE])
def test_a_number_outside_its_range_is_rejected(quickstart: Config, argument: str, said: str) -> None:
    key, _, text = argument.partition("=")
    with pytest.raises(BadConfig) as rejected:
        check(changed(quickstart, argument), "train")
    assert str(rejected.value).startswith(f"{key} must be ") and "\n" not in str(rejected.value)
    assert said in str(rejected.value) and str(rejected.value).endswith(f", got {yaml.safe_load(text)}")


@pytest.mark.parametrize("address", ["/tmp/there", "s3://me:mine@bucket/runs", "s3://bucket/runs?key=mine", "s3://"])
def test_an_address_of_checkpoints_has_no_credentials(quickstart: Config, address: str) -> None:
    check(changed(quickstart, "run.checkpoints=s3://bucket/runs"), "train")
    with pytest.raises(
        BadConfig, match=r"run\.checkpoints must be .*s3://bucket/runs, without user, password or query"
    ):
        check(changed(quickstart, f"run.checkpoints={address}"), "train")


def test_every_numeric_setting_has_a_range() -> None:
    """And every range belongs to a setting whose default lies within it."""
    for key, setting in settings().items():
        assert (setting.range is not None) == (setting.kind in (int, float)), key
        if setting.range is not None and setting.default is not None:
            setting.refuse_outside(setting.default)


@pytest.mark.parametrize("key", [key for key, setting in settings().items() if setting.range is not None])
def test_numeric_settings_reject_infinities_nan_and_other_types(key: str) -> None:
    """Bounds belong to a range or not, and nothing infinite, undefined or of another type does."""
    setting, bounds = settings()[key], settings()[key].range
    assert bounds is not None
    wrong: list[Any] = [float("nan"), float("inf"), float("-inf"), True, "1", [[1]], 10**400, -(10**400)]
    wrong += [] if bounds.with_low else [bounds.low]
    wrong += [] if bounds.with_high else [bounds.high]
    wrong += [] if setting.optional else [None]
    for value in wrong:
        with pytest.raises(BadConfig, match=re.escape(key)):
            setting.refuse_outside([value] * (bounds.count or 1) if setting.many else value)
    right = [*([bounds.low] if bounds.with_low else []), *([bounds.high] if bounds.with_high else [])]
    for value in [*right, *([None] if setting.optional else [])]:
        setting.refuse_outside([value] * (bounds.count or 1) if setting.many else value)


@pytest.mark.parametrize("key", [key for key, one in settings().items() if one.kind is str and not one.many])
def test_text_settings_reject_empty_text(quickstart: Config, key: str) -> None:
    with pytest.raises(BadConfig, match=f"^{re.escape(key)} must not be empty"):
        check(changed(quickstart, f"{key}=''"), "train")


def test_top_p_below_1_is_rejected_for_training(quickstart: Config) -> None:
    with pytest.raises(BadConfig, match=r"rollout\.top_p must be 1 in training, got 0\.9: .*cut-off distribution"):
        check(changed(quickstart, "rollout.top_p=0.9"), "train")
    check(changed(quickstart, "rollout.top_p=0.9"), "evaluate")
    check(changed(quickstart, "evaluate.top_p=0.9"), "train")


def test_ranges_are_checked_in_overrides_and_in_saved_configurations(elsewhere: Path) -> None:
    """In overrides, and in a saved run's configuration."""
    said = "rollout.group_size must be in [2, 1e5], got 1"
    assert said in rejection("experiment=quickstart", "rollout.group_size=1")
    assert "run.record" in rejection("experiment=quickstart", "run.record=[[1]]")
    assert "cluster.port" in rejection("experiment=quickstart", f"cluster.port={10**21}")


def test_warmup_needs_pairs_and_a_model() -> None:
    assert "warmup.path" in rejection("model.path=some/model", command="warmup")
    with pytest.raises(BadConfig, match=r"model\.path"):
        check(Config(warmup=WarmupConf(path="pairs.jsonl")), "warmup")
    check(Config(model=ModelConf(random=RandomModelConf()), warmup=WarmupConf(steps=1)), "warmup")


@pytest.mark.parametrize("chosen", [[], *([f"experiment={name}"] for name in EXPERIMENTS)])
@pytest.mark.parametrize("command", ["train", "warmup"])
def test_the_users_pairs_need_their_path_only(chosen: list[str], command: str) -> None:
    (conf,) = composed(*chosen, "model.path=my/model", "warmup.path=pairs.jsonl", command=command)
    assert conf.warmup is not None and conf.warmup.path == "pairs.jsonl" and conf.warmup.adapter is None


def test_a_warm_up_takes_place_where_there_are_pairs_for_it() -> None:
    assert composed("experiment=thinkless_1p5b")[0].warmup is None
    assert composed("experiment=quickstart", "warmup=none", "model.path=my/model")[0].warmup is None
    generated = composed("model=tiny", "warmup.steps=10")[0].warmup
    assert generated is not None and (generated.path, generated.steps) == (None, 10)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["experiment=thinkless_1p5b", "warmup.lr=0.5"], "warmup.lr=0.5"),
        (["experiment=thinkless_1p5b", "+warmup.lr=7"], "warmup.lr=7"),
        (["experiment=quickstart", "warmup=none", "model.path=my/model", "warmup.seed=3"], "warmup.seed=3"),
    ],
)
def test_settings_of_a_warm_up_that_does_not_take_place_are_rejected(arguments: list[str], named: str) -> None:
    said = rejection(*arguments)
    assert named in said and "warmup.path=<pairs>" in said and "\n" not in said


def test_a_saved_run_without_a_warm_up_reads_back_without_one(tmp_path: Path) -> None:
    path = tmp_path / "saved.yaml"
    path.write_text(to_yaml(Config(model=ModelConf(path="my/model"))))
    assert "warmup: null" in path.read_text() and from_file(path, []).warmup is None
    given = from_file(path, ["warmup.path=pairs.jsonl"]).warmup
    assert given is not None and given.path == "pairs.jsonl"
    with pytest.raises(BadConfig, match=r"warmup.lr=1.0 without a warm-up"):
        from_file(path, ["warmup.lr=1"])


def test_every_cross_field_check_has_a_case() -> None:
    """A new cross-field check wants a line in REFUSED: as many messages there as `_require` can give."""
    tree = ast.parse(Path(compose.FOLDER, "check.py").read_text())
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
    needs = sum(call.func.id == "_require" for call in calls if isinstance(call.func, ast.Name))
    tested = len(REFUSED) - 1 + 3  # "nothing to train" stands there twice; three are tested above
    assert needs <= tested


# ---- flags ----


@pytest.mark.parametrize(
    "arguments",
    [
        ["--multirun", "experiment=quickstart", "run.seed=3,4"],
        ["experiment=quickstart", "run.seed=3,4", "--multirun"],
        ["experiment=quickstart", "-m", "run.seed=3,4"],
    ],
)
def test_the_multirun_flag_may_stand_anywhere(arguments: list[str]) -> None:
    assert [conf.run.seed for conf in composed(*arguments)] == [3, 4]


def test_a_multirun_ends_with_its_first_failing_run() -> None:
    begun: list[int] = []

    def body(conf: Config) -> None:
        begun.append(conf.run.seed)
        if conf.run.seed == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_command("train", body, ["experiment=quickstart", "run.seed=3,4,5"], Flags(multirun=True))
    assert begun == [3, 4]


def test_the_configuration_is_printed_instead_of_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert composed("experiment=quickstart", "--cfg", "job", "run.seed=17") == []
    printed = capsys.readouterr().out
    assert re.search(r"^run:\n(  .*\n)*  seed: 17\n", printed, re.M) and "${" not in printed.replace("${run.seed}", "")


def test_one_section_of_the_configuration_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert composed("experiment=quickstart", "--cfg", "job", "-p", "evaluate") == []
    assert capsys.readouterr().out.startswith("# @package evaluate\nevery: 10\n")
    assert (
        composed("experiment=quickstart", "--cfg", "job", "-p", "warmup", "--resolve", "warmup.seed=${run.seed}") == []
    )
    assert "\nseed: 0\n" in capsys.readouterr().out


def test_info_shows_how_the_configuration_is_composed(capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    before = root.level, [*root.handlers]
    try:
        assert composed("experiment=quickstart", "--info", "defaults-tree") == []
        assert "algorithm: degrpo" in capsys.readouterr().out
    finally:  # Hydra has it write all there is to say to this test's stdout
        root.setLevel(before[0])
        root.handlers[:] = before[1]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--cfg everything", "'everything' (choose from 'job', 'hydra', 'all')"),
        ("--cfg", "expected one argument"),
        ("--multirun --cfg job", "exclude each other"),
        ("--resolve", "--cfg"),
        ("--config-dir nowhere", "--config-dir nowhere: no such folder"),
        ("--config-path nowhere", "--config-path nowhere: no such folder"),
        ("--config-name nothing", "'nothing'"),
        ("--mult", "--mult"),
        ("-m hydra/sweeper=grid", "unknown hydra/sweeper 'grid'"),
    ],
)
def test_mistakes_in_flags_are_one_line(arguments: str, said: str) -> None:
    assert said in rejection("experiment=quickstart", *arguments.split())


def test_a_multiruns_swept_settings_are_recorded(elsewhere: Path) -> None:
    assert len(composed("experiment=quickstart", "-m", "run.seed=3,4", "learner.lr=1e-4,1e-5")) == 4
    noted = yaml.safe_load((elsewhere / "runs" / "multirun.yaml").read_text())["hydra"]["overrides"]["task"]
    assert {"run.seed=3,4", "learner.lr=1e-4,1e-5"} <= set(noted)


# ---- the user's YAML files ----


@pytest.fixture
def own_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder, whose path wants quotes, with an experiment built on one of ours and a configuration of its own."""
    folder = tmp_path_factory.mktemp("own") / "it's mine, a=b"
    (folder / "experiment").mkdir(parents=True)
    head = "# @package _global_\ndefaults:\n  - quickstart\n"
    (folder / "experiment" / "mine.yaml").write_text(f"{head}rollout:\n  group_size: 5\n")
    (folder / "experiment" / "several.yaml").write_text(
        f"{head}hydra:\n  mode: MULTIRUN\n  sweeper:\n    params:\n      run.seed: 7,8\n"
    )
    (folder / "whole.yaml").write_text("defaults:\n  - schema\n  - _self_\nmodel:\n  path: some/model\n")
    return folder


def test_an_experiment_in_the_users_folder_is_found(own_files: Path) -> None:
    (ours,), (mine,) = (
        composed("experiment=quickstart"),
        composed("--config-dir", str(own_files), "experiment=mine", "run.steps=9"),
    )
    assert mine == replace(ours, rollout=replace(ours.rollout, group_size=5), run=replace(ours.run, steps=9))
    assert len(composed("-cd", str(own_files), "experiment=mine", "run.seed=1,2", "-m")) == 2


def test_a_sweep_in_the_users_file_runs_every_combination(own_files: Path) -> None:
    """hydra.mode and the sweeper's settings count without --multirun, as in other programs of Hydra's."""
    members = composed("--config-dir", str(own_files), "experiment=several", "run.name=seeds")
    assert [(conf.run.seed, conf.run.name) for conf in members] == [(7, "seeds-0"), (8, "seeds-1")]


@pytest.mark.parametrize("flag", ["--config-dir", "--config-path"])
def test_a_configuration_in_the_users_folder_is_found(own_files: Path, flag: str) -> None:
    quiet = ["hydra.output_subdir=null", "hydra.run.dir=.", "hydra/job_logging=none", "hydra/hydra_logging=none"]
    (conf,) = composed(flag, str(own_files), "--config-name", "whole", *quiet)
    assert conf.model.path == "some/model" and conf.rollout.group_size == Config().rollout.group_size


# ---- a saved run's configuration ----


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_saved_configuration_reads_back_equal(name: str, elsewhere: Path) -> None:
    (conf,) = composed(f"experiment={name}", "run.name=saved", "data.arithmetic.levels=[2,3,7,5]")
    (elsewhere / "saved.yaml").write_text(to_yaml(conf))
    assert from_file(elsewhere / "saved.yaml", []) == conf


def test_overrides_apply_to_a_saved_run(elsewhere: Path) -> None:
    (conf,) = composed("experiment=quickstart")
    saved = elsewhere / "saved.yaml"
    saved.write_text(to_yaml(conf))
    found = from_file(saved, ["run.steps=99", "learner.lr=1e-5", "evaluate.final=false", "learner.betas=[0.8,0.9]"])
    assert (found.run.steps, found.learner.lr, found.evaluate.final) == (99, 1e-5, False)
    assert found.learner.betas == [0.8, 0.9] and found.warmup == conf.warmup and found.data == conf.data
    for override, said in [
        ("run.stesp=3", "'run.steps'"),
        ("+run.steps=3", "key=value"),
        ("~run.steps", "key=value"),
        ("run.steps", "key=value"),
        ("run.steps=x", "run.steps"),
        ("algorithm=grpo", "algorithm"),
        ("--multirun", "key=value"),
        ("experiment=one_gpu", "experiment"),
    ]:
        with pytest.raises(BadConfig) as rejected:
            from_file(saved, [override])
        assert said in str(rejected.value) and "\n" not in str(rejected.value)
