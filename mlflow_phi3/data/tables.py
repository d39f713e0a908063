"""Rows out of CSV, Parquet and Arrow files, in pieces, with row numbers."""

import csv
import hashlib
import io
import json
import re
from codecs import BOM_UTF8
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, TextIO

import pyarrow as pa
import pyarrow.parquet as pq

from mlflow_phi3.data.jsonl import CHUNK_BYTES, MAX_ROW_BYTES, RawRow, Span, refuse_foreign
from mlflow_phi3.data.validate import Problem
from mlflow_phi3.errors import DataError

_NOT_UTF8 = re.compile("[\udc80-\udcff]")  # what surrogateescape makes of such bytes
_DELIMITERS = (",", ";", "\t", "|")
# The first line by which Excel says what divides the fields; the header follows.
_EXCEL_LINE = re.compile(r"sep=([\t -!#-~])[\r\n]*", re.IGNORECASE)
# What Python makes of a cell that is not UTF-8, a time beyond the year 9999, an unknown time zone.
_UNREADABLE = (ValueError, OverflowError, LookupError, pa.ArrowException)
_ARROW_ROWS = 4096
_READ_BYTES = 1 << 20
# Of a row group that pieces share: for each of them, what stands before it is decoded again.
_SHARED_BYTES = 64 << 20


def hash_file(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def plan_csv(path: Path, *, chunk_bytes: int = CHUNK_BYTES) -> list[Span]:
    """Cut a CSV file between records, as :func:`read_csv` tells them apart.

    Raises:
        DataError: It has no header that can be read.
    """
    _, delimiter, _ = read_header(path)
    spans: list[Span] = []
    start, line, at = 0, 1, 0

    def lines(stream: TextIO) -> Iterator[str]:
        nonlocal at
        for text in stream:
            at += len(text)
            yield text

    # In Latin-1 a character is a byte; delimiters and quotes are the same in UTF-8.
    with path.open(encoding="latin-1", newline="") as stream:
        for _, past, _ in _records(lines(stream), delimiter):
            if at - start >= chunk_bytes:
                spans.append(Span(start, at, line))
                start, line = at, past + 1
    if start < at:
        spans.append(Span(start, at, line))
    return spans


def _records(lines: Iterable[str], delimiter: str) -> Iterator[tuple[int, int, list[str] | str]]:
    """The records of CSV.

    Strict: else a quote that nothing closes would swallow the rest of a file.

    Args:
        lines: Text, cut at every line end.
        delimiter: What stands between fields.

    Yields:
        Lines before the record, lines up to its end, and its fields, or what is wrong with it.
    """
    csv.field_size_limit(MAX_ROW_BYTES)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    while True:
        before = reader.line_num
        try:
            record: list[str] | str = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            record = str(error)
        yield before, reader.line_num, record


def read_header(path: Path) -> tuple[list[str], str, int]:
    """Column names of a CSV file, its delimiter, and the line where the header ends.

    Raises:
        DataError: It is not UTF-8, has no header, or two columns of one name.
    """
    with path.open("rb") as stream:
        head = stream.read(_READ_BYTES)
    refuse_foreign(head, path.name)
    text = head.removeprefix(BOM_UTF8).decode(errors="surrogateescape")
    first = next(io.StringIO(text.lstrip("\r\n"), newline=""), "")
    if told := _EXCEL_LINE.fullmatch(first):
        delimiter = told[1]
    else:
        delimiter = "\t" if path.suffix.lower() == ".tsv" else max(_DELIMITERS, key=first.count)
    records = (record for record in _records(io.StringIO(text, newline=""), delimiter) if record[2])
    _, past, names = next(islice(records, 1 if told else 0, None), (0, 0, []))
    if isinstance(names, str):
        raise _broken_table(path, names)
    if not names or _NOT_UTF8.search("".join(names)):
        raise _broken_table(path, "no header in UTF-8")
    names = [name.strip() for name in names]
    _refuse_twins(names, path)
    return names, delimiter, past


def _refuse_twins(names: Sequence[str], path: Path) -> None:
    """Refuse two columns of one name, of which the last alone would be read."""
    twice = next((name for at, name in enumerate(names) if name and name in names[:at]), None)
    if twice is not None:
        raise _broken_table(path, f"two columns are named {twice!r}")


def read_csv(path: Path, span: Span) -> Iterator[RawRow]:
    """Parse the records of a piece; the line is the one where a record begins."""
    names, delimiter, header = read_header(path)
    with path.open("rb") as stream:
        stream.seek(span.start)
        data = stream.read(span.end - span.start)
    text = data.removeprefix(BOM_UTF8).decode(errors="surrogateescape")
    lines = list(io.StringIO(text, newline=""))
    for before, past, record in _records(lines, delimiter):
        line = span.line + before
        if isinstance(record, str):
            problem = Problem("PHI3-D034", f"not a CSV record: {record}")
            yield RawRow(line, problem=problem, raw="".join(lines[before:past]))
        elif record and line > header:
            yield _to_row(line, names, record)


def _to_row(line: int, names: Sequence[str], record: Sequence[str]) -> RawRow:
    raw = json.dumps(record, ensure_ascii=False)
    if len(record) != len(names):
        text = f"found fields: {len(record)}; expected, as in the header: {len(names)}"
        return RawRow(line, problem=Problem("PHI3-D034", text), raw=raw)
    for name, field in zip(names, record, strict=True):
        if not field.isascii() and (found := _NOT_UTF8.search(field)):
            text = f"byte 0x{ord(found[0]) - 0xDC00:02x} in {name!r} is not UTF-8"
            return RawRow(line, problem=Problem("PHI3-D001", text), raw=raw)
    return RawRow(line, dict(zip(names, record, strict=True)), raw=raw)


def plan_parquet(path: Path) -> list[Span]:
    """Pieces of row groups; start and end number rows.

    Raises:
        DataError: The file is no Parquet file, or has two columns of one name.
    """
    spans: list[Span] = []
    with _opened(path):
        file = pq.ParquetFile(path)
    _refuse_twins(file.schema_arrow.names, path)
    metadata = file.metadata
    row = 0
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        parts = -(-group.total_byte_size // _SHARED_BYTES) or 1
        ends = [row + group.num_rows * part // parts for part in range(parts + 1)]
        spans += [Span(start, end, start + 1) for start, end in pairwise(ends) if start < end]
        row += group.num_rows
    return spans


def read_parquet(path: Path, span: Span) -> Iterator[RawRow]:
    """The rows of a piece, which lies within one row group.

    Raises:
        DataError: They cannot be decoded.
    """
    with _opened(path):
        file = pq.ParquetFile(path)
        number, first = 0, 0
        while first + (rows := file.metadata.row_group(number).num_rows) <= span.start:
            number, first = number + 1, first + rows
        batches = file.iter_batches(batch_size=_ARROW_ROWS, row_groups=[number])
        yield from _from_batches(_cut(batches, span.start - first, span.end - first), span.line)


def _cut(batches: Iterable[pa.RecordBatch], start: int, end: int) -> Iterator[pa.RecordBatch]:
    """The rows ``[start, end)`` of batches that follow one another."""
    first = 0
    for batch in batches:
        past = first + len(batch)
        if past > start:
            yield batch.slice(max(start - first, 0), min(end, past) - max(start, first))
        if past >= end:
            return
        first = past


def plan_arrow(path: Path, *, first_line: int = 1) -> list[Span]:
    """Pieces of an Arrow stream, as ``datasets`` keeps it; start and end number batches.

    Raises:
        DataError: The file is no Arrow stream, or has two columns of one name.
    """
    spans, line, start, rows = [], first_line, 0, 0
    number = -1
    with _opened(path), pa.memory_map(str(path)) as mapped, pa.ipc.open_stream(mapped) as stream:
        _refuse_twins(stream.schema.names, path)
        for number, batch in enumerate(stream):
            rows += len(batch)
            if rows >= _ARROW_ROWS:
                spans.append(Span(start, number + 1, line))
                line, start, rows = line + rows, number + 1, 0
    if rows:
        spans.append(Span(start, number + 1, line))
    return spans


def count_arrow(path: Path) -> int:
    """Rows of an Arrow stream."""
    with pa.memory_map(str(path)) as mapped, pa.ipc.open_stream(mapped) as stream:
        return sum(map(len, stream))


def read_arrow(path: Path, span: Span) -> Iterator[RawRow]:
    """The rows of some batches of an Arrow stream.

    Raises:
        DataError: They cannot be read.
    """
    with _opened(path), pa.memory_map(str(path)) as mapped, pa.ipc.open_stream(mapped) as stream:
        yield from _from_batches(islice(stream, span.start, span.end), span.line)


def _from_batches(batches: Iterable[pa.RecordBatch], line: int) -> Iterator[RawRow]:
    for batch in batches:
        classes = _class_names(batch.schema)
        for value, unread in _to_values(batch):
            raw = json.dumps(value, ensure_ascii=False, default=str)
            for column, names in classes.items():
                value[column] = _class_name(value[column], names)
            yield RawRow(line, value, raw=raw, unread=unread)
            line += 1


def _to_values(batch: pa.RecordBatch) -> Iterable[tuple[dict[str, Any], dict[str, str]]]:
    """The rows of a batch, and by column why a cell of theirs cannot be read."""
    try:
        return [(value, {}) for value in batch.to_pylist()]
    except _UNREADABLE:
        return [_to_value(batch, row) for row in range(len(batch))]


def _to_value(batch: pa.RecordBatch, row: int) -> tuple[dict[str, Any], dict[str, str]]:
    value: dict[str, Any] = {}
    unread: dict[str, str] = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        try:
            value[name] = column[row].as_py()
        except _UNREADABLE as error:
            value[name], unread[name] = None, f"{type(error).__name__}: {error}"
    return value, unread


def _class_names(schema: pa.Schema) -> dict[str, list[str]]:
    """The classes of each column that holds their numbers, as ``datasets`` notes them."""
    noted = json.loads((schema.metadata or {}).get(b"huggingface", "{}"))
    features = noted.get("info", {}).get("features", {})
    return {
        column: feature["names"]
        for column, feature in features.items()
        # What is renamed or left out by another program stays noted.
        if column in schema.names
        and isinstance(feature, dict)
        and feature.get("_type") == "ClassLabel"
    }


def _class_name(value: object, names: Sequence[str]) -> object:
    """The name behind a number; ``datasets`` writes -1 for a class that is not known."""
    if not isinstance(value, int) or value >= len(names):
        return value
    return names[value] if value >= 0 else None


@contextmanager
def _opened(path: Path) -> Iterator[None]:
    """Say which file it is that Arrow cannot read."""
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise _broken_table(path, str(error)) from error


def _broken_table(path: Path, problem: str) -> DataError:
    return DataError(
        "PHI3-D034",
        f"not a table that can be read: {problem}",
        where=path.name,
        fix="write it again as UTF-8 CSV with a header, or as Parquet",
    )
