"""Why DeGRPO: the study on the generated task with long answers (`experiment=long`).

Run: python benchmarks/long_task.py

Trains every variant with every seed, those of one seed from the same warm-up: DeGRPO, plain GRPO (both in the paper's
form of the loss), and DeGRPO with alpha 0.001 and 30 in the place of 1. A run that has finished is not run
again, so the same command goes on where it was stopped, and --variants and --seeds add to what is there. Into --out:

    study.json   all figures and curves of each run
    study.md     over the seeds: means with 95 % intervals (Student's t), the effect of GRPO paired by seed
    study.svg    think rate by step, variant and level; --picture FILE copies it

One JSON line a figure; with `seed` that of one run, without it the mean over the seeds:

    long_accuracy_vs_always_think   DeGRPO's accuracy minus the warm-up's with thinking forced, points; goal -1
    long_tokens_vs_oracle           its tokens over those of the better mode for each level; goal 1.05
    long_tokens_vs_always_think     its tokens over always-think's
    long_regret_degrpo, _grpo       of the final model's choice of modes
    long_regret_effect              GRPO's minus DeGRPO's; _low and _high: its interval; goal of _low: above 0
    long_regret_warm_up             of the warm-up alone: what its free choice loses against the better mode
    long_think_hard_degrpo, _grpo   share of thinking where thinking earns more
    long_think_easy_degrpo, _grpo   where short answers do
    long_think_rise, _fall          DeGRPO's think rate: the highest minus the first, and minus the last
    long_regret_alpha_low, _high    of the other alphas

Each run takes one core for some minutes.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path

sys.path.pop(0)
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks._figures import add_small, figure, say, without_goals
from benchmarks._study.members import DEGRPO, GRPO, HIGH, LOW, SMALL, VARIANTS, members, run
from benchmarks._study.picture import picture
from benchmarks._study.results import Row, difference, estimate, row, table

SEEDS = [41, 42, 43]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="folder of the runs and of the result (default: runs/long-study)")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS, help="run.seed of the runs (default: 41 42 43)")
    parser.add_argument("--variants", nargs="+", choices=[*VARIANTS], default=[*VARIANTS], help="default: all")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, a core each (default: 1)")
    parser.add_argument("--picture", type=Path, help="copy the picture here, e.g. docs/why-degrpo.svg")
    parser.add_argument("--no-runs", action="store_true", help="only what the finished runs show")
    parser.add_argument("overrides", nargs="*", help="Hydra overrides for every run")
    add_small(parser)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="thinkless-study-") as scratch:
        out = arguments.out or Path(scratch if arguments.small else "runs/long-study")
        if arguments.small:
            without_goals()
            arguments.seeds, arguments.variants = arguments.seeds[:1], [DEGRPO, GRPO]
            arguments.overrides = [*SMALL, *arguments.overrides]
        study(arguments, out.absolute())


def study(arguments: argparse.Namespace, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    wanted = members(out, arguments.seeds, arguments.variants)
    if not arguments.no_runs:
        run(wanted, arguments.jobs, arguments.overrides)
    rows = [row(member) for member in wanted if member.finished]
    if not rows:
        sys.exit(f"{out} holds no finished run of these seeds and variants: leave out --no-runs")
    if missing := [member.folder.name for member in wanted if not member.finished]:
        say(f"not finished: {', '.join(missing)}")
    (out / "study.json").write_text(json.dumps(rows, indent=1) + "\n")
    (out / "study.md").write_text(table(rows))
    (out / "study.svg").write_text(picture(rows))
    if arguments.picture:
        shutil.copy(out / "study.svg", arguments.picture)
    say(f"{out}/study.md, .json, .svg")
    figures(rows)


def figures(rows: list[Row]) -> None:
    def over(variant: str, key: str) -> float | None:
        found = estimate(one[key] for one in rows if one["variant"] == variant)
        return None if found is None else found[0]

    for one in rows:
        if one["variant"] == DEGRPO:
            figure(
                "long_accuracy_vs_always_think", 100 * one["accuracy_vs_always_think"], "points", -1.0, seed=one["seed"]
            )
            figure("long_tokens_vs_oracle", one["tokens_vs_oracle"], "ratio", 1.05, seed=one["seed"])
        if one["variant"] in (DEGRPO, GRPO):
            figure(f"long_regret_{one['variant']}", one["regret"], "reward", seed=one["seed"])
    accuracy = over(DEGRPO, "accuracy_vs_always_think")
    figure("long_accuracy_vs_always_think", None if accuracy is None else 100 * accuracy, "points", -1.0)
    figure("long_tokens_vs_oracle", over(DEGRPO, "tokens_vs_oracle"), "ratio", 1.05)
    figure("long_tokens_vs_always_think", over(DEGRPO, "tokens_vs_always_think"), "ratio")
    figure("long_regret_warm_up", over(DEGRPO, "regret_warm_up"), "reward")
    for variant in (DEGRPO, GRPO):
        figure(f"long_regret_{variant}", over(variant, "regret"), "reward")
        figure(f"long_think_hard_{variant}", over(variant, "think_hard"), "share")
        figure(f"long_think_easy_{variant}", over(variant, "think_easy"), "share")
    effect = difference(rows, "regret")
    ends = None if effect is None or effect[1] is None else (effect[0] - effect[1], effect[0] + effect[1])
    figure("long_regret_effect", None if effect is None else effect[0], "reward")
    figure("long_regret_effect_low", None if ends is None else ends[0], "reward", "above 0")
    figure("long_regret_effect_high", None if ends is None else ends[1], "reward")
    figure("long_think_rise", over(DEGRPO, "think_rise"), "share")
    figure("long_think_fall", over(DEGRPO, "think_fall"), "share")
    for variant in (LOW, HIGH):
        figure(f"long_regret_{variant}", over(variant, "regret"), "reward")


if __name__ == "__main__":
    main()
