"""The verifier: accuracy and answers/s beside math-verify, plain integers, the command's start, mutated answers.

Both graders see the same labelled cases in the same run, each in a fresh process pinned to one core, one cold pass, no
cache. Figures, one JSON line each on stdout (progress goes to stderr):

    verifier_per_s, verifier_accuracy, verifier_false_positives     reward.maths:verify on the labelled cases
    math_verify_per_s, math_verify_accuracy, ..._false_positives    math-verify (gold in $...$, its own 5 s time limit)
    verifier_vs_math_verify        ratio of the two speeds
    verifier_integers_per_s        boxed integers, extraction included
    verifier_first_verdict_s       from the start of `thinkless verify` to its first verdict, an integer; median
    verifier_command_per_s         the labelled cases, repeated, through the command
    verifier_mutations_lost        mutated answers through a judge's grading processes that got no verdict
    verifier_mutations_per_s, ..._timed_out, ..._crashed
    verifier_pool_memory_growth    resident memory of the grading processes at the end over that after a fifth of them
    verifier_golds_unlike_themselves, verifier_different_golds_equal     real golds (--problems), boxed; drawn pairs

--cases: JSON lines with gold, response, expect (the default: ../shared/verifier/dev.jsonl where that is, else the
project's own cases). The small form takes every tenth of them, and their golds for real ones.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

sys.path.pop(0)  # this folder: `rollout` is the room, not this file
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks._figures import add_small, figure, say, without_goals

ROOT = Path(sys.path[0])
COMMAND = [str(Path(sys.executable).parent / "thinkless"), "verify"]
PIECES = [
    *(
        "\\frac{",
        "}",
        "{",
        "\\sqrt",
        "^",
        "_",
        "!",
        "(",
        ")",
        "[",
        "]",
        "|",
        "\\left",
        "\\right",
        "9",
        "99999",
        "e",
        "i",
    ),
    *("\\pi", "\\infty", "\\pm", "\\int", "\\sum_{k=1}^{", "\\lim_{x\\to", "\\begin{pmatrix}", "\\end{pmatrix}", "&"),
    *(
        "\\\\",
        "\\cup",
        "\\cap",
        "<",
        ">",
        "=",
        "\\in",
        "\\mathbb{R}",
        ",",
        ";",
        "or",
        "and",
        "%",
        "°",
        "\\text{",
        "\\log",
    ),
    *(
        "\\sin",
        "\\tan",
        "\\binom{",
        "\\mod",
        "\\pmod{",
        ".",
        "0",
        "-",
        "/",
        "*",
        "^{",
        "10^{",
        "x",
        "n",
        "\\prod_{k=1}^{",
    ),
    *(
        "dx",
        "\\{",
        "\\}",
        "\\mid",
        ":",
        "$",
        "√",
        "²",
        "\\det",
        "\\lfloor",
        "\\exp",
        "\\gcd(",
        "5!",
        "E9",
        "\\overline{",
    ),
    *("__import__('os')", ".__class__", "eval(", "</think>", "<think>", "\\boxed{", "\x00", "９", "9^{9^{9", "\n"),
]


def read_cases(path: Path) -> list[dict[str, Any]]:
    files = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
    return [json.loads(line) for file in files for line in file.read_text(encoding="utf-8").splitlines()]


# ------------------------------------------------------------------ labelled cases


def grade_here(grader: str, cases: list[dict[str, Any]]) -> dict[str, Any]:
    """One cold pass in this process, pinned to one core: seconds and verdicts."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    verify: Callable[[str, str], bool]
    if grader == "ours":
        from reward.maths import verify as ours

        verify = ours
    else:
        import math_verify

        def theirs(response: str, gold: str) -> bool:
            return bool(math_verify.verify(math_verify.parse(f"${gold}$"), math_verify.parse(response)))

        verify = theirs

    verdicts = []
    start = time.perf_counter()
    for case in cases:
        try:
            verdicts.append(bool(verify(case["response"], case["gold"])))
        except Exception as error:  # a grader that raises has not said "correct"
            say(f"{grader}: {type(error).__name__} on {case['gold'][:60]!r}")
            verdicts.append(False)
    return {"seconds": time.perf_counter() - start, "verdicts": verdicts}


def labelled(cases: list[dict[str, Any]]) -> None:
    speeds: dict[str, float] = {}
    for grader, name in (("ours", "verifier"), ("math-verify", "math_verify")):
        say(f"{name}: {len(cases)} labelled cases")
        child, asked = [sys.executable, __file__, "--child", grader], json.dumps(cases).encode()
        answer = json.loads(subprocess.run(child, check=True, input=asked, stdout=subprocess.PIPE, timeout=3600).stdout)
        right = [verdict is case["expect"] for verdict, case in zip(answer["verdicts"], cases, strict=True)]
        false = sum(v and not case["expect"] for v, case in zip(answer["verdicts"], cases, strict=True))
        speeds[name] = len(cases) / answer["seconds"]
        ours = name == "verifier"
        figure(f"{name}_per_s", speeds[name], "answers/s", 1000 if ours else None)
        figure(f"{name}_accuracy", 100 * sum(right) / len(cases), "%", 99 if ours else None)
        figure(f"{name}_false_positives", false, "cases", 1 if ours else None)
    figure("verifier_vs_math_verify", speeds["verifier"] / speeds["math_verify"], "ratio", 25)


# ------------------------------------------------------------------ plain integers, the command


def integers(count: int = 200_000) -> None:
    from reward.maths import verify

    responses = [f"\\boxed{{{i * 7919 % 100_003}}}" for i in range(count)]
    start = time.perf_counter()
    for i, response in enumerate(responses):
        verify(response, str(i))
    figure("verifier_integers_per_s", count / (time.perf_counter() - start), "answers/s", 50_000)


def command(cases: list[dict[str, Any]], rounds: int = 5, times: int = 20) -> None:
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        with subprocess.Popen(COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdin is not None and process.stdout is not None
            process.stdin.write(b'{"id": 1, "response": "\\\\boxed{42}", "gold": "42"}\n')
            process.stdin.flush()
            if not json.loads(process.stdout.readline())["correct"]:
                raise SystemExit("the command's verdict on an integer is wrong")
            seconds.append(time.perf_counter() - start)
            process.stdin.close()
    figure("verifier_first_verdict_s", statistics.median(seconds), "s", 1.5)
    many = [{"id": i, "response": c["response"], "gold": c["gold"]} for i, c in enumerate(cases * times)]
    text = "".join(json.dumps(one) + "\n" for one in many).encode()
    start = time.perf_counter()
    out = subprocess.run(COMMAND, input=text, stdout=subprocess.PIPE, check=True, timeout=600).stdout
    took = time.perf_counter() - start
    ids = [json.loads(line)["id"] for line in out.splitlines()]
    if ids != list(range(len(many))):
        raise SystemExit("the command lost lines or their order")
    figure("verifier_command_per_s", len(many) / took, "lines/s")


# ------------------------------------------------------------------ mutations


def mutate(text: str, rng: random.Random, others: list[str]) -> str:
    out = list(text)
    for _ in range(rng.randint(1, 4)):
        at, kind = rng.randint(0, len(out)), rng.random()
        if kind < 0.3 and out:
            del out[min(at, len(out) - 1)]
        elif kind < 0.75:
            out[at:at] = rng.choice(PIECES)
        elif kind < 0.85 and out:
            other = rng.randint(0, len(out))
            out[at:at] = out[min(at, other) : min(at, other) + 20]
        else:
            whole = rng.choice(others)
            start = rng.randint(0, len(whole))
            out[at:at] = whole[start : start + 15]
    return "".join(out)


def resident_kib(pids: list[int]) -> int:
    pattern = re.compile(r"VmRSS:\s+(\d+)")
    found = [pattern.search(Path(f"/proc/{pid}/status").read_text(encoding="ascii")) for pid in pids]
    return sum(int(match[1]) for match in found if match)


def mutations(cases: list[dict[str, Any]], count: int, batch: int = 2_000) -> None:
    from tqdm import tqdm

    from conf.schema import RewardConf
    from reward.maths.extraction.answer import boxed
    from reward.verdict import Outcome, Verdict
    from reward.worker import RewardWorker
    from rollout.mode import Mode
    from rollout.trajectory import Finish

    rng = random.Random(0)
    answers = [text for case in cases for text in (case["gold"], boxed(case["response"])) if text]
    outcomes: Counter[Outcome] = Counter()
    sent = 0
    memory = []
    conf = RewardConf(processes=len(os.sched_getaffinity(0)), timeout_s=2.0, memory_mib=1024, strict=True)
    with RewardWorker(conf) as judge, tqdm(total=count, unit="answers", file=sys.stderr, disable=None) as bar:
        start = time.perf_counter()
        while sent < count:
            responses = []
            for _ in range(min(batch, count - sent)):
                gold = rng.choice(answers)
                answer = mutate(rng.choice(answers) if rng.random() < 0.4 else gold, rng, answers)
                gold = mutate(gold, rng, answers) if rng.random() < 0.2 else gold
                responses.append((f"\\boxed{{{answer}}}", gold))
            begun = [judge.begin(response, Mode.SHORT, Finish.STOP, gold) for response, gold in responses]
            while judge.under_way:
                judge.settle()
            verdicts = [one if isinstance(one, Verdict) else one.verdict for one in begun]
            outcomes.update(verdict.outcome for verdict in verdicts if verdict is not None)
            sent += len(responses)
            bar.update(len(responses))
            if sent >= count / 5:
                memory.append(resident_kib([cell.process.pid for cell in judge.pool.sandboxes]))
        took = time.perf_counter() - start
    say(str({outcome.value: number for outcome, number in outcomes.items()}))
    figure("verifier_mutations_lost", sent - sum(outcomes.values()), "answers", 0)
    figure("verifier_mutations_per_s", count / took, "answers/s")
    figure("verifier_mutations_timed_out", outcomes[Outcome.TIMED_OUT], "answers")
    figure("verifier_mutations_crashed", outcomes[Outcome.CRASHED] + outcomes[Outcome.RAISED], "answers", 0)
    figure("verifier_pool_memory_growth", memory[-1] / memory[0], "ratio", 1.2)


# ------------------------------------------------------------------ real golds


def read_golds(folder: Path) -> list[str]:
    golds = set()
    for file in sorted((*folder.rglob("*.json"), *folder.rglob("*.jsonl"))):
        text = file.read_text(encoding="utf-8")
        rows = json.loads(text) if file.suffix == ".json" and text.lstrip()[0] == "[" else list(
            map(json.loads, filter(str.strip, text.splitlines())))  # fmt: skip
        for row in rows:
            answers = row.get("answer")
            for answer in answers if isinstance(answers, list) else [answers]:
                if answer is not None and str(answer).strip():
                    golds.add(str(answer).rpartition("####")[2].strip())
    return sorted(golds)


def exact(text: str) -> Fraction | None:
    """An integer or reduced fraction."""
    if re.fullmatch(r"-?\d+", text):
        return Fraction(int(text))
    match = re.fullmatch(r"(-?)\\[dt]?frac\{(\d+)\}\{([1-9]\d*)\}", text)
    return Fraction(int(match[1] + match[2]), int(match[3])) if match else None


def golds(found: list[str], pairs: int = 5_000) -> None:
    from reward.maths import equivalent, verify

    say(f"{len(found)} different golds")
    unlike = [gold for gold in found if not verify(f"\\boxed{{{gold}}}", gold)]
    say(f"unlike themselves: {unlike[:5]}")
    figure("verifier_golds_unlike_themselves", len(unlike), f"of {len(found)}", 0)
    rng = random.Random(0)
    numbers = [(gold, value) for gold in found if (value := exact(gold)) is not None]
    wrong = drawn = 0
    while drawn < pairs:
        (a, x), (b, y) = rng.choice(numbers), rng.choice(numbers)
        if x != y:
            drawn += 1
            wrong += equivalent(b, a)
    figure("verifier_different_golds_equal", wrong, f"of {pairs}", 0)


def main() -> None:
    shared = ROOT.parent / "shared"
    own, dev = ROOT / "tests" / "reward" / "cases", shared / "verifier" / "dev.jsonl"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=Path, default=dev if dev.is_file() else own)
    parser.add_argument("--problems", type=Path, default=shared / "data", help="folder of problem sets with an answer")
    parser.add_argument("--mutations", type=int, default=100_000)
    add_small(parser)
    parser.add_argument("--child", choices=["ours", "math-verify"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(grade_here(options.child, json.load(sys.stdin))))
        return
    cases = read_cases(options.cases)
    if options.small:
        without_goals()
        cases = cases[::10]
        labelled(cases)
        integers(1_000)
        command(cases, rounds=1, times=1)
        mutations(cases, 100, batch=20)
        golds(sorted({case["gold"] for case in cases}), pairs=20)
        return
    labelled(cases)
    integers()
    command(cases)
    mutations(cases, options.mutations)
    if options.problems.is_dir():
        golds(read_golds(options.problems))


if __name__ == "__main__":
    main()
