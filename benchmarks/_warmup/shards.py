"""Memory and time of reading pairs from few and from many shards.

In: nothing but `small`. Out: figures. Must not know: ranks.

What grows with a data set is in the driver: the pairs, their hash, and the steps' batches, which are made here as
`thinkless warmup` makes them, each number of shards in a process of its own.
"""

from __future__ import annotations

import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks._figures import figure, say
from benchmarks._runs import ROOT
from conf.schema import ModelConf, WarmupConf

ROWS = 200  # of a shard
WORDS = 250  # of a long answer
FEW, MANY = 10, 1000
STEPS = 50
ALLOWED_MIB = (
    32.0  # 8 bytes a pair for its place in the file and 8 for its place in the order: 3 MiB; the rest is noise
)


def write(folder: Path, shards: int) -> None:
    import pyarrow
    import pyarrow.parquet

    words = [f"word{i}" for i in range(997)]
    for shard in range(shards):
        rng = random.Random(shard)
        rows = [
            {
                "problem": f"question {shard}-{row}: {' '.join(rng.choices(words, k=20))}?",
                "think": f"{' '.join(rng.choices(words, k=WORDS))}</think>{row}",
                "short": f"{' '.join(rng.choices(words, k=20))} {row}",
            }
            for row in range(ROWS)
        ]
        name = f"part-{shard:05d}-of-{shards:05d}.parquet"
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / name)


def measure(folder: Path, scratch: Path) -> None:
    """Prints rows, seconds of reading, and the most memory until STEPS batches are made, as JSON."""
    from learner.data.sft import Curriculum
    from rollout.data.pairs import load_pairs
    from rollout.data.tokens import build_character_tokenizer, load_tokenizer

    model, conf = ModelConf(), WarmupConf(path=str(folder), batch_size=8, steps=STEPS, max_tokens=8192)
    build_character_tokenizer(scratch, model)
    begin = time.perf_counter()
    pairs = load_pairs(conf, model)
    seconds = time.perf_counter() - begin
    pairs.sha256()
    for _ in Curriculum(pairs, load_tokenizer(scratch, model), conf, model, 8192, 2).batches():
        pass
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"rows": pairs.size, "seconds": seconds, "mib": peak}))


def shards(small: bool) -> None:
    found = {}
    for count in (2, 4) if small else (FEW, MANY):
        with tempfile.TemporaryDirectory(prefix="thinkless-bench-") as folder:
            data, scratch = Path(folder) / "data", Path(folder) / "model"
            data.mkdir()
            scratch.mkdir()
            write(data, count)
            command = [sys.executable, "-m", "benchmarks._warmup.shards", str(data), str(scratch)]
            done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
            found[count] = json.loads(done.stdout.splitlines()[-1])
            say(f"{count} shards: {found[count]}")
    few, many = found.values()
    each = [one["seconds"] / one["rows"] for one in (few, many)]
    extra = many["mib"] - few["mib"]
    figure("warmup_shards_extra_mib", extra, f"MiB more with {MANY} shards than with {FEW}", ALLOWED_MIB)
    figure("warmup_shards_mib", many["mib"], "MiB of the driver at most")
    figure("warmup_shards_seconds", many["seconds"], f"s to read {many['rows']} pairs once")
    figure("warmup_shards_seconds_ratio", each[1] / each[0], "seconds a pair with many shards over those with few", 1.5)


if __name__ == "__main__":
    measure(Path(sys.argv[1]), Path(sys.argv[2]))
