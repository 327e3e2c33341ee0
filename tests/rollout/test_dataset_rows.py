"""A data path may be any file format, several files, a folder or an address: the same rows in the same order."""

from __future__ import annotations

import bz2
import csv
import gzip
import json
import lzma
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from conf.schema import DataConf, ValidationConf, WarmupConf
from rollout.base.errors import BadInput
from rollout.data.pairs import load_pairs
from rollout.data.problems import LoadedProblems, load_problems, validation_data

ROWS = [
    {"problem": f"What is {i} + {i}, in \u201cwords\u201d?\n", "answer": str(2 * i), "level": f"k{i % 3}"}
    for i in range(12)
]


def load(path: Any, **conf: Any) -> LoadedProblems:
    return load_problems(DataConf(path=path if isinstance(path, list) else str(path), **conf))


def lines(rows: list[Any]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def separated(path: Path, rows: list[dict[str, Any]], delimiter: str) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0], delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)


def parquet(path: Path, rows: list[Any]) -> None:
    import pyarrow
    import pyarrow.parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    path = tmp_path / "plain.jsonl"
    path.write_bytes(lines(ROWS))
    return path


# ---- one file ----


def test_every_file_format_gives_the_same_data(plain: Path, tmp_path: Path) -> None:
    import datasets
    import pyarrow

    (tmp_path / "a.ndjson").write_bytes(lines(ROWS))
    separated(tmp_path / "a.csv", ROWS, ",")
    separated(tmp_path / "a.tsv", ROWS, "\t")
    separated(tmp_path / "b.csv", ROWS, ";")
    parquet(tmp_path / "a.parquet", ROWS)
    table = pyarrow.Table.from_pylist(ROWS)
    with pyarrow.OSFile(str(tmp_path / "a.arrow"), "wb") as file, pyarrow.ipc.new_stream(file, table.schema) as stream:
        stream.write_table(table, max_chunksize=5)
    with pyarrow.OSFile(str(tmp_path / "b.arrow"), "wb") as file, pyarrow.ipc.new_file(file, table.schema) as whole:
        whole.write_table(table, max_chunksize=5)
    datasets.Dataset.from_list(ROWS).save_to_disk(tmp_path / "saved")
    others = ["a.ndjson", "a.csv", "a.tsv", "b.csv", "a.parquet", "a.arrow", "b.arrow", "saved"]
    for suffix, packed in ((".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress)):
        (tmp_path / f"a.jsonl{suffix}").write_bytes(packed(lines(ROWS)))
        others.append(f"a.jsonl{suffix}")
    with pyarrow.CompressedOutputStream(str(tmp_path / "a.csv.zst"), "zstd") as out:
        out.write((tmp_path / "a.csv").read_bytes())
    expected = load(plain)
    assert len(expected.problems) == 12
    for name in [*others, "a.csv.zst"]:
        found = load(tmp_path / name)
        assert found.sha256 == expected.sha256, name
        assert found.problems[7].uid == f"{tmp_path.name}/{name.split('.')[0]}/7"


def test_the_hash_of_a_jsonl_file_never_changes(tmp_path: Path) -> None:
    """Saved runs hold it and are resumed by it."""
    (tmp_path / "set.jsonl").write_bytes(
        lines([{"question": "1+1?", "answer": "so #### 2"}, {"question": "2+2?", "answer": 4}])
    )
    assert load(tmp_path / "set.jsonl").sha256 == "2a7e317865f81cf291d0496163046708bac5ceb6ac526340c476dbb8d1939248"


def test_texts_of_a_csv_are_taken_literally(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('question,answer\n"a, b",007\n"two\nlines",1e5\n\nlast,"[""3"", ""4""]"\n')
    found = load(tmp_path / "a.csv").problems
    assert [(p.problem, p.answer) for p in found] == [("a, b", "007"), ("two\nlines", "1e5"), ("last", ("3", "4"))]


def test_integers_of_thousands_of_digits_are_read_exactly(tmp_path: Path) -> None:
    digits = "7" * 5000
    for name in ("a.jsonl", "a.json"):
        (tmp_path / name).write_text(f'{{"problem": "p", "answer": {digits}}}\n{{"problem": "q", "answer": 3}}\n')
        assert [p.answer for p in load(tmp_path / name).problems] == [digits, "3"]


def test_columns_that_are_not_used_take_no_memory(tmp_path: Path) -> None:
    """40 MB in a column that is not used, read within a fraction of that."""
    with (tmp_path / "a.jsonl").open("w") as file:
        for i in range(400):
            file.write(json.dumps({"problem": str(i), "answer": "1", "trace": "x" * 100_000}) + "\n")
    script = (
        "import re, sys\n"
        "from conf.schema import DataConf\n"
        "from rollout.data.problems import load_problems\n"
        "peak = lambda: int(re.search(r'VmHWM:\\s+(\\d+) kB', open('/proc/self/status').read())[1])\n"
        "before = peak()\n"
        "assert len(load_problems(DataConf(path=sys.argv[1])).problems) == 400\n"
        "grown = peak() - before\n"
        "heavy = {'torch', 'datasets', 'pyarrow', 'pandas'} & set(sys.modules)\n"
        "assert grown < 15_000 and not heavy, (grown, heavy)\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "a.jsonl")]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]


# ---- several files ----


def test_lists_and_globs_of_files_are_read_in_order(plain: Path, tmp_path: Path) -> None:
    for i, name in enumerate(("part-1", "part-2", "part-10")):
        (tmp_path / f"{name}.jsonl").write_bytes(lines(ROWS[4 * i : 4 * i + 4]))
    expected = load(plain)
    paths = [str(tmp_path / f"{name}.jsonl") for name in ("part-1", "part-2", "part-10")]
    for given in (paths, str(tmp_path / "part-*.jsonl"), [paths[0], str(tmp_path / "part-*[20].jsonl")]):
        found = load(given)
        assert found.sha256 == expected.sha256 and found.rows == 12
    assert found.problems[5].uid == f"{tmp_path.name}/part-2/1" and found.problems[5].source.endswith("/part-2")
    assert found.summary().startswith(f"{tmp_path.name}/part-1, {tmp_path.name}/part-2")
    assert load(paths[::-1]).sha256 != expected.sha256
    with pytest.raises(BadInput, match=r"part-2.jsonl twice"):
        load([paths[1], str(tmp_path / "part-*.jsonl")])
    with pytest.raises(BadInput, match=r"data.path=.*/none-\*: no file matches"):
        load(tmp_path / "none-*")


def test_files_of_different_layouts_and_folders_are_joined(tmp_path: Path) -> None:
    for folder, row in (("a/set", {"question": "1?", "answer": "1"}), ("b/set", {"problem": "2?", "final_answer": 2})):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "x.jsonl").write_bytes(lines([row]))
    found = load([str(tmp_path / "a/set/x.jsonl"), str(tmp_path / "b/set/x.jsonl")]).problems
    assert [(p.problem, p.answer) for p in found] == [("1?", "1"), ("2?", "2")]
    assert len({p.uid for p in found}) == 2


@pytest.mark.parametrize("given", [3, 1.5, ["a.jsonl", 2], [""], {"train": "a.jsonl"}])
def test_a_path_must_be_text(given: Any) -> None:
    with pytest.raises(BadInput, match=r"data.path must be a path or a list of paths"):
        load_problems(DataConf(path=given))


# ---- folders ----


def test_shards_in_a_folder_are_joined_and_must_be_complete(plain: Path, tmp_path: Path) -> None:
    for i in range(3):
        parquet(tmp_path / f"set/data/train-0000{i}-of-00003.parquet", ROWS[4 * i : 4 * i + 4])
    (tmp_path / "set/README.md").write_text("# a data card")
    (tmp_path / "set/dataset_infos.json").write_text("{}")
    (tmp_path / "set/.cache").mkdir()
    (tmp_path / "set/.cache/x.jsonl").write_text("{}")
    assert load(tmp_path / "set").sha256 == load(plain).sha256
    parquet(tmp_path / "set/data/test-00000-of-00001.parquet", ROWS[:2])
    with pytest.raises(BadInput, match=r"several data sets \(data/test.parquet, data/train.parquet\).*data.split="):
        load(tmp_path / "set")
    assert load(tmp_path / "set", split="train").sha256 == load(plain).sha256
    assert load(tmp_path / "set", split="test").rows == 2
    with pytest.raises(BadInput, match=r"no data set named valid \(data/test.parquet, data/train.parquet\)"):
        load(tmp_path / "set", split="valid")
    (tmp_path / "set/data/train-00001-of-00003.parquet").unlink()
    with pytest.raises(BadInput, match=r"2 of the 3 shards of data/train.parquet are there"):
        load(tmp_path / "set", split="train")


def test_a_number_in_a_name_does_not_make_a_shard(tmp_path: Path) -> None:
    for name in ("aime_2024", "aime_2025"):
        (tmp_path / f"{name}.jsonl").write_bytes(lines(ROWS[:3]))
    with pytest.raises(BadInput, match=r"several data sets \(aime_2024.jsonl, aime_2025.jsonl\)"):
        load(tmp_path)
    (tmp_path / "aime_2025.jsonl").unlink()
    assert load(tmp_path).rows == 3


def test_a_saved_dataset_dict_needs_a_split(tmp_path: Path) -> None:
    import datasets

    both = {"train": datasets.Dataset.from_list(ROWS), "test": datasets.Dataset.from_list(ROWS[:2])}
    datasets.DatasetDict(both).save_to_disk(tmp_path / "saved")
    with pytest.raises(BadInput, match=r"has the splits train, test: choose one with data.split"):
        load(tmp_path / "saved")
    assert load(tmp_path / "saved", split="test").rows == 2
    conf = validation_data(ValidationConf(path=str(tmp_path / "saved")), DataConf(split="train"))
    with pytest.raises(BadInput, match=r"validation.path=.* choose one with validation.split"):
        load_problems(conf, "validation")
    (tmp_path / "saved/train/state.json").write_text("{")
    with pytest.raises(BadInput, match="cannot be read as a saved data set"):
        load(tmp_path / "saved", split="train")


# ---- addresses ----


@pytest.fixture
def memory() -> Iterator[Any]:
    """fsspec's file system in memory: an address as any other, and nothing leaves the machine."""
    import fsspec

    system = fsspec.filesystem("memory")
    yield system
    system.rm("/", recursive=True)


def test_addresses_are_read_like_local_files(plain: Path, tmp_path: Path, memory: Any) -> None:
    expected = load(plain)
    assert load(plain.as_uri()).sha256 == expected.sha256
    for i in range(3):
        memory.pipe(f"/bucket/set/train-{i}.jsonl.gz", gzip.compress(lines(ROWS[4 * i : 4 * i + 4])))
    for address in ("memory://bucket/set", "memory://bucket/set/train-*.jsonl.gz", "memory://bucket/set/"):
        found = load(address)
        assert found.sha256 == expected.sha256
        assert found.problems[4].uid == "set/train-1/0"
    with pytest.raises(
        BadInput, match=r"memory://bucket/set/trian-1.jsonl.gz: no such file.*; nearest: train-1.jsonl.gz"
    ):
        load("memory://bucket/set/trian-1.jsonl.gz")


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("s3://bucket/a.jsonl", "pip install s3fs"),
        ("gs://bucket/a.jsonl", "pip install gcsfs"),
        ("ssl://bucket/a.jsonl", "unknown kind of address ssl://"),
        ("file:///nowhere/a.jsonl", "no such file or folder"),
    ],
)
def test_unreadable_addresses_say_what_is_missing(address: str, said: str) -> None:
    import importlib.util

    if (package := said.rpartition(" ")[2]) in ("s3fs", "gcsfs") and importlib.util.find_spec(package):
        pytest.skip(f"{package} is installed here")
    with pytest.raises(BadInput, match=said) as caught:
        load(address)
    assert f"data.path={address}" in str(caught.value) and "\n" not in str(caught.value)


def test_a_relative_path_names_where_it_was_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for path in ("sets/train", "sets/train.jsonl", "openai/gsm8k-mine"):
        with pytest.raises(BadInput, match="no such file or folder") as caught:
            load(path)
        assert str(tmp_path / path) in str(caught.value)


# ---- warm-up pairs and validation sets are read the same way ----


def test_pairs_are_read_from_every_kind_of_path(tmp_path: Path, memory: Any) -> None:
    rows = [{"problem": f"{i}?", "think": f"so</think>\\boxed{{{i}}}", "short": f"\\boxed{{{i}}}"} for i in range(6)]
    (tmp_path / "pairs.jsonl").write_bytes(lines(rows))
    separated(tmp_path / "pairs.csv", rows, ",")
    parquet(tmp_path / "set/pairs-0.parquet", rows[:3])
    parquet(tmp_path / "set/pairs-1.parquet", rows[3:])
    memory.pipe("/pairs.jsonl", lines(rows))
    expected = load_pairs(WarmupConf(path=str(tmp_path / "pairs.jsonl"))).sha256()
    halves = [str(tmp_path / f"set/pairs-{i}.parquet") for i in range(2)]
    for path in (str(tmp_path / "pairs.csv"), str(tmp_path / "set"), halves, "memory://pairs.jsonl"):
        assert load_pairs(WarmupConf(path=path)).sha256() == expected
    with pytest.raises(BadInput, match=r"warmup.path=pairs: no such file.*warmup.revision=<commit>"):
        load_pairs(WarmupConf(path="pairs"))
    with pytest.raises(BadInput, match=r"warmup.path=.*no such file"):
        load_pairs(WarmupConf(path=str(tmp_path / "piars.jsonl")))
