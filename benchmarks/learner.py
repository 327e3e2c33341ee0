"""The learner against bare PyTorch and TRL, the exactness of its gradients, and what it needs of memory.

Figures, one JSON line each on stdout (what led to them on stderr). Each group runs in a process of its own; --only
takes groups or figures by name. A GPU's figures are benchmarks/gpu.py's.

    update       update_vs_torch        tokens/s of LearnerWorker.update over those of a bare PyTorch loop; goal 0.9
                 update_vs_trl          the same over TRL's GRPO update on the same trajectories; goal 2
                 update_tokens_per_s    of LearnerWorker.update
    update_long  the same three with _long: heavy-tailed lengths of up to 1,000 tokens, a model of 0.8 M parameters
    sharing      update_prompts_once    tokens/s with prompts computed once for their siblings over those with each
                                        sibling's computed for itself, the quickstart's step
                 update_prompts_once_long  the same, prompts of 400 to 600 tokens, a model of 0.8 M parameters
    scaling      update_seconds_per_token_ratio   seconds a token at four times the tokens, over those at one time
    gradient     gradient_max_rel_error worst tensor of all layouts against float64; goal 1e-5
    growth       update_memory_growth   resident memory after 200 updates over that after 20; goal 1.01
    logprob      logprob_extra_gb       what log-probs of 24,576 tokens and their backward pass add; goal 1.5
                 logprob_extra_gb_<N>, _full_<N>, _tiled_<N>, and their seconds: against plain logits and DeepSpeed's
                 tiled loss; _score_<N>: log-probs alone, as of the reference
    packing      pack_imbalance         costliest rank over the mean by FLOPs, goal 1.02; _by_tokens for comparison
                 pack_padding, pack_fill

Every round, the sides of `update` take turns in one process with one thread: what else the machine does falls on all.
They start from the same weights and must end at the same ones. TRL is given the trajectories as tensors ready for its
loss, padded as it pads them, and its fastest micro-batch of those tried; its own optimizer and loss, temperature 1, no
KL term, no checkpointing. Where TRL is not installed, its figures are left out (benchmarks/trl.py --setup installs it).
The bare loop has the learner's packed attention and the faster of plain and chunked logits.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.pop(0)  # this folder: `learner` is the room, not this file
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks._figures import add_small, figures_only, say, without_goals
from benchmarks._learner import gradient, logprob, packing, update

GROUPS: dict[str, tuple[Callable[[bool], None], list[str]]] = {
    "packing": (packing.packed, ["pack_imbalance", "pack_imbalance_by_tokens", "pack_padding", "pack_fill"]),
    "update": (update.update, ["update_vs_torch", "update_vs_trl", "update_tokens_per_s"]),
    "update_long": (
        update.update_long,
        ["update_vs_torch_long", "update_vs_trl_long", "update_tokens_per_s_long"],
    ),
    "sharing": (update.sharing, ["update_prompts_once", "update_prompts_once_long"]),
    "scaling": (update.scaling, ["update_seconds_per_token_ratio"]),
    "gradient": (gradient.gradient, ["gradient_max_rel_error"]),
    "growth": (update.growth, ["update_memory_growth"]),
    "logprob": (logprob.logprob, ["logprob_extra_gb"]),
}


def alone(name: str) -> int:
    """A group of figures in a process of its own. Returns its exit code."""
    return subprocess.run([sys.executable, __file__, "--only", name]).returncode


def small(name: str) -> int | None:
    """The same for its small form, in a copy of this process, where DeepSpeed is loaded once for all."""
    import deepspeed  # noqa: F401

    begin = time.monotonic()
    process = multiprocessing.get_context("fork").Process(target=GROUPS[name][0], args=(True,))
    process.start()
    process.join()
    say(f"--- {name}: {time.monotonic() - begin:.1f} s")
    return process.exitcode


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [name for group, (_, figures) in GROUPS.items() for name in (group, *figures)]
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=names, help="groups or figures (all)")
    add_small(parser)
    parser.add_argument("--logprob", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.logprob:
        print(json.dumps(logprob.measure(*arguments.logprob)))
        return
    asked = set(arguments.only or GROUPS)
    chosen = [group for group, (_, figures) in GROUPS.items() if asked & {group, *figures}]
    if arguments.small:
        without_goals()
        figures_only()
    elif len(chosen) == 1:
        figures_only()
        return GROUPS[chosen[0]][0](False)
    run = small if arguments.small else alone
    if failed := [name for name in chosen if run(name)]:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
