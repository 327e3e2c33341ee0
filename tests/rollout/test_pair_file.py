"""Warm-up pairs in a temporary file: what was appended comes back, and memory does not grow with the data set."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollout.data.pair_file import Pair, PairFile, sha256

ROOT = Path(__file__).parents[2]
TEXT = st.text(max_size=20)
SIDES = TEXT, st.none() | TEXT, st.none() | TEXT
GOLD = TEXT | st.lists(TEXT, min_size=2, max_size=3).map(tuple)
PAIRS = st.lists(st.builds(Pair, *SIDES) | st.builds(Pair, *SIDES, GOLD, st.none() | TEXT), max_size=20)


@given(PAIRS, st.randoms(use_true_random=False))
def test_any_pair_comes_back_by_its_number(pairs: list[Pair], rng: object) -> None:
    file = PairFile()
    for place, pair in enumerate(pairs):
        file.append(pair)
        assert file[place] == pair and file[0] == pairs[0]  # also between two that are appended
    assert list(file) == pairs and file[1:-1] == pairs[1:-1] and len(file) == len(pairs)
    assert [file[place - len(pairs)] for place in range(len(pairs))] == pairs
    for place in (len(pairs), -len(pairs) - 1):
        with pytest.raises(IndexError):
            file[place]


@given(PAIRS, PAIRS)
def test_the_hash_is_that_of_all_in_order(one: list[Pair], other: list[Pair]) -> None:
    file = PairFile()
    for pair in one:
        file.append(pair)
    assert sha256(file, other) == hashlib.sha256(b"".join(pair.line() for pair in one + other)).hexdigest()
    assert sha256(file) == sha256(one)


PEAK = """
import resource, sys
from conf.schema import WarmupConf
from rollout.data.pairs import load_pairs
pairs = load_pairs(WarmupConf(path=sys.argv[1]))
total = sum(len(pairs.at(index).think) for index in range(0, pairs.size, 97))
print(pairs.size, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def test_a_thousand_shards_take_no_more_memory_than_ten(tmp_path: Path) -> None:
    """60 MB of text against 0.6 MB."""
    import pyarrow as pa
    from pyarrow import parquet

    peaks = {}
    for shards in (10, 1000):
        folder = tmp_path / str(shards)
        folder.mkdir()
        for shard in range(shards):
            rows = [f"{shard}/{row}" for row in range(20)]
            think = [f"{row} {'so ' * 1000}</think>1" for row in rows]
            parquet.write_table(
                pa.table({"problem": rows, "think": think, "short": rows}), folder / f"{shard:04d}.parquet"
            )
        done = subprocess.run(
            [sys.executable, "-c", PEAK, str(folder)], cwd=ROOT, capture_output=True, text=True, check=True
        )
        size, peaks[shards] = map(int, done.stdout.split())
        assert size == 20 * shards
    assert peaks[1000] < peaks[10] + 15, peaks  # MiB
