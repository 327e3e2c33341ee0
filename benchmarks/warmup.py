"""Warm-ups: kills that change no bit, memory that does not grow with the data, rows that are full. Run:
python benchmarks/warmup.py

Figures, one JSON line each on stdout (what led to them on stderr); --only takes groups by name.

    kills    warmup_kill_points            kills at random moments, of everything or of the driver alone; goal 20
             warmup_kills_lost_all         kills at the end that left neither a checkpoint nor a model; goal 0
             warmup_killed_differ          finished warm-ups that differ in a bit from the one left alone; goal 0
             warmup_killed_zero_1_differ, _zero_2_differ   the same on two ranks under ZeRO 1 and 2
             warmup_stopped_differ         the same after Ctrl-C and SIGTERM
    shards   warmup_shards_extra_mib       the driver's memory over 1,000 shards of pairs minus that over 10; goal 32
             warmup_shards_mib, _seconds   over 1,000 shards: all of it; reading them once
             warmup_shards_seconds_ratio   seconds a pair over those with 10 shards; goal 1.5
    packing  warmup_pack_fill              on 4 and 8 ranks, rows of 24,576 and 49,152 tokens; _fill_dealt: data's order
             warmup_pack_fill_vs_most      of what rows of uncut answers could be filled to; goal 0.95
             warmup_pack_imbalance         costliest rank over the mean by FLOPs, the worst step; goal 1.02; _dealt
             warmup_pack_in_step           the same if ranks wait for each other after every row; goal 1.1
             warmup_pack_padding, _padding_unpacked, warmup_pack_ms
    ranks    warmup_two_ranks_vs_one       the quickstart's warm-up on two cores: steps/s on two ranks over one; 1.05
             warmup_two_threads_vs_one, warmup_steps_per_s

About 15 minutes, 12 of them kills. The small form kills one warm-up once.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.pop(0)
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks._figures import add_small, figures_only, without_goals
from benchmarks._warmup import kills, packing, ranks, shards

GROUPS: dict[str, Callable[[bool], None]] = {
    "packing": packing.packed,
    "shards": shards.shards,
    "ranks": ranks.ranks,
    "kills": kills.killed,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="GROUP", choices=list(GROUPS), help="groups (all)")
    add_small(parser)
    arguments = parser.parse_args()
    if arguments.small:
        without_goals()
    figures_only()
    for name in arguments.only or GROUPS:
        GROUPS[name](arguments.small)


if __name__ == "__main__":
    main()
