"""JSON Lines in pieces of a file, with line numbers; memory does not grow with the file."""

import hashlib
import json
import re
from codecs import BOM_UTF8
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np

from mlflow_phi3.data.validate import Problem
from mlflow_phi3.errors import DataError

CHUNK_BYTES = 4 << 20
MAX_ROW_BYTES = 16 << 20
_LINE_END = ord("\n")
# Whole magic numbers: a header may begin with PK or PA as well.
_FOREIGN = {
    rb"\xff\xfe|\xfe\xff": ("UTF-16 or UTF-32", "save it as UTF-8"),
    rb"\x1f\x8b": ("packed by gzip", "unpack it"),
    rb"BZh[1-9]": ("packed by bzip2", "unpack it"),
    rb"\xfd7zXZ\x00": ("packed by xz", "unpack it"),
    rb"\x28\xb5\x2f\xfd": ("packed by Zstandard", "unpack it"),
    rb"PK(?:\x03\x04|\x05\x06)": (
        "a ZIP archive or a workbook",
        "unpack it, or save the sheet as CSV",
    ),
    rb"PAR1": ("a Parquet file", "let its name end in .parquet"),
}


@dataclass(frozen=True, slots=True)
class Span:
    """Whole lines of a file.

    Args:
        start: Byte at which the first line begins.
        end: Byte after the last line.
        line: Number of the first line, from 1.
    """

    start: int
    end: int
    line: int


@dataclass(frozen=True, slots=True)
class RawRow:
    """A row as it was read.

    Args:
        line: Line or row number, from 1.
        value: What it holds, when it could be read.
        problem: Why it could not.
        raw: The row's text, for ``rejected.jsonl``; of one too long to be read, its beginning.
        unread: Why a cell could not be read, by its column; the value has None there.
    """

    line: int
    value: object = None
    problem: Problem | None = None
    raw: str = ""
    unread: Mapping[str, str] = field(default_factory=dict)


def plan_spans(path: Path) -> tuple[list[Span], str]:
    """Cut a file at line ends into pieces, and hash it on the way.

    Returns:
        The pieces in order, and the SHA-256 of the file.

    Raises:
        DataError: The file is no text in UTF-8.
    """
    digest = hashlib.sha256()
    spans: list[Span] = []
    start, line, at = 0, 1, 0
    with path.open("rb") as stream:
        while block := stream.read(CHUNK_BYTES):
            if at == 0:
                refuse_foreign(block, path.name)
            digest.update(block)
            last = block.rfind(b"\n")
            if last >= 0:
                spans.append(Span(start, at + last + 1, line))
                line += _count_lines(block)
                start = at + last + 1
            at += len(block)
    if start < at:  # what follows the last line end belongs to the last piece
        last_piece = spans.pop() if spans else Span(0, 0, 1)
        spans.append(Span(last_piece.start, at, last_piece.line))
    return spans, digest.hexdigest()


def refuse_foreign(head: bytes, name: str) -> None:
    """Refuse what is no text in UTF-8, told by how it begins.

    Raises:
        DataError: It is packed, in another encoding, or a table of another kind.
    """
    for magic, (what, fix) in _FOREIGN.items():
        if found := re.match(magic, head):
            begins = f"the file begins with {found[0].hex(' ')}: it is {what}"
            raise DataError("PHI3-D001", begins, where=name, fix=fix)


def read_rows(path: Path, span: Span) -> Iterator[RawRow]:
    """Parse the lines of a piece; blank lines are none."""
    with path.open("rb") as stream:
        stream.seek(span.start)
        number, left = span.line, span.end - span.start
        while left > 0:
            line = stream.readline(min(left, MAX_ROW_BYTES + 1))
            if not line:
                return
            left -= len(line)
            if len(line) > MAX_ROW_BYTES and not line.endswith(b"\n"):
                size = len(line) + _skip_line(stream)
                left = span.end - stream.tell()
                yield _broken(number, line[:1000], "PHI3-D005", f"the row has {size:,} bytes")
            elif stripped := line.removeprefix(BOM_UTF8).strip():
                yield parse_row(number, stripped)
            number += 1


def read_lines(path: Path, *, code: str, fix: str) -> Iterator[tuple[str, str]]:
    """The :func:`numbered_lines` of a file; it is read at once, and not when they are asked for.

    Raises:
        DataError: With ``code`` and ``fix``, where it cannot be read or is not UTF-8.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        told = error.strerror if isinstance(error, OSError) else f"it is not UTF-8: {error}"
        raise DataError(code, f"cannot be read: {told}", where=str(path), fix=fix) from error
    return numbered_lines(text, path)


def numbered_lines(text: str, place: object) -> Iterator[tuple[str, str]]:
    """Yield ``place:number`` and text of each line of a small file that is not blank.

    Only a line feed ends a line. ``str.splitlines`` would cut at U+2028 or U+0085 too, which may
    stand within the strings of JSON (RFC 8259, section 7).

    Args:
        text: The whole file.
        place: What it is called.
    """
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield f"{place}:{number}", line


def parse_row(number: int, line: bytes) -> RawRow:
    """One line to one value, or to the reason why not."""
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        found = f"byte 0x{line[error.start]:02x} at column {error.start + 1} is not UTF-8"
        return _broken(number, line, "PHI3-D001", found)
    try:
        value = _JSON.decode(text)
    except json.JSONDecodeError as error:
        said = error.msg.removesuffix(" at")  # "Unterminated string starting at"
        found = f"not JSON: {said} at column {error.colno} ({_around(text, error.pos)})"
        return RawRow(number, problem=Problem("PHI3-D002", found), raw=text)
    except RecursionError:
        return RawRow(number, problem=Problem("PHI3-D004", "nested too deeply"), raw=text)
    except _RepeatedKeyError as error:
        return RawRow(number, problem=Problem("PHI3-D028", str(error)), raw=text)
    except ValueError as error:  # a number of more digits than Python reads
        return RawRow(number, problem=Problem("PHI3-D002", f"not JSON: {error}"), raw=text)
    return RawRow(number, value, raw=text)


class _RepeatedKeyError(ValueError):
    """An object of JSON has a key twice, of which Python would keep the last."""


def _to_object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        again = next(key for at, key in enumerate(keys) if key in keys[:at])
        raise _RepeatedKeyError(f"the key {again!r} stands twice in one object")
    return found


_JSON = json.JSONDecoder(object_pairs_hook=_to_object)


def _count_lines(block: bytes) -> int:
    # Four times as fast as bytes.count, which looks at one byte after another.
    return int(np.count_nonzero(np.frombuffer(block, np.uint8) == _LINE_END))


def _skip_line(stream: BinaryIO) -> int:
    skipped = 0
    while part := stream.readline(CHUNK_BYTES):
        skipped += len(part)
        if part.endswith(b"\n"):
            break
    return skipped


def _broken(number: int, line: bytes, code: str, text: str) -> RawRow:
    return RawRow(number, problem=Problem(code, text), raw=line.decode(errors="backslashreplace"))


def _around(text: str, position: int) -> str:
    return repr(text[max(position - 20, 0) : position + 20])
