"""lm-evaluation-harness scores the same export on the same questions as `thinkless evaluate`. Run:
python benchmarks/harness.py

A quickstart's model after its warm-up answers 1,000 generated questions once each: asked by `thinkless evaluate` (vLLM,
the mode chosen by the model), and by lm-eval's own loop and grading: a task in YAML, the export's chat template, its
`hf` backend in float32, a regular expression for \\boxed{}. Neither knows anything of the other. Temperature 1.

    harness_accuracy_ours      mean accuracy by `thinkless evaluate`
    harness_accuracy_lm_eval   exact_match by lm-eval
    harness_gap                their difference, in standard errors of it; goal below 1.96 (two samples of the same
                               model are each outside the other's own 95 % interval once in six times)

lm-eval lives in .bench/harness, beside the project's packages (benchmarks/harness.lock). Ten minutes with the warm-up;
--model: one that is there.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import importlib.util
import json
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.pop(0)
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks._figures import add_small, figure, figures_only, say, without_goals
from benchmarks._runs import add_runs, runs_folder, short_run
from conf.schema import ArithmeticConf
from rollout.data.arithmetic import problems_of_level

ROOT = Path(sys.path[0])
LOCK, FOLDER = ROOT / "benchmarks" / "harness.lock", ROOT / ".bench" / "harness"
LONGEST = 128  # response tokens
TASK = r"""
task: thinkless_boxed
dataset_path: json
dataset_kwargs:
  data_files:
    test: {questions}
output_type: generate_until
test_split: test
doc_to_text: "{{{{problem}}}}"
doc_to_target: "{{{{answer}}}}"
generation_kwargs:
  until: []
  do_sample: true
  temperature: 1.0
  max_gen_toks: {longest}
filter_list:
  - name: boxed
    filter:
      - function: regex
        regex_pattern: '\\boxed\{{(-?[0-9]+)\}}'
        group_select: -1
      - function: take_first
metric_list:
  - metric: exact_match
    aggregation: mean
    higher_is_better: true
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="an exported model's folder (else a quickstart's warm-up is made)")
    parser.add_argument("--questions", type=int, default=1000, help="in all (1000)")
    add_runs(parser)
    add_small(parser)
    arguments = parser.parse_args()
    if arguments.small:
        without_goals()
        arguments.questions = 24
    figures_only()
    install()
    with runs_folder(arguments.runs) as runs, tempfile.TemporaryDirectory(prefix="thinkless-bench-") as name:
        scratch = Path(name)
        if arguments.model is not None:
            model = arguments.model.absolute()
        elif arguments.small:
            model = short_run(0, runs) / "model"
        else:
            model = warmed_up(scratch)
        questions = scratch / "questions.jsonl"
        questions.write_text("".join(json.dumps(one) + "\n" for one in asked(arguments.questions)))
        measure(model, questions, scratch)


def measure(model: Path, questions: Path, scratch: Path) -> None:
    ours, theirs = by_thinkless(model, questions, scratch), by_lm_eval(model, questions, scratch)
    say(f"thinkless evaluate: {ours}; lm-eval: {theirs}")
    count = ours["problems"]
    if theirs["count"] != count:
        sys.exit(f"lm-eval scored {theirs['count']} questions, thinkless evaluate {count}")
    ours_error = math.sqrt(ours["value"] * (1 - ours["value"]) / count)
    gap = abs(ours["value"] - theirs["value"]) / (math.hypot(ours_error, theirs["error"]) or 1.0)
    figure("harness_accuracy_ours", ours["value"], "share")
    figure("harness_accuracy_lm_eval", theirs["value"], "share")
    figure("harness_gap", gap, "standard errors", 1.96)


def asked(count: int) -> list[dict[str, str]]:
    """Evenly of all levels."""
    conf = ArithmeticConf()
    each = -(-count // len(conf.levels))
    found = [problem for level in conf.levels for problem in problems_of_level(5, level, each, conf)]
    return [{"problem": problem.problem, "answer": str(problem.answer)} for problem in found]


def warmed_up(scratch: Path) -> Path:
    out = scratch / "model"
    thinkless("warmup", "experiment=quickstart", f"run.root={scratch / 'runs'}", f"warmup.out={out}")
    return out


def thinkless(*words: str) -> str:
    done = subprocess.run([sys.executable, "-m", "orchestrator", *words], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"thinkless {' '.join(words)} ended with exit code {done.returncode}")
    return done.stdout


def by_thinkless(model: Path, questions: Path, scratch: Path) -> dict[str, Any]:
    """{value, low, high, problems} of the free choice."""
    copy = scratch / "measured"  # the results come beside the model
    copy.mkdir()
    for file in model.iterdir():
        if file.is_file():
            (copy / file.name).symlink_to(file)
    said = thinkless(
        "evaluate", f"model.path={copy}", f"data.path={questions}", "evaluate.questions=1000000",
        f"evaluate.max_response_tokens={LONGEST}", "rollout.kv_cache_gib=0.5", "run.seed=3",
    )  # fmt: skip
    folder = next(line.removeprefix("written to ") for line in said.splitlines() if line.startswith("written to "))
    free = json.loads((Path(folder) / "evaluation.json").read_text())["ways"]["free"]["all"]
    return {**free["accuracy"], "problems": free["problems"]}


def by_lm_eval(model: Path, questions: Path, scratch: Path) -> dict[str, Any]:
    """{value, error, count}."""
    tasks, out = scratch / "tasks", scratch / "lm_eval"
    tasks.mkdir()
    (tasks / "boxed.yaml").write_text(TASK.format(questions=questions, longest=LONGEST))
    command = [
        sys.executable, "-m", "lm_eval", "run", "--model", "hf", "--model_args", f"pretrained={model},dtype=float32",
        "--tasks", "thinkless_boxed", "--include_path", tasks, "--apply_chat_template", "--batch_size", "64",
        "--device", "cpu", "--output_path", out, "--seed", "3",
    ]  # fmt: skip
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(FOLDER),
        "HF_HOME": str(scratch / "hf"),
        "HF_HUB_OFFLINE": "1",
    }
    done = subprocess.run(list(map(str, command)), cwd=scratch, env=environment, stdout=sys.stderr)
    if done.returncode:
        sys.exit(f"lm-eval ended with exit code {done.returncode}")
    (path,) = out.rglob("results_*.json")
    results = json.loads(path.read_text())
    found = results["results"]["thinkless_boxed"]
    count = results["n-samples"]["thinkless_boxed"]["effective"]
    return {"value": found["exact_match,boxed"], "error": found["exact_match_stderr,boxed"], "count": count}


def install() -> None:
    """Every package of the lock into FOLDER, once."""
    stamp = hashlib.sha256(LOCK.read_bytes() + sys.version.encode()).hexdigest()
    FOLDER.mkdir(parents=True, exist_ok=True)
    with (FOLDER.parent / "harness.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        made = FOLDER / "made"
        if made.is_file() and made.read_text() == stamp:
            return
        spec = importlib.util.spec_from_file_location("thinkless_setup", ROOT / ".ci" / "setup.py")
        assert spec is not None and spec.loader is not None
        setup: Any = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(setup)
        environment, _ = setup.uv_variables(Path(sys.executable), setup.variables(Path(sys.prefix)))
        uv = Path(sys.executable).with_name("uv")
        command = [uv, "pip", "install", "--python", sys.executable, "--target", FOLDER, "--no-deps"]
        command += ["--quiet", "-r", LOCK]
        if subprocess.run(list(map(str, command)), env=environment, stdout=sys.stderr).returncode:
            sys.exit("lm-eval cannot be installed (why is said above)")
        made.write_text(stamp)


if __name__ == "__main__":
    main()
