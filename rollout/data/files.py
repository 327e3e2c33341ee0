"""Rows of one local data file or table, iterable any number of times and streamed if possible.

In: the path of a file. Out: `Rows`. JSON lines, CSV, parquet and arrow are streamed; a .json file is read at once.
Anything the user can fix is `BadInput`. Must not know: where the file came from, what its columns mean.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import itertools
import json
import lzma
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rollout.base.errors import BadInput

Row = Mapping[str, Any]


def _open_zst(path: Path) -> Any:
    import pyarrow

    return io.BufferedReader(pyarrow.CompressedInputStream(pyarrow.OSFile(str(path)), "zstd"))


LINES = (".jsonl", ".ndjson")
SEPARATED = {".csv": ",", ".tsv": "\t"}
TABLES = (".parquet", ".arrow")
SUFFIXES = (*LINES, ".json", *SEPARATED, *TABLES)
# after any of SUFFIXES except those of TABLES
OPENERS: dict[str, Callable[[Path], Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open, ".zst": _open_zst}
COMPRESSED = tuple(OPENERS)
BATCH = 1000  # rows of a table held as Python objects at a time


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows as dicts, as published."""

    read: Callable[[Sequence[str] | None], Iterator[Row]]  # names of the needed columns; None: all
    schema: Sequence[str] | None = None  # column names, if the file declares them

    def columns(self) -> list[str]:
        """Column names in order of appearance; the fields of an object in a column follow it as "column.field"."""
        if self.schema is not None:
            return list(self.schema)
        return list(dict.fromkeys(name for row in self.read(None) for name in _names(row)))


def kind_of(name: str) -> str | None:
    """The suffix that decides how a file is read: ".jsonl" for "a.jsonl.gz"; None if unknown."""
    path = Path(name)
    if path.suffix in COMPRESSED:
        inner = Path(path.stem).suffix
        return inner if inner in SUFFIXES and inner not in TABLES else None
    return path.suffix if path.suffix in SUFFIXES else None


def stem_of(name: str) -> str:
    """ "train" for "train.jsonl" and for "train.jsonl.gz"."""
    path = Path(name)
    return Path(path.stem).stem if path.suffix in COMPRESSED else path.stem


def rows_of(path: Path, where: str) -> Rows:
    """The rows of the file `path`; `where` is its name in messages.

    Raises BadInput, here or while the rows are read: not readable, malformed (with the line), a row that is not an
    object.
    """
    kind = kind_of(path.name)
    if kind in TABLES:
        return _table_file(path, kind, where)
    read = _json if kind == ".json" else _json_lines if kind in LINES else _separated

    def rows(names: Sequence[str] | None) -> Iterator[Row]:
        with _readable(where):
            for index, row in enumerate(read(path, where)):
                if not isinstance(row, dict):
                    what = type(row).__name__
                    raise BadInput(f"{where}: row {index} is a {what}; each row must be an object with columns")
                yield row

    if kind == ".json":
        whole = list(rows(None))
        return Rows(lambda names: iter(whole))
    return Rows(rows)


def table(columns: Any, batches: Callable[[Sequence[str] | None], Iterable[Any]], where: str) -> Rows:
    """Rows of arrow record batches. columns: their pyarrow schema; where: their name in messages."""
    import pyarrow

    named: list[str] = []
    for field in columns:
        named.append(field.name)
        if pyarrow.types.is_struct(field.type):
            named += [f"{field.name}.{inner.name}" for inner in field.type]
    top = {field.name for field in columns}

    def read(names: Sequence[str] | None) -> Iterator[Row]:
        wanted = None if names is None else [name if name in top else name.partition(".")[0] for name in names]
        for batch in batches(None if wanted is None else list(dict.fromkeys(wanted))):
            for start in range(0, batch.num_rows, BATCH):
                try:
                    found = batch.slice(start, BATCH).to_pylist()
                except ValueError as error:  # text that is not UTF-8, two columns of a name, a date out of range
                    raise BadInput(f"{where}: rows from {start} on cannot be read ({first_line(error)})") from error
                yield from found

    return Rows(read, named)


def listed(names: Iterable[Any]) -> str:
    return ", ".join(map(str, names))


def first_line(error: BaseException) -> str:
    return (str(error).strip() or "no message").splitlines()[0][:200]


# ---- rows ----


def _names(row: Row) -> Iterator[str]:
    for name, value in row.items():
        yield name
        if isinstance(value, Mapping):
            yield from (f"{name}.{inner}" for inner in value)


@contextmanager
def _readable(where: str, kind: str = "", malformed: type[Exception] | tuple[()] = ()) -> Iterator[None]:
    """Errors of the file system, a decompressor or a decoder become BadInput, as does `malformed` for a `kind` file."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise BadInput(f"{where}: not UTF-8 text (byte {error.start}); convert it to UTF-8") from error
    except malformed as error:
        raise BadInput(f"{where}: not a {kind} file ({first_line(error)})") from error
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise BadInput(f"{where}: cannot be read ({first_line(error)})") from error


def _opened(path: Path) -> Any:
    return OPENERS[path.suffix](path) if path.suffix in OPENERS else path.open("rb")


# ---- JSON ----


def _json_lines(path: Path, where: str) -> Iterator[Any]:
    start = 0  # of the line, in bytes
    with _opened(path) as file:
        for number, line in enumerate(file, start=1):  # split only at \n: a string may contain U+2028
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                error.start += start
                raise
            start += len(line)
            if text.strip():
                yield _value(text, where, number)


def _json(path: Path, where: str) -> Iterable[Any]:
    """A list of objects, an object of lists, {"data": [...]}, or one object per line."""
    with _opened(path) as file:
        text = file.read().decode("utf-8-sig")
    if not text.strip():
        return []
    try:
        whole = _value(text, where)
    except BadInput as error:
        if isinstance(error.__cause__, json.JSONDecodeError) and error.__cause__.msg == "Extra data":
            return _json_lines(path, where)  # the first value is complete: one object per line
        raise
    del text
    if isinstance(whole, list):
        return whole
    if isinstance(whole, dict) and whole and all(isinstance(column, list) for column in whole.values()):
        columns: list[list[Any]] = list(whole.values())
        if len(columns) == 1 and all(isinstance(row, dict) for row in columns[0]):
            return columns[0]  # {"data": [{...}, ...]}
        if len({len(column) for column in columns}) > 1:
            sizes = listed(f"{name}: {len(column)}" for name, column in whole.items())
            raise BadInput(f"{where}: its columns differ in length ({sizes}); fix the file")
        return [dict(zip(whole, values, strict=True)) for values in zip(*columns, strict=True)]
    raise BadInput(f"{where}: contains a {type(whole).__name__}; must be a list of objects or an object of lists")


def _value(text: str, where: str, line: int | None = None) -> Any:
    """`text` as a JSON value; `line` is its number if the file has one value per line."""
    try:
        try:
            return json.loads(text)
        except json.JSONDecodeError:
            raise
        except ValueError:  # an integer with more digits than Python converts: keep its digits as text
            return json.loads(text, parse_int=lambda digits: int(digits) if len(digits) < 4000 else digits)
    except json.JSONDecodeError as error:
        at = line or error.lineno
        raise BadInput(f"{where}, line {at}: not JSON ({error.msg}, column {error.colno}); fix that line") from error
    except RecursionError as error:
        raise BadInput(
            f"{where}{f', line {line}' if line else ''}: JSON nested too deeply; no row needs that"
        ) from error


# ---- CSV and TSV: every value is text, unchanged ("007" stays "007") ----


def _separated(path: Path, where: str) -> Iterator[Row]:
    csv.field_size_limit(2**31 - 1)  # a worked solution may exceed the library's 128 KiB
    with io.TextIOWrapper(_opened(path), encoding="utf-8-sig", newline="") as text:
        header = text.readline()
        separator = SEPARATED[str(kind_of(path.name))]
        if separator not in header and ";" in header:  # as European spreadsheets write it
            separator = ";"
        reader = csv.reader(itertools.chain([header], text), delimiter=separator, strict=True)
        try:
            names = next(reader, [])
            if twice := [name for name in names if names.count(name) > 1]:
                raise BadInput(f"{where}: its first line must name the columns; {twice[0]!r} occurs twice")
            for values in reader:
                if len(values) > len(names):
                    raise BadInput(
                        f"{where}, line {reader.line_num}: {len(values)} values for {len(names)} columns "
                        f"({listed(names)}); put values that contain {separator!r} in quotation marks"
                    )
                if values:
                    yield dict(zip(names, values + [None] * (len(names) - len(values)), strict=True))
        except csv.Error as error:
            raise BadInput(f"{where}, line {reader.line_num}: not CSV ({error}); fix that line") from error


# ---- parquet and arrow ----


def _table_file(path: Path, kind: str, where: str) -> Rows:
    import pyarrow
    import pyarrow.parquet

    def batches(names: Sequence[str] | None) -> Iterator[Any]:
        with _readable(where, kind, pyarrow.ArrowException):
            if kind == ".parquet":
                with pyarrow.parquet.ParquetFile(path) as file:
                    yield from file.iter_batches(BATCH, columns=names)
            else:
                whole = _arrow(path).read_all()
                yield from (whole if names is None else whole.select(names)).to_batches()

    with _readable(where, kind, pyarrow.ArrowException):
        columns = pyarrow.parquet.read_schema(path) if kind == ".parquet" else _arrow(path).schema
        return table(columns, batches, where)


def _arrow(path: Path) -> Any:
    """A reader of arrow's file format, or of its stream format (written by `datasets`); memory-mapped."""
    import pyarrow

    source = pyarrow.memory_map(str(path))
    try:
        return pyarrow.ipc.open_file(source)
    except pyarrow.ArrowInvalid:
        source.seek(0)
        return pyarrow.ipc.open_stream(source)
