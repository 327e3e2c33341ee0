"""The planner: memory and seconds by formula, placements, corrections by a run's metrics, and what it refuses.

Memory is compared with a real vLLM engine's in tests/rollout/test_engine.py, with MemTracker in
tests/learner/test_memory_plan.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conf.check import check
from conf.choices import Dtype, Placement
from conf.compose import composed, from_file, to_yaml
from conf.groups import options
from conf.schema import Config, ModelConf, RolloutConf
from learner.data.flops import Shape
from orchestrator.commands.cli import main
from orchestrator.plan import correction, hardware
from orchestrator.plan.estimate import Plan, as_json, on_gpus, plan
from orchestrator.plan.formulas import Assumptions, Recipe, costs, engine_costs, learner_seconds
from orchestrator.plan.hardware import GIB, GPUS
from orchestrator.plan.layouts import Layout, layouts
from orchestrator.plan.lengths import Lengths
from orchestrator.plan.memory import memory
from orchestrator.plan.model_shape import KNOWN, ModelShape, model_shape
from orchestrator.plan.pipeline import simulate
from orchestrator.plan.stages import Stage, stages
from rollout.base.errors import BadInput

R1 = ModelShape.of("R1", "", KNOWN["deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B"], Dtype.bfloat16)
SEVEN = {
    "model_type": "qwen2", "hidden_size": 3584, "num_hidden_layers": 28, "num_attention_heads": 28,
    "num_key_value_heads": 4, "intermediate_size": 18944, "vocab_size": 152064, "tie_word_embeddings": False,
    "max_position_embeddings": 131072,
}  # fmt: skip


@pytest.fixture(scope="module")
def preset() -> Config:
    return composed(["experiment=thinkless_1p5b"])


@pytest.fixture
def called(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """`thinkless plan` in this process: (exit code, standard output, the last line of standard error)."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(["plan", *arguments])
        seen = capsys.readouterr()
        return int(ended.value.code or 0), seen.out, (seen.err.splitlines() or [""])[-1]

    return call


# ---------------------------------------------------------------- the model


def test_shape_of_a_model_needs_nothing_but_its_config(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(SEVEN))
    found = model_shape(ModelConf(path=str(tmp_path), dtype=Dtype.bfloat16))
    assert found.parameters == 7_615_616_512 and found.kv_bytes == 57_344
    assert found.read_bytes == found.weight_bytes - 2 * 152_064 * 3584
    tied = ModelShape.of("m", "", KNOWN["Qwen/Qwen2.5-0.5B-Instruct"], Dtype.bfloat16)
    assert tied.parameters == 494_032_768 and tied.read_bytes == tied.weight_bytes


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (None, "the folder has no config.json"),
        ("{", "its config.json cannot be read"),
        ({**SEVEN, "hidden_size": None}, "its config.json has no hidden_size, which a plan is computed from"),
        ({**SEVEN, "num_experts": 8}, "only known of plain gated decoders"),
    ],
)
def test_a_config_without_what_is_needed_is_one_line(
    config: Any, words: str, tmp_path: Path, called: Callable[..., Any]
) -> None:
    (folder := tmp_path / "model").mkdir()
    if config is not None:
        (folder / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    code, out, line = called("experiment=thinkless_1p5b", f"model.path={folder}")
    assert code == 1 and not out and words in line and f"model.path={folder}" in line


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["gpu=h10"], "gpu=h10: did you mean gpu=h100? there are b200, h200"),
        (["gpus=many"], "gpus=many must be a whole number from 1 to 8192"),
        (["gpus=0"], "gpus=0 must be a whole number"),
        (["pairs=0"], "pairs=0 must be a whole number from 1 to"),
        (["price=free"], "price=free must be a number from 0"),
        (["think_rate=1.5"], "think_rate=1.5 must be a number from 0 to 1"),
        (["gpus=3", "rollout.tensor_parallel=2", "learner.sequence_parallel=2"], "no placement of them is possible"),
        (["run=nowhere"], "no run 'nowhere'"),
        (["learner.device=cpu"], "rollout.device=gpu and learner.device=cpu: a plan is of one kind for both"),
        (["model.path=some-lab/not-fetched"], "neither a folder nor a model in the hub's cache"),
        (["rollout.wrokers=2"], "unknown key 'rollout.wrokers'"),
        (["rollout.top_p=0.9"], "rollout.top_p must be 1 in training"),
    ],
)
def test_bad_input_is_one_line(arguments: list[str], words: str, called: Callable[..., Any]) -> None:
    preset = [] if "run=nowhere" in arguments else ["experiment=thinkless_1p5b"]
    code, out, line = called(*preset, *arguments)
    assert code == 1 and not out and line.startswith("thinkless: ") and words in line


# ---------------------------------------------------------------- presets


@pytest.mark.parametrize(
    "chosen",
    [
        *([f"experiment={name}"] for name in options("experiment")),
        *(["experiment=thinkless_1p5b", f"layout={name}"] for name in options("layout")),
        ["experiment=thinkless_7b", "layout=colocated_4"],
        ["experiment=thinkless_7b", "layout=colocated_8"],
        ["experiment=thinkless_7b", "layout=colocated_8_tp2"],
        ["experiment=thinkless_7b", "layout=disaggregated_8"],
    ],
    ids=" ".join,
)
def test_a_preset_fits_its_gpus(chosen: list[str]) -> None:
    """As `thinkless plan` judges it: what is sampled at a time decides on a note only, not on whether it fits."""
    conf = composed(chosen)
    check(conf)
    smallest = "rtx4090" if chosen == ["experiment=one_gpu"] else "h100"  # of those that their files name
    gpu = GPUS[smallest] if on_gpus(conf) else hardware.CPU
    found = memory(conf, model_shape(conf.model), gpu, context=0)
    assert found.fits and found.gpus, found.findings


def test_thinkless_7b_does_not_fit_without_its_layout() -> None:
    conf = composed(["experiment=thinkless_7b", "layout=disaggregated_4"])
    (finding,) = memory(conf, model_shape(conf.model), GPUS["h100"], context=0).findings
    assert "learning takes 156.8 GB of 85.5" in finding


# ---------------------------------------------------------------- stages before the run, and disk


def before(*arguments: str, pairs: int | None = None, gpu: str = "h100") -> tuple[Stage, ...]:
    conf = composed(["experiment=thinkless_1p5b", *arguments])
    ranks = conf.learner.ranks
    return stages(conf, R1, GPUS[gpu], ranks, Lengths.of(conf), Assumptions(), pairs)


def test_a_warmup_takes_the_flops_of_its_tokens() -> None:
    (stage,) = before("warmup=openthoughts", pairs=64_000)
    assert stage.what.startswith("1,000 steps of 64") and stage.gpus == 4
    dense = 8 * R1.parameters * stage.tokens / (4 * 0.4 * GPUS["h100"].flops)  # 3 passes and one of checkpointing
    assert dense < stage.seconds < 1.6 * dense  # attention over thousands of tokens comes on top
    (twice,) = before("warmup=openthoughts", pairs=128_000)
    assert twice.seconds == pytest.approx(2 * stage.seconds) and twice.tokens == pytest.approx(2 * stage.tokens)
    (single,) = before("warmup=openthoughts", "warmup.ranks=1", pairs=64_000)
    assert 3.9 < single.seconds / stage.seconds < 4.1 and single.gpus == 1


def test_no_row_of_a_warmup_is_longer_than_its_limit() -> None:
    (cut,) = before("warmup=openthoughts", "warmup.max_tokens=1000", pairs=64)
    (whole,) = before("warmup=openthoughts", pairs=64)
    assert cut.tokens <= 2 * 64 * 1000 < whole.tokens


def test_a_teacher_takes_its_engines_steps_and_says_where_it_does_not_fit() -> None:
    small = ["distill.short.model=Qwen/Qwen2.5-Math-1.5B-Instruct", "distill.short.max_tokens=3072"]
    (one,) = before(*small, "distill.problems=40000")
    (twice,) = before(*small, "distill.problems=80000")
    (halved,) = before(*small, "distill.problems=40000", "distill.short.workers=2")
    assert twice.tokens == pytest.approx(2 * one.tokens, rel=0.02)
    assert 1.6 < twice.seconds / one.seconds < 2.05 and 1.6 < halved.seconds / one.seconds < 2.05
    # no faster than its weights can be read for as many sequences at a time as may run
    fastest = GPUS["h100"].bandwidth / one.model.read_bytes * composed([]).rollout.max_num_seqs * 4
    assert one.tokens / one.seconds < fastest
    large = ["distill.think.model=deepseek-ai/DeepSeek-R1-Distill-Qwen-32B", "distill.problems=1000"]
    (refused,) = before(*large, gpu="a100-40gb")
    assert "give distill.think.tensor_parallel=2" in refused.findings[0]
    (fits,) = before(*large, "distill.think.tensor_parallel=4", "distill.think.workers=1")
    assert not fits.findings and fits.gpus == 4


def test_the_stages_and_the_disk_are_printed(called: Callable[..., Any], tmp_path: Path) -> None:
    code, out, _ = called("experiment=thinkless_1p5b_stage1", "distill.think.model=Qwen/Qwen2.5-0.5B-Instruct")
    lines = out.splitlines()
    at = lines.index("before the run:")
    assert code == 0 and lines[at + 1].startswith("  distillation, distill.think (Qwen2.5-0.5B-Instruct): 40,315 ")
    assert any(line.startswith("  warm-up: 17,000 steps of 64 ") for line in lines[at:])
    assert "the warm-up's checkpoints 42.7" in out and "models from the hub 4.54" in " ".join(out.split())


def test_a_warmups_questions_are_counted_in_its_file_or_asked_for(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="is not known here: give pairs=<number>"):
        before("warmup.path=owner/unknown", "warmup.revision=main")
    rows = [{"problem": f"{i}?", "think": f"a</think>{i}", "short": str(i)} for i in range(130)]
    (tmp_path / "own.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (stage,) = before(f"warmup.path={tmp_path / 'own.jsonl'}", "warmup.batch_size=64")
    assert stage.what.startswith("3 steps of 64 ")


# ---------------------------------------------------------------- seconds


def test_a_decoding_step_is_bound_by_bandwidth_then_by_flops(preset: Config) -> None:
    gpu, given = GPUS["h100"], Assumptions(host_step_s=0.0, host_sequence_s=0.0)
    recipe = replace(Recipe.of(preset), max_num_seqs=4096)
    found = engine_costs(R1, gpu, recipe, given)
    assert found.step_s[1] == pytest.approx(R1.read_bytes / (0.7 * 3.35e12))
    assert found.step_s[1] == found.step_s[64]
    assert found.step_s[4096] == pytest.approx(2 * R1.parameters * 4096 / (0.6 * 989e12))
    assert found.context_s == pytest.approx(28_672 / (0.7 * 3.35e12))
    halves = engine_costs(R1, gpu, replace(recipe, tensor_parallel=2), given)
    assert found.step_s[1] / 2 < halves.step_s[1] < found.step_s[1]  # two all-reduces a layer
    assert halves.prefill_s == found.prefill_s / 2


def test_an_update_takes_the_flops_of_its_passes(preset: Config) -> None:
    recipe = Recipe.of(preset)
    assert recipe.passes == 3 + 1 + 1 + 0.5  # checkpointing, the KL's reference, old log-probs of the second half
    batch = next(Lengths().batches(16, 8, 0))
    prompts, responses = batch.sequences()
    flops = sum(R1.shape.cost(int(p + r), int(r)) for p, r in zip(prompts, responses, strict=True))
    one = learner_seconds(R1, GPUS["h100"], recipe, 1, Assumptions())
    assert one(batch) == pytest.approx(5.5 * flops / (0.4 * 989e12))
    longest = replace(batch, lengths=np.where(np.arange(128).reshape(16, 8) == 0, 24_000, 2))
    many = learner_seconds(R1, GPUS["h100"], recipe, 64, Assumptions())  # 63 ranks wait for the one with the longest
    alone = 5.5 * R1.shape.cost(24_150, 24_000) / (0.4 * 989e12)
    assert alone < many(longest) < 1.5 * alone


def test_fewer_passes_without_reference_and_checkpointing(preset: Config) -> None:
    lean = replace(
        preset,
        algorithm=replace(preset.algorithm, kl=0.0, optimizer_steps=1),
        learner=replace(preset.learner, gradient_checkpointing=False),
    )
    assert Recipe.of(lean).passes == 3


def test_only_colocated_gpus_are_handed_over_and_a_push_between_hosts_is_slower(preset: Config) -> None:
    recipe = Recipe.of(preset)
    shared = costs(R1, GPUS["h100"], recipe, 4, 4, 4)
    apart = costs(R1, GPUS["h100"], recipe, 4, 4)
    assert apart.to_learner_s == apart.to_push_s == 0 < shared.to_push_s < shared.to_learner_s
    nccl = replace(recipe, transport=Recipe.of(Layout(3, 1, 0, 1).applied(preset)).transport)
    near, far = (costs(R1, GPUS["h100"], nccl, n, n).engine.load_s for n in (4, 16))
    assert near == pytest.approx(0.4 + R1.weight_bytes / 150e9) and far == pytest.approx(0.4 + R1.weight_bytes / 25e9)


def test_capped_means_are_those_of_the_sampled_lengths() -> None:
    lengths = Lengths(think=900.0, short=40.0, think_rate=0.3, cap=1000, cap_think=1000, cap_short=60)
    batch = next(lengths.batches(4000, 4, 0))
    think, short = lengths.means()
    assert batch.lengths.mean() == pytest.approx(0.3 * think + 0.7 * short, rel=0.03)
    again = Lengths(cap=1000, cap_think=1000, cap_short=60).with_means(think, short, 0.3)
    assert (again.think, again.short) == pytest.approx((900.0, 40.0), rel=1e-6)


def test_the_learner_sees_the_informative_share() -> None:
    batch = next(Lengths(learnt=0.25).batches(16, 8, 0))
    assert batch.learnt.sum() == 4 and len(batch.sequences()[0]) == 32


# ---------------------------------------------------------------- memory


def test_the_presets_fit_their_gpus_and_a_7b_model_says_what_to_change(preset: Config) -> None:
    found = memory(preset, R1, GPUS["h100"], 1_100_000)
    (every,) = found.gpus
    assert found.fits and not found.notes and [phase.name for phase in every.phases] == [
        "sampling", "weight sync", "learning",
    ]  # fmt: skip
    assert every.phases[0].total <= every.limit and 2.2e6 < found.cache_tokens < 2.4e6
    assert every.phases[2].total / 1e9 == pytest.approx(25.4 + 3.5, abs=0.1)  # docs/gpu.md's table, and two contexts
    seven = ModelShape.of("7B", "", SEVEN, Dtype.bfloat16)
    two = replace(
        preset,
        rollout=replace(preset.rollout, workers=2),
        learner=replace(preset.learner, ranks=2),
        cluster=replace(preset.cluster, placement=Placement.disaggregated),
    )
    (finding,) = memory(two, seven, GPUS["h100"], 0).findings
    assert "learning takes 112.1 GB of 85.5" in finding and "learner.offload_optimizer=true makes it 67.5 GB" in finding
    small = memory(preset, R1, GPUS["l4"], 0)
    assert not small.fits and any("learning takes" in finding for finding in small.findings)


def test_a_cache_that_is_too_small_names_the_setting(preset: Config) -> None:
    tight = replace(preset, rollout=replace(preset.rollout, gpu_memory_utilization=0.08))
    (finding,) = memory(tight, R1, GPUS["h100"], 0).findings
    assert "less than one sequence of rollout.max_model_len=25600" in finding
    assert "set rollout.gpu_memory_utilization=0.09 or more" in finding
    mended = replace(preset, rollout=replace(preset.rollout, gpu_memory_utilization=0.09))
    assert memory(mended, R1, GPUS["h100"], 0).fits
    crowded = replace(preset, rollout=replace(preset.rollout, gpu_memory_utilization=0.99))
    (finding,) = memory(crowded, R1, GPUS["h100"], 0).findings
    assert "set rollout.gpu_memory_utilization=0.97" in finding
    (note,) = memory(preset, R1, GPUS["h100"], 10_000_000).notes
    assert "vLLM will put some back" in note and "rollout.max_num_seqs" in note


# ---------------------------------------------------------------- placements


@pytest.mark.parametrize("gpus", [1, 2, 4, 100])
def test_every_placement_takes_the_gpus_and_would_start(preset: Config, gpus: int) -> None:
    found = layouts(preset, gpus)
    assert found and len(found) == len(set(found)) and len(found) <= 20
    for one in found:
        assert one.gpus == gpus
        check(one.applied(preset))
        if gpus < 100 or one is found[-1]:
            assert Layout.of(composed(["experiment=thinkless_1p5b", *one.overrides(preset)])) == one
    assert (Layout.of(preset) in found) is (gpus == 4)


def test_the_preset_is_recommended_on_its_own_gpus(preset: Config) -> None:
    found = plan(preset, R1, GPUS["h100"])
    assert found.best is found.own and found.best is not None
    assert found.best.layout == Layout.of(preset) and found.estimates[0] is found.own
    assert found.best.cost == pytest.approx(found.best.hours * 4 * 3.0) and found.best.step.staleness == 1
    cheap = plan(preset, R1, GPUS["h100"], price=1.0)
    assert cheap.best is not None and cheap.best.cost == pytest.approx(found.best.cost / 3)
    parts = found.best.step
    assert parts.seconds == pytest.approx(
        parts.rollout + parts.reward + parts.learner + parts.push + parts.rest
    )  # fmt: skip


def test_what_does_not_fit_is_not_recommended(preset: Config) -> None:
    seven = ModelShape.of("7B", "", SEVEN, Dtype.bfloat16)
    found = plan(preset, seven, GPUS["h100"])
    assert found.best is not None and found.best.memory.fits
    assert any(not one.memory.fits for one in found.estimates)
    nothing = plan(preset, seven, GPUS["l4"])
    assert nothing.best is None and all(one.memory.findings for one in nothing.estimates)


# ---------------------------------------------------------------- the command


def test_the_command_plans_a_preset_without_its_model(called: Callable[..., Any]) -> None:
    code, out, _ = called("experiment=thinkless_1p5b", "gpus=2", "gpu=h200")
    assert code == 0 and "2 x h200" in out and "\n* 2, colocated" in out
    assert "  rollout.workers=2 learner.ranks=2" in out and "recommended: 2, colocated" in out
    assert "an engine's cache holds" in out and "every GPU: learning" in out
    code, out, _ = called("experiment=thinkless_1p5b", "gpu=rtx4090")
    assert code == 1 and "no placement fits" in out and "DOES NOT FIT" in out and "recommended" not in out
    code, out, _ = called("experiment=thinkless_1p5b", "gpu=l4", "gpus=2")
    assert code == 1 and "memory, 2, colocated (the fastest), GB:" in out and "recommended" not in out


def test_a_cpu_configuration_can_be_planned_for_gpus(called: Callable[..., Any]) -> None:
    code, out, _ = called("experiment=quickstart", "--json")
    found = json.loads(out)
    assert code == 0 and found["gpu"]["name"] == "cpu" and found["gpus"] == 3
    assert found["placements"][found["recommended"]]["overrides"] == []
    code, out, _ = called("experiment=quickstart", "gpu=a10", "gpus=2", "--json")
    found = json.loads(out)
    assert code == 0 and found["gpu"]["name"] == "a10" and len(found["placements"]) > 2
    for placement in found["placements"]:
        for gpu in placement["memory"]:
            for phase in gpu["phases"]:
                assert phase["total"] == pytest.approx(sum(phase["items"].values()))


# ---------------------------------------------------------------- corrections


@pytest.fixture
def run(tmp_path: Path, preset: Config) -> Callable[..., Path]:
    """A run folder of the preset whose steps took what the simulation says under `truth`."""

    def make(truth: Assumptions, lengths: Lengths, steps: int = 5, gpus: bool = True) -> Path:
        folder = tmp_path / "runs" / "seen"
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text(to_yaml(preset))
        devices = ["NVIDIA H100 80GB HBM3, 79.6 GiB"] * 4 if gpus else []
        (folder / "provenance.json").write_text(json.dumps({"hardware": {"gpus": devices}}))
        found = simulate(Layout.of(preset), preset, R1, GPUS["h100"], lengths, truth)
        think, short = lengths.means()
        row = {
            "seconds/step": found.seconds, "seconds/rollout": found.rollout, "seconds/reward": found.reward,
            "seconds/learner": found.learner, "weight_sync/seconds": found.push,
            "busy/rollout": found.sampled / 4 / found.seconds, "tokens/mean": found.tokens / 1024,
            "tokens/think": think, "tokens/short": short, "think_rate/all": lengths.think_rate,
            "groups/dropped_share": 0.0,
        }  # fmt: skip
        lines = [json.dumps({"step": n, "time": n * found.seconds, **row}) for n in range(1, steps + 1)]
        (folder / "metrics.jsonl").write_text("\n".join([json.dumps({"step": 0, "validation/reward": 0.1}), *lines]))
        return folder

    return make


def test_a_runs_metrics_give_back_the_factors_that_made_them(preset: Config, run: Callable[..., Path]) -> None:
    truth = Assumptions(sampling=1.5, learning=0.6, reward_s=0.03)
    seen = Lengths.of(preset).with_means(3000.0, 200.0, 0.25)
    folder = run(truth, seen)
    conf = from_file(folder / "config.yaml", [])
    found = correction.corrected(conf, correction.read(folder, conf), R1, GPUS["h100"], Assumptions())
    assert (found.given.sampling, found.given.learning) == pytest.approx((1.5, 0.6), rel=0.03)
    assert found.lengths.means() == pytest.approx((3000.0, 200.0), rel=1e-3) and found.lengths.think_rate == 0.25
    assert found.after.seconds == pytest.approx(found.measured.step, rel=0.02)
    other = replace(preset, rollout=replace(preset.rollout, prompts_per_step=64))  # what it then says of other settings
    wanted = simulate(Layout.of(other), other, R1, GPUS["h100"], seen, truth).seconds
    assert simulate(Layout.of(other), other, R1, GPUS["h100"], found.lengths, found.given).seconds == pytest.approx(
        wanted, rel=0.05
    )


def test_the_command_says_what_a_run_corrected(run: Callable[..., Path], called: Callable[..., Any]) -> None:
    folder = run(Assumptions(learning=2.0), Lengths(think_rate=0.9))
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('\n{"step": 6, "seconds/st')  # the run died here
    code, out, line = called("run=seen", "gpus=8")
    assert code == 0, line
    assert max(len(line) for line in out.splitlines() if "=" not in line) <= 118  # settings are not broken
    assert "8 x h100" in out and "90% think" in out and "corrected by the run's own metrics:" in out
    assert "learning: 2.0" in out and "its own step: " in out


def test_a_run_without_steps_is_refused(run: Callable[..., Path], called: Callable[..., Any]) -> None:
    folder = run(Assumptions(), Lengths(), steps=0)
    code, out, line = called("run=seen")
    assert code == 1 and not out and "holds no training step yet" in line
    (folder / "metrics.jsonl").unlink()
    code, out, line = called("run=seen")
    assert code == 1 and not out and "has not reached its first step" in line


def test_nothing_to_plan_is_one_line(called: Callable[..., Any]) -> None:
    code, out, line = called()
    assert code == 1 and not out and "nothing to plan: choose an experiment" in line


def test_a_runs_recorded_gpus_are_found_in_the_table() -> None:
    found = hardware.of_device(["NVIDIA A100-SXM4-40GB, 39.5 GiB"])
    assert found is GPUS["a100-40gb"] and hardware.of_device(["NVIDIA A100 80GB PCIe, 79.3 GiB"]) is GPUS["a100"]
    assert hardware.of_device([]) is None and hardware.of_device(["Graphics of 1998, 0.1 GiB"]) is None
    assert GPUS["h100"].memory / GIB == 79.6


def test_json_holds_what_the_text_is_made_of(preset: Config) -> None:
    found: Plan = plan(preset, R1, GPUS["h100"])
    json.dumps(whole := as_json(found))
    assert whole["recommended"] == 0 and len(whole["placements"]) == len(found.estimates)
    assert on_gpus(preset) and isinstance(R1.shape, Shape) and RolloutConf().tensor_parallel == 1
