"""Training end to end, as a person runs it: the console script, real Ray, vLLM and DeepSpeed, two learner ranks.

One training that must learn is looked at from all sides; the short runs below it show the other ways to run.
"""

from __future__ import annotations

import json
import math
import re
import urllib.request
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conf.compose import from_file
from orchestrator.commands import cli
from orchestrator.dashboards.panels import DASHBOARDS, FIRING
from orchestrator.dashboards.promql import entry_of, query
from orchestrator.plan.disk import checkpoint
from orchestrator.plan.model_shape import model_shape
from orchestrator.tracking.catalogue import METRICS, Sink, find, prometheus_name
from orchestrator.tracking.chrome_trace import read as read_trace
from orchestrator.tracking.rules import RULES
from orchestrator.tracking.utilization import Actor, by_kind, covered, figures
from rollout.base.network import free_ports
from tests.helpers.launched import Watched, succeeded, thinkless
from tests.helpers.programs import found, program
from tests.helpers.prometheus import Prometheus, scraping
from tests.helpers.runs import read_lines, steps

pytestmark = pytest.mark.heavy

STEPS, SAVE_EVERY, VALIDATE_EVERY = 16, 7, 8
SHARED = Path(__file__).parents[2].parent / "shared"

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Trained:
    """A finished run, its folder, and what Ray's Prometheus end point showed meanwhile."""

    done: Watched
    folder: Path
    scraped: str
    prometheus: Prometheus | None  # that scraped it from its beginning to its end; None: not installed

    def rows(self, training: bool = True) -> Rows:
        return metrics(self.folder, training)

    def json(self, name: str) -> Any:
        return json.loads((self.folder / name).read_text())


def metrics(folder: Path, training: bool = True) -> Rows:
    """The records of training steps, or of validations."""
    rows = read_lines(folder / "metrics.jsonl")
    return [row for row in rows if ("seconds/step" in row) is training]


def scrape(port: int) -> str:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as page:
            return str(page.read().decode())
    except OSError:
        return ""


@pytest.fixture(scope="module")
def trained(task: list[str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trained]:
    folder = tmp_path_factory.mktemp("trained")
    port, other = free_ports(2, "127.0.0.1")
    monitoring = tmp_path_factory.mktemp("prometheus")
    discovery = monitoring / "prom_metrics_service_discovery.json"  # as the head of a cluster writes it
    discovery.write_text(json.dumps([{"labels": {"job": "ray"}, "targets": [f"127.0.0.1:{port}"]}]))
    with scraping(found("prometheus"), monitoring, other, str(discovery)) as prometheus:
        yield _trained(task, folder, port, prometheus)


def _trained(task: list[str], folder: Path, port: int, prometheus: Prometheus | None) -> Trained:
    run = Watched(
        [
            "train",
            *task,
            "run.name=learns",
            f"run.steps={STEPS}",
            f"run.save_every={SAVE_EVERY}",
            "run.keep_checkpoints=3",
            "run.logprob_check_every=1",
            "learner.ranks=2",
            "learner.lr=4e-4",
            "learner.schedule=constant",
            "rollout.workers=1",
            "rollout.prompts_per_step=24",
            f"evaluate.every={VALIDATE_EVERY}",
            "evaluate.questions=128",
            f"cluster.metrics_port={port}",
        ],
        folder,
        watch_memory=True,
    )
    seen: list[str] = []

    def all_gauges() -> bool:
        if not steps(folder / "runs" / "learns"):  # answering costs Ray's agent more than looking costs us
            return run.process.poll() is not None
        page = scrape(port)
        if "ray_thinkless_" in page:
            seen.append(page)
        return run.process.poll() is not None or "ray_thinkless_weight_sync_seconds" in page

    run.until(all_gauges, "the gauges appeared on Ray's Prometheus end point")
    return Trained(succeeded(run.wait()), folder / "runs" / "learns", seen[-1] if seen else "", prometheus)


# ---- it learns ----


def test_training_raises_the_validation_reward(trained: Trained) -> None:
    """Reward on held-out questions rises by far more than chance (256 questions: a standard error of about .04)."""
    validations = {row["step"]: row for row in trained.rows(training=False)}
    assert sorted(validations) == [*range(0, STEPS + 1, VALIDATE_EVERY)]
    first, last = validations[0], validations[STEPS]
    assert last["validation/reward"] >= first["validation/reward"] + 0.12, (first, last)
    assert last["validation/accuracy"] >= first["validation/accuracy"]


def test_training_teaches_when_to_think(trained: Trained) -> None:
    found = trained.json("evaluation.json")
    before, after = found["models"]["warmup"]["free"], found["models"]["final"]["free"]
    assert 0.3 < before["2"]["think_rate"] < 0.7  # the warm-up taught both modes alike
    assert after["2"]["think_rate"] < 0.2 and after["2"]["tokens"] < 0.75 * before["2"]["tokens"]
    assert after["4"]["think_rate"] > max(0.8, before["4"]["think_rate"])
    assert after["2"]["accuracy"] > 0.9 and after["4"]["reward"] > before["4"]["reward"] + 0.1


def test_forced_modes_are_measured_as_such(trained: Trained) -> None:
    found = trained.json("evaluation.json")
    assert found["levels"] == ["2", "4"] and found["weights"] == {"2": 0.7, "4": 0.3}
    assert found["rewards"] == {"correct_short": 1.0, "correct_think": 0.5, "wrong": -1.0}
    for model in ("warmup", "final"):
        for level in ("2", "4"):
            think, short = (found["models"][model][way][level] for way in ("think", "short"))
            assert (think["n"], short["n"]) == (128, 128)
            assert (think["think_rate"], short["think_rate"]) == (1.0, 0.0)
            assert think["tokens"] > short["tokens"]
            assert short["reward"] == pytest.approx(2 * short["accuracy"] - 1, abs=1e-6)
            assert think["reward"] == pytest.approx(1.5 * think["accuracy"] - 1, abs=1e-6)


# ---- its records ----

ALWAYS = {
    "step", "time", "reward/mean", "accuracy/all", "think_rate/all", "no_mode", "truncated", "tokens/mean",
    "tokens/p50", "tokens/p95", "tokens/max", "groups/dropped_share", "unjudged", "staleness/max", "no_op",
    "unjudged/raised", "unjudged/timed_out", "unjudged/crashed", "outcome/correct", "outcome/format_error",
    "loss/total", "loss/control", "loss/response", "loss/kl", "loss/think", "loss/short", "entropy", "kl",
    "grad_norm/control", "grad_norm/response", "learner/tokens_per_s_rank", "learner/tflops", "learner/padding",
    "learner/fill", "learner/imbalance", "learner/memory_gib/score", "learner/memory_gib/learn",
    "learner/memory_gib/step",
    "clip_fraction", "grad_norm", "lr", "skipped_updates", "mismatch/kl", "mismatch/mean_abs", "mismatch/max_abs",
    "ratio_outside", "clip/high", "clip/low", "clip/dual", "importance/mean", "importance/max", "importance/capped",
    "learner/tokens_per_s", "rollout/tokens_per_s", "seconds/rollout", "seconds/reward", "seconds/learner",
    "weight_sync/seconds", "seconds/step",
}  # fmt: skip


def test_every_step_has_every_figure(trained: Trained) -> None:
    rows = trained.rows()
    assert [row["step"] for row in rows] == [*range(1, STEPS + 1)]
    for row in rows:
        assert not [key for key in ALWAYS if not isinstance(row.get(key), (int, float))], row
        assert all(value is None or math.isfinite(value) for value in row.values())
        assert row["staleness/max"] == 0 and row["no_op"] == 0 and row["unjudged"] == 0 and row["skipped_updates"] == 0
        assert row["grad_norm"] > 0 and row["lr"] == 4e-4 and row["entropy"] > 0 and row["kl"] >= 0
        assert 0 <= row["clip_fraction"] < 0.5 and 0 <= row["groups/dropped_share"] < 1
        assert row["tokens/p50"] <= row["tokens/p95"] <= row["tokens/max"] <= 128
        assert row["loss/total"] == pytest.approx(row["loss/control"] + row["loss/response"] + row["loss/kl"], abs=1e-4)


MORE_MODES = ("mode_rate/{mode}",)  # of runs with more than two modes (test_modes)


def test_records_and_catalogue_have_the_same_figures(trained: Trained) -> None:
    """No key without an entry; no entry that nothing makes, but those of histograms."""
    keys = {key for training in (True, False) for row in trained.rows(training) for key in row}
    assert not [key for key in keys if find(key) is None]
    made = {found[0].key for key in keys if (found := find(key))}
    rest = {metric.key for metric in METRICS if Sink.jsonl in metric.sinks} - made
    assert rest == {*MORE_MODES, "restarts/learner"}  # which is there where ranks may start again
    series = {line.partition("{")[0] for line in trained.scraped.splitlines()}
    assert {"ray_thinkless_answers_total", "ray_thinkless_answer_tokens_bucket"} <= series


def test_sampler_and_learner_agree_at_every_step(trained: Trained) -> None:
    for row in trained.rows():
        assert row["mismatch/max_abs"] <= 1e-4 and row["mismatch/mean_abs"] <= 2e-5 and abs(row["mismatch/kl"]) < 1e-6


def test_configuration_and_provenance_are_saved(trained: Trained) -> None:
    from conf.compose import from_file

    conf = from_file(trained.folder / "config.yaml", [])
    assert conf.run.steps == STEPS and conf.learner.ranks == 2 and conf.data.arithmetic.levels == [2, 4]
    found = trained.json("provenance.json")
    assert {"git_commit", "dirty", "packages", "seed", "data_hash", "python", "started", "command"} <= set(found)
    assert {"torch", "vllm", "ray", "deepspeed", "transformers"} <= set(found["packages"])
    assert "train experiment=quickstart" in found["command"] and len(found["data_hash"]) == 64
    assert found["hardware"]["cores"] >= 1 and found["hardware"]["memory_gib"] > 1
    (session,) = found["sessions"]
    assert session["started"] == found["started"] < session["ended"]


def test_answers_before_training_and_memory_are_recorded(trained: Trained) -> None:
    lines = read_lines(trained.folder / "samples.jsonl")
    before = [one for one in lines if one["step"] == 0]
    assert {(one["level"], one["mode"]) for one in before} == {(n, mode) for n in "24" for mode in ("think", "short")}
    used = [row["memory/host_gib"] for row in trained.rows() if "memory/host_gib" in row]
    assert used and all(0.5 < gib < 64 for gib in used)


def test_the_warm_ups_losses_are_recorded(trained: Trained) -> None:
    warm_up = read_lines(trained.folder / "warmup.jsonl")
    assert warm_up[-1]["step"] == 500 and warm_up[-1]["loss"] < 0.5 * warm_up[0]["loss"]


# ---- its timeline ----


def test_the_timeline_has_every_actors_work_in_every_step(trained: Trained) -> None:
    json.loads((trained.folder / "timeline.json").read_text())
    found = read_trace(trained.folder / "timeline.json")
    assert found is not None and [step for step, _, _ in found.steps] == [*range(1, STEPS + 1)]
    kinds = {actor.name: {span.kind for span in spans} for actor, spans in found.spans.items()}
    assert set(kinds) == {"driver", "rollout worker 0", "reward actor 0", "learner rank 0", "learner rank 1"}
    assert kinds["rollout worker 0"] >= {"sampling", "loading weights"} and kinds["reward actor 0"] == {"grading"}
    assert kinds["learner rank 0"] >= {"learning", "scoring", "publishing", "saving"}
    for row, window in zip(trained.rows(), found.windows, strict=True):
        assert window[1] - window[0] == pytest.approx(row["seconds/step"], abs=0.05)
        worked = 0.0
        for actor, kind in (("rollout", "sampling"), ("learner", "learning")):
            spans = [(s.begin, s.end) for s in found.spans[Actor(actor)] if s.kind == kind]
            (took,) = covered(spans, [window])
            assert took > 0
            worked += took
        assert worked <= window[1] - window[0] + 0.01  # on-policy: one after the other, however busy the machine is


def test_a_steps_record_has_the_shares_of_the_previous_step(trained: Trained) -> None:
    found = read_trace(trained.folder / "timeline.json")
    assert found is not None
    rows = trained.rows()
    assert "busy/rollout" not in rows[0]
    for row, window in zip(rows[1:], found.windows, strict=False):
        seconds = {a: by_kind(spans, [window]) for a, spans in found.spans.items() if a.kind != "driver"}
        wanted = figures(window[1] - window[0], seconds)
        assert {key: row[key] for key in wanted} == pytest.approx(wanted, rel=1e-3, abs=1e-3)
        assert 0 < row["busy/rollout"] < 1 and 0 < row["busy/learner"] < 1 < row["pipeline/step_vs_max"]
    assert "rollout worked " in trained.done.err
    assert "Who worked when" in (trained.folder / "report.html").read_text()


def test_samples_are_written_as_text_and_json(trained: Trained) -> None:
    text = (trained.folder / "samples.txt").read_text()
    assert all(f"--- step {step}, arithmetic/train/" in text for step in range(1, STEPS + 1))
    assert "<think>" in text and "<short>\\boxed{" in text and "reward" in text
    samples = read_lines(trained.folder / "samples.jsonl")
    steps = [s for s in samples if s["step"] > 0]
    assert len(steps) == 2 * STEPS and {s["mode"] for s in steps} >= {"think", "short"}
    assert {s["level"] for s in samples if s["step"] == 0} == {"2", "4"}  # of the model that training begins with
    assert all(s["response"].startswith(f"<{s['mode']}>") for s in samples if s["mode"])


def test_the_newest_checkpoints_and_the_best_model_are_kept(trained: Trained) -> None:
    names = sorted(path.name for path in (trained.folder / "checkpoints").iterdir())
    assert names == ["step_000007", "step_000014", "step_000016"]
    state = trained.json(f"checkpoints/{names[-1]}/state.json")
    assert state["step"] == STEPS and state["prompts"]["position"] == 24 * STEPS
    rewards = {row["step"]: row["validation/reward"] for row in trained.rows(training=False)}
    best = trained.json("best/validation.json")
    assert best["reward"] == max(rewards.values()) == rewards[best["step"]]
    assert state["best"] == {"step": best["step"], "reward": best["reward"]}
    assert not list(trained.folder.glob(".*"))  # nothing half-written


def test_the_planned_disk_is_what_a_checkpoint_and_a_model_take(trained: Trained) -> None:
    conf = from_file(trained.folder / "config.yaml", [])
    shape = model_shape(replace(conf.model, path=str(trained.folder / "model")))
    step = trained.folder / f"checkpoints/step_{STEPS:06d}"
    written = sum(path.stat().st_size for path in step.rglob("*") if path.is_file())
    assert checkpoint(shape) == pytest.approx(written, rel=0.05)
    assert shape.weight_bytes == pytest.approx((trained.folder / "model/model.safetensors").stat().st_size, rel=0.05)


def test_the_models_evaluation_is_a_command(trained: Trained, tmp_path: Path, capsys: Any) -> None:
    """Of the run's own model with the run's own settings, the whole dial printed; the same command again starts nothing
    and prints the same."""
    words = [f"run.name={trained.folder}", "evaluate.questions=24", "evaluate.samples=2", "evaluate.token_budget=9"]
    words += ["evaluate.dial=0.25", "evaluate.thinking_budget=100"]
    done = succeeded(thinkless("evaluate", *words, "--dial", folder=tmp_path))
    folder = Path(re.findall(r"^written to (.+)$", done.out, re.M)[0])
    files = {"answers.jsonl", "evaluation.html", "evaluation.json", "evaluation.md", "problems.json"}
    assert folder.parent == trained.folder and {path.name for path in folder.iterdir() if path.suffix} == files
    found = json.loads((folder / "evaluation.json").read_text())
    assert found["bias"] == 0.25 and "dial: +0.25 on the think token's logit" in done.out
    assert found["thinking_budget"] == 100 and "thinking is closed after 100 tokens" in done.out
    assert len((folder / "answers.jsonl").read_text().splitlines()) == 3 * 2 * 48
    longest = trained.json("warmup.json")["longest_short_answer"]  # of answers such as \\boxed{7}
    assert found["longest_short_answer"] == longest and 15 < longest < 40
    free = found["ways"]["free"]["levels"]
    assert free["2"]["think_rate"]["high"] < 0.6 < free["4"]["think_rate"]["value"]
    dial, at = found["dial"], found["points"]["token_budget"]
    assert at is not None and dial["tokens"][at] <= 9 and dial["accuracy"][0] < dial["accuracy"][-1]
    assert len(re.findall(r"^ +[+-]\d+\.\d\d ", done.out, re.M)) == 17
    cli.run("evaluate", [*words, "--dial"])
    assert capsys.readouterr().out == done.out


def test_the_report_loads_nothing_from_elsewhere(trained: Trained) -> None:
    page = (trained.folder / "report.html").read_text()
    assert "<svg" in page and 'src="http' not in page and 'href="http' not in page.split("<body", 1)[0]
    assert str(trained.folder / "report.html") in trained.done.out


def test_the_output_names_folders_figures_and_the_serving_command(trained: Trained) -> None:
    done = trained.done
    assert "result:" in done.out and f"run folder: {trained.folder}" in done.out
    assert all(f"step={step}/{STEPS} reward=" in done.err for step in range(1, STEPS + 1))
    assert f"step=0/{STEPS} validation_reward=" in done.err
    assert "Traceback" not in done.err and "Error" not in done.err
    assert "vllm serve" in done.out and "goal" not in done.out  # not the quickstart's levels


def test_the_model_is_a_hugging_face_folder(trained: Trained) -> None:
    """transformers loads it with its tokenizer, and it answers easy questions at once."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from conf.compose import from_file
    from rollout.data.arithmetic import problems_of_level

    tokenizer: Any = AutoTokenizer.from_pretrained(trained.folder / "model")
    model = AutoModelForCausalLM.from_pretrained(trained.folder / "model").eval()
    assert model.dtype is torch.float32 and model.config.use_cache
    right = 0
    for problem in problems_of_level(7, 2, 16, from_file(trained.folder / "config.yaml", []).data.arithmetic):
        chat = [{"role": "user", "content": problem.problem}]
        text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        ids = tokenizer(text, return_tensors="pt", add_special_tokens=False).input_ids
        written = model.generate(ids, max_new_tokens=8, do_sample=False)[0, ids.shape[1] :]
        right += tokenizer.decode(written).startswith(rf"<short>\boxed{{{problem.answer}}}")
    assert right >= 14


def test_transformers_gives_the_model_the_learners_log_probs(trained: Trained) -> None:
    """One forward pass of each on a sampled answer: float32 rounding apart, the same."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from learner.model.attention import Layout
    from learner.model.policy import load_policy

    path = str(trained.folder / "model")
    sample = read_lines(trained.folder / "samples.jsonl")[-1]
    tokenizer = AutoTokenizer.from_pretrained(path)
    ids = torch.tensor(tokenizer(f"<|user|>{sample['problem']}<|assistant|>{sample['response']}").input_ids)
    with torch.no_grad():
        logits = AutoModelForCausalLM.from_pretrained(path)(ids[None]).logits[0, :-1].double()
        expected = logits.log_softmax(-1).gather(1, ids[1:, None])[:, 0]
        response = torch.ones(len(ids), dtype=torch.bool)
        response[0] = False
        layout = Layout([len(ids)], torch.device("cpu"))
        found, _ = load_policy(path, "float32")(ids, torch.arange(len(ids)), response, layout, 1.0, 1024)
    assert torch.allclose(found[1:].double(), expected, atol=1e-4)


def test_the_exported_weights_are_those_of_the_checkpoint(trained: Trained) -> None:
    import torch
    from safetensors.torch import load_file

    from learner.fragments import Saved

    saved = Saved.read_from(trained.folder / "checkpoints" / f"step_{STEPS:06d}")
    model = load_file(trained.folder / "model" / "model.safetensors")
    name = "model.layers.0.self_attn.q_proj.weight"
    weights = saved.read("weight", name.replace("model.", "body.", 1), 0, model[name].numel())
    assert torch.equal(model[name].view(-1), weights)
    best = load_file(trained.folder / "best" / "model.safetensors")
    assert set(best) == set(model)


# ---- what it takes and leaves ----


def test_gauges_are_on_rays_prometheus_endpoint(trained: Trained) -> None:
    for name in (
        "rollout_tokens_per_second", "learner_tokens_per_second", "think_rate", "accuracy", "accuracy_think",
        "accuracy_short", "weight_sync_seconds", "reward", "step",
    ):  # fmt: skip
        lines = [line for line in trained.scraped.splitlines() if line.startswith(f"ray_thinkless_{name}{{")]
        assert lines and 'run="learns"' in lines[0] and math.isfinite(float(lines[0].split()[-1])), name


@pytest.fixture(scope="module")
def prometheus(trained: Trained) -> Prometheus:
    program("prometheus")
    assert trained.prometheus is not None
    return trained.prometheus


def ever(prometheus: Prometheus, expression: str) -> list[float]:
    """The largest value of each of its series while the run was there."""
    values = [value for _, value in prometheus.query(f"max_over_time(({expression})[30m:1s])")]
    return [value for value in values if not math.isnan(value)]


NONE_FIRES = FIRING.queries[:1]  # the alerts that fire, by name


NO_PEAK = ("learner/mfu", "learner/hfu")  # shares of a peak of FLOPs, which is known of GPUs alone: never on a CPU
NOT_COUNTED = (  # counters that appear with the first thing to count, which this run need not have: a zero until then
    "rollout/preemptions/worker/{worker}",
    "restarts/worker/{worker}",
    "restarts/reward/{worker}",
    "restarts/learner",
    "reward/repeated_timeouts",
    "skipped_updates",
    "no_op",
    "unjudged/{outcome}",
    "tracking/failures/{tracker}",
    "dynamic_sampling/groups",
    "dynamic_sampling/thrown",
    "dynamic_sampling/given_up",
)


def without_data(prometheus: Prometheus, expressions: Iterable[str]) -> list[str]:
    """The expressions that gave nothing, and the metrics of which Prometheus knows none."""
    absent, counters = (
        {prometheus_name(entry_of(key)[0]) for key in keys} for keys in ((*NO_PEAK, *MORE_MODES), NOT_COUNTED)
    )
    exported = set(prometheus.get("label/__name__/values"))
    named = {one: {*re.findall(r"ray_thinkless_\w+", one)} for one in expressions}
    assert not absent & exported
    unknown = set().union(*named.values()) - exported - absent - counters
    return sorted(unknown) + [one for one, names in named.items() if not names & absent and not ever(prometheus, one)]


@pytest.mark.parametrize("name", DASHBOARDS)
def test_every_query_of_a_dashboard_has_data(prometheus: Prometheus, name: str) -> None:
    """Or a zero: of what there was nothing to count of (restarts, say), and of alerts, of which none fires."""
    panels = [panel for row in DASHBOARDS[name].rows for panel in row.panels]
    expressions = [one.expression for panel in panels for one in panel.queries if one not in NONE_FIRES]
    for variable, value in (("$run", "learns"), ("$worker", ".*"), ("$window", "10s")):
        expressions = [one.replace(variable, value) for one in expressions]
    # this run ends before Ray has reported its histograms twice (every 10 s): quantiles of all answers, not of a rise
    expressions = [re.sub(r"rate\((\w+_bucket{[^}]*})\[10s\]\)", r"\1", one) for one in expressions]
    assert not (empty := without_data(prometheus, expressions)), "\n".join(empty)


def test_every_quantity_of_an_alert_has_data(prometheus: Prometheus) -> None:
    conditions = [condition for rule in RULES for condition in rule.conditions]
    quantities = [of for one in conditions for of in (one.left, one.right) if not isinstance(of, float)]
    assert not (empty := without_data(prometheus, map(query, quantities))), "\n".join(empty)


def test_no_alert_fired_on_a_healthy_run(prometheus: Prometheus) -> None:
    (group,) = prometheus.get("rules")["groups"]
    assert {rule["name"]: rule["health"] for rule in group["rules"]} == {f"Thinkless{r.name}": "ok" for r in RULES}
    assert not ever(prometheus, 'ALERTS{alertstate="firing"}')


def test_memory_stays_small(trained: Trained, warm_up: Any) -> None:
    assert 0.5 < trained.done.peak_gib < 8 and 0.5 < warm_up.peak_gib < 8  # and nothing stays: see `succeeded`


# ---- the other ways to run ----


def test_runs_of_a_multirun_have_their_own_folders(members: tuple[Path, Path]) -> None:
    for folder, function in zip(members, ("null", "my_reward:constant"), strict=True):
        assert f"function: {function}" in (folder / "config.yaml").read_text()
        assert [row["step"] for row in metrics(folder)] == [1, 2, 3, 4] and (folder / "model").is_dir()


def test_staleness_is_at_most_the_batches_in_flight(members: tuple[Path, Path]) -> None:
    assert [row["staleness/max"] for row in metrics(members[0])] == [0, 1, 1, 1]
    for step, ahead in ((2, [8]), (4, [])):  # batches in flight are requested again; nothing beyond the end
        state = json.loads((members[0] / f"checkpoints/step_{step:06d}/state.json").read_text())
        assert state["prompts"]["position"] == 4 * (step + len(ahead))
        assert [cursor["position"] for cursor in state["asked"]] == ahead


def test_grpo_changes_the_weights(members: tuple[Path, Path]) -> None:
    rows = metrics(members[0])
    assert "loss: grpo" in (members[0] / "config.yaml").read_text()
    assert any(row["no_op"] == 0 for row in rows)
    assert all(math.isfinite(row["loss/total"]) for row in rows if not row["no_op"])
    assert not same_weights(members[0] / "model", warmed(members[0]))


def test_a_batch_without_informative_groups_is_a_counted_no_op(members: tuple[Path, Path]) -> None:
    """Every step advances and none changes a weight."""
    for row in metrics(members[1]):
        assert row["no_op"] == 1 and row["groups/dropped_share"] == 1 and row["reward/mean"] == 1
        assert "loss/total" not in row
    assert same_weights(members[1] / "model", warmed(members[1]))


def warmed(folder: Path) -> Path:
    return Path(json.loads((folder / "provenance.json").read_text())["model"])


def same_weights(one: Path, other: Path) -> bool:
    from safetensors.numpy import load_file

    a, b = (load_file(folder / "model.safetensors") for folder in (one, other))
    assert set(a) == set(b)
    return all(np.array_equal(a[name], b[name]) for name in a)


@pytest.mark.bench
@pytest.mark.skipif(not (SHARED / "data/gsm8k/train.jsonl").is_file(), reason="../shared/data/gsm8k is not here")
def test_gsm8k_problems_are_trained_on(warm_up: Any, tmp_path: Path) -> None:
    """All of them within the context; the tiny model answers them poorly, and nothing breaks. No validation: it ends a
    run in which no answer begins with a control token, and whether one of 32 does here depends on the warm-up's last
    bits (a chance of a few per cent: the model has never seen such a question)."""
    task = ["experiment=quickstart", "warmup=none", f"model.path={warm_up.model}"]
    arguments = [f"data.path={SHARED}/data/gsm8k/train.jsonl", "run.steps=2", "run.logprob_check_every=1"]
    fewer = ["rollout.prompts_per_step=4", "rollout.group_size=4", "validation.size=32", "evaluate.questions=32"]
    fewer += ["evaluate.every=0"]
    done = succeeded(thinkless("train", *task, *arguments, *fewer, folder=tmp_path))
    folder = tmp_path / "runs" / "train-001"
    assert "gsm8k/train: 7473 problems" in done.err and "dropped as longer" not in done.err
    rows = metrics(folder)
    assert [row["step"] for row in rows] == [1, 2] and all(row["reward/mean"] >= -1 for row in rows)
    provenance = json.loads((folder / "provenance.json").read_text())
    assert provenance["evaluation_too_long"] == 0
    found = json.loads((folder / "evaluation.json").read_text())
    assert found["levels"] == ["all"] and found["models"]["final"]["free"]["all"]["n"] == 32
    assert (folder / "report.html").is_file()
