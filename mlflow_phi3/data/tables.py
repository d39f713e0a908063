"""Rows out of CSV, Parquet and Arrow files, in pieces, with row numbers."""

import csv
import hashlib
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from mlflow_phi3.data.jsonl import CHUNK_BYTES, MAX_ROW_BYTES, Row, Span
from mlflow_phi3.data.validate import Problem
from mlflow_phi3.errors import DataError

_DELIMITERS = (",", ";", "\t", "|")
_ARROW_ROWS = 4096
_READ_BYTES = 1 << 20


def hash_file(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def plan_csv(path: Path, *, chunk_bytes: int = CHUNK_BYTES) -> list[Span]:
    """Cut a CSV file between records: at line ends with an even number of quotes before them."""
    spans: list[Span] = []
    start, line, at, lines, quotes = 0, 1, 0, 0, 0
    with path.open("rb") as stream:
        while block := stream.read(chunk_bytes):
            cut = _last_record_end(block, quotes)
            if cut:
                spans.append(Span(start, at + cut, line))
                line += lines + block[:cut].count(b"\n")
                start, lines = at + cut, block[cut:].count(b"\n")
            else:
                lines += block.count(b"\n")
            quotes += block.count(b'"')
            at += len(block)
    if start < at:
        spans.append(Span(start, at, line))
    return spans


def _last_record_end(block: bytes, quotes_before: int) -> int:
    """Past the last line end outside quotes; 0 when there is none."""
    quotes = quotes_before + block.count(b'"')
    end = len(block)
    while (place := block.rfind(b"\n", 0, end)) >= 0:
        quotes -= block.count(b'"', place, end)
        if quotes % 2 == 0:
            return place + 1
        end = place
    return 0


def read_header(path: Path) -> tuple[list[str], str]:
    """Column names of a CSV file, and its delimiter.

    Raises:
        DataError: It is not UTF-8, or has no header.
    """
    with path.open("rb") as stream:
        head = stream.read(_READ_BYTES).removeprefix(b"\xef\xbb\xbf")
    text = head.decode(errors="surrogateescape")
    first = text.lstrip("\r\n").split("\n", 1)[0]
    delimiter = max(_DELIMITERS, key=first.count)
    try:
        names = next((row for row in csv.reader(io.StringIO(text), delimiter=delimiter) if row), [])
    except csv.Error as error:
        raise _broken_table(path, str(error)) from error
    if not names or "\udc00" <= max("".join(names), default="") <= "\udfff":
        raise _broken_table(path, "no header in UTF-8")
    return [name.strip() for name in names], delimiter


def read_csv(path: Path, span: Span) -> Iterator[Row]:
    """Parse the records of a piece; the line is the one where a record begins."""
    names, delimiter = read_header(path)
    with path.open("rb") as stream:
        stream.seek(span.start)
        data = stream.read(span.end - span.start)
    text = data.removeprefix(b"\xef\xbb\xbf").decode(errors="surrogateescape")
    csv.field_size_limit(MAX_ROW_BYTES)
    records = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    skip_header = span.start == 0
    while True:
        line = span.line + records.line_num
        try:
            record = next(records)
        except StopIteration:
            return
        except csv.Error as error:
            problem = Problem("PHI3-D034", f"not a CSV record: {error}")
            yield Row(line, problem=problem)
            continue
        if not record:
            continue
        if skip_header:
            skip_header = False
            continue
        yield _to_row(line, names, record)


def _to_row(line: int, names: Sequence[str], record: Sequence[str]) -> Row:
    raw = json.dumps(record, ensure_ascii=False)
    if len(record) != len(names):
        text = f"{len(record)} fields under {len(names)} column names"
        return Row(line, problem=Problem("PHI3-D034", text), raw=raw)
    value = dict(zip(names, record, strict=True))
    if any("\udc80" <= max(field, default="") <= "\udcff" for field in record):
        return Row(line, problem=Problem("PHI3-D001", "a field is not UTF-8"), raw=raw)
    return Row(line, value, raw=raw)


def plan_parquet(path: Path) -> list[Span]:
    """One piece a row group; start and end number row groups.

    Raises:
        DataError: The file is no Parquet file.
    """
    try:
        metadata = pq.ParquetFile(path).metadata
    except (pa.ArrowException, OSError) as error:
        raise _broken_table(path, str(error)) from error
    spans, line = [], 1
    for group in range(metadata.num_row_groups):
        spans.append(Span(group, group + 1, line))
        line += metadata.row_group(group).num_rows
    return spans


def read_parquet(path: Path, span: Span) -> Iterator[Row]:
    """The rows of row groups."""
    groups = list(range(span.start, span.end))
    batches = pq.ParquetFile(path).iter_batches(batch_size=_ARROW_ROWS, row_groups=groups)
    yield from _from_batches(batches, span.line)


def plan_arrow(path: Path, *, first_line: int = 1) -> list[Span]:
    """Pieces of an Arrow stream, as ``datasets`` keeps it; start and end number batches."""
    spans, line, start, rows = [], first_line, 0, 0
    number = -1
    with pa.memory_map(str(path)) as mapped, pa.ipc.open_stream(mapped) as stream:
        for number, batch in enumerate(stream):
            rows += len(batch)
            if rows >= _ARROW_ROWS:
                spans.append(Span(start, number + 1, line))
                line, start, rows = line + rows, number + 1, 0
    if rows:
        spans.append(Span(start, number + 1, line))
    return spans


def read_arrow(path: Path, span: Span) -> Iterator[Row]:
    """The rows of some batches of an Arrow stream."""
    with pa.memory_map(str(path)) as mapped, pa.ipc.open_stream(mapped) as stream:
        batches = (batch for number, batch in enumerate(stream) if span.start <= number < span.end)
        yield from _from_batches(batches, span.line)


def _from_batches(batches: Iterator[pa.RecordBatch], line: int) -> Iterator[Row]:
    for batch in batches:
        for value in batch.to_pylist():
            yield Row(line, value, raw=json.dumps(value, ensure_ascii=False, default=str))
            line += 1


def _broken_table(path: Path, problem: str) -> DataError:
    return DataError(
        "PHI3-D034", f"not a table that can be read: {problem}", where=path.name,
        fix="write it again as UTF-8 CSV with a header, or as Parquet",
    )  # fmt: skip
