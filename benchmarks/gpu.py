"""What one GPU does: the first minutes on a lent or bought one, by one command. docs/gpu.md says how to read it.

    python benchmarks/gpu.py --out gpu.jsonl

needs torch (2.11 or later), transformers, deepspeed and what they need; neither Ray nor vLLM. Every part runs in a
process of its own for at most five minutes; if one fails, the others still run, and the exit code is 1 at the end. With
--out, the same command goes on where it was interrupted: finished parts are skipped. Figures, one JSON line each on
stdout (what led to them on stderr):

    attention     attention_error_<row>, attention_grad_error_<row>: flash attention against float32, a row of one
                  sequence of 24,576 tokens, and a ragged one; attention_tflops_<row>; _fa3: flash attention 3, if it is
                  installed
    learner       mfu, hfu, gpu_tokens_per_s: an update of the 1.5B shape, rows of 26,624 tokens, one answer each
                  (_packed: eight); gpu_<phase>_gib: peak memory; gpu_peak_over_plan: over that of the formulas;
                  head_plain_over_fused, head_plain_gib, head_fused_gib: log-probs by all logits and chunk by chunk
    accumulation  accumulation_error_zero<1|2>: gradients of 80 micro-batches against their exact sum;
                  accumulation_error_bfloat16: added in bfloat16, for comparison
    offload       offload_gb, offload_seconds, reload_seconds, offload_left_mib; _again: into host memory that is there
                  already; offload_equal: share of the tensors that came back bit for bit
    ipc           ipc_equal: share of 20 pushes to another process that arrived bit for bit; ipc_gb_per_s;
                  ipc_leak_mib: what memory grows by from the 3rd push to the 20th; ipc_left_mib: what is left after
                  the 20th above what was held before the first (on a
                  CPU that counts libraries' own pages)
    mismatch      learner_mismatch_mean, _p999, _max: log-probs in bfloat16 against float32; learner_mismatch_head: the
                  mean with a float32 head over that without; head_error: log-probs by the float32 head against
                  float64 logits of the same hidden states; head_error_bfloat16: by a bfloat16 head
    sampler       where vLLM is installed: sampler against learner, some of benchmarks/mismatch.py's figures

--small runs all of it on the CPU, as small as can be.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

sys.path.pop(0)  # this folder: `learner` is the room, not a file here
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks._figures import add_small, say
from benchmarks._gpu.parts import Part, finished, run

PARTS = [
    Part("attention", "benchmarks._gpu.attention:attention", 1, 300, "flash attention against float32"),
    Part("learner", "benchmarks._gpu.learner:learner", 3, 300, "speed and memory of the learner's update"),
    Part("accumulation", "benchmarks._gpu.accumulation:accumulation", 1, 300, "gradients of 80 micro-batches"),
    Part("offload", "benchmarks._gpu.offload:offload", 1, 300, "the learner leaves the GPU and comes back"),
    Part("ipc", "benchmarks._gpu.ipc:ipc", 1, 300, "weights to another process on the same GPU"),
    Part("mismatch", "benchmarks._gpu.mismatch:mismatch", 1, 300, "log-probs in bfloat16 against float32"),
    Part("sampler", "benchmarks._gpu.mismatch:sampler", 2, 300, "sampler against learner; needs vLLM"),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [part.name for part in PARTS]
    parser.add_argument("--part", nargs="+", metavar="NAME", choices=names, help=f"of {', '.join(names)} (all)")
    parser.add_argument("--list", action="store_true", help="the parts and the minutes that each takes")
    parser.add_argument("--out", type=Path, help="file to add results to; parts that it says are finished are skipped")
    parser.add_argument("--again", action="store_true", help="run parts that are finished as well")
    add_small(parser)
    arguments = parser.parse_args()
    if arguments.list:
        for part in PARTS:
            print(f"{part.name:14} {part.minutes:g} min, at most {part.limit_s / 60:g}   {part.text}")
        return
    done = set() if arguments.again else finished(arguments.out, arguments.small)
    chosen = [part for part in PARTS if part.name in (arguments.part or names)]
    for part in chosen:
        if part.name in done:
            say(f"--- {part.name}: finished before, in {arguments.out}")
    chosen = [part for part in chosen if part.name not in done]
    if arguments.small and chosen:
        os.environ.update(DS_ACCELERATOR="cpu", CUDA_VISIBLE_DEVICES="")
        import deepspeed  # noqa: F401 (once for all parts, which are copies of this process)
        import transformers  # noqa: F401
    failed = run(chosen, arguments.small, arguments.out, lambda line: print(line, flush=True))
    if failed:
        sys.exit(f"failed: {', '.join(failed)}; --part {' '.join(failed)} runs them alone")


if __name__ == "__main__":
    main()
