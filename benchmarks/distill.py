"""Distillation: copies of evaluation questions that are found, and rows that no fault loses. Run:
python benchmarks/distill.py

Figures, one JSON line each on stdout (what led to them on stderr):

    distill_found_exact       planted copies, the same but for capitals, spaces, LaTeX, a sentence around; goal 1
    distill_found_renumbered  planted copies with other numbers; goal 0.95
    distill_false_copies      other questions that are taken for copies; goal 0.01, none with --others: in real sets
                              some are copies
    distill_compared_per_s    questions compared
    distill_rows_lost         half of all requests fail, and the command is killed eight times; goal 0
    distill_rows_twice, _rows_differ   likewise
    distill_faults            requests that failed

The questions are generated, or those of --data FILE; the others then those of --others FILE, or generated. Files are
.json or .jsonl with a column `problem` or `question`. About a minute.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.pop(0)
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks._distill.endpoint import endpoint
from benchmarks._distill.likeness import likeness, read
from benchmarks._figures import add_small, figures_only, without_goals


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="GROUP", choices=["copies", "endpoint"], help="groups (both)")
    parser.add_argument("--data", type=Path, metavar="FILE", help="evaluation questions (generated ones)")
    parser.add_argument("--others", type=Path, metavar="FILE", help="questions that are no copies (generated ones)")
    add_small(parser)
    arguments = parser.parse_args()
    if arguments.small:
        without_goals()
    figures_only()
    chosen = arguments.only or ["copies", "endpoint"]
    if "copies" in chosen:
        evaluation, others = (path and read(path) for path in (arguments.data, arguments.others))
        likeness(evaluation, others, arguments.small)
    if "endpoint" in chosen:
        endpoint(arguments.small)


if __name__ == "__main__":
    main()
