"""JSON that is not one row a line: indented objects one after another, or one array of them."""

import re
from codecs import BOM_UTF8
from collections.abc import Iterator
from pathlib import Path

from mlflow_phi3.data.jsonl import MAX_ROW_BYTES, RawRow, Span, parse_row
from mlflow_phi3.data.validate import Problem

_TOKEN = re.compile(rb'\\.|["{}\[\]\n]', re.DOTALL)
_BLOCK = 1 << 20
_SEPARATORS = b" \t\r\n," + BOM_UTF8


def find_objects(path: Path, span: Span, *, by_line: bool = True) -> Iterator[Span]:
    """The place of each top-level value: one pass over the bytes, flat memory.

    What stands between two objects and is neither blank nor a comma becomes a value of its own, so
    that nothing in the file goes unread.

    Args:
        path: The file.
        span: Its piece.
        by_line: Number the values by their lines; else one after another.
    """
    scan = _Scan(span, by_line=by_line)
    with path.open("rb") as stream:
        stream.seek(span.start)
        held, left = b"", span.end - span.start
        while left > 0:
            block = stream.read(min(_BLOCK, left))
            if not block:
                break
            left -= len(block)
            block = held + block
            # An escape must not be cut in two.
            cut = len(block) - 1 if block.endswith(b"\\") and left > 0 else len(block)
            held = block[cut:]
            yield from scan.feed(block[:cut])
        yield from scan.finish()


class _Scan:
    """Where the scanner is; depth 0 is between values, the outer array's brackets left aside."""

    def __init__(self, span: Span, *, by_line: bool) -> None:
        self._at = span.start
        self._by_line = by_line
        self._number = span.line
        self._depth = 0
        self._quoted = False
        self._object: tuple[int, int] | None = None  # start and number of the value being read
        self._stray: tuple[int, int] | None = None

    def feed(self, block: bytes) -> Iterator[Span]:
        before = 0
        for match in _TOKEN.finditer(block):
            token, place = match[0], match.start()
            if self._depth == 0 and not self._quoted:
                self._note_stray(block, before, place)
            before = match.end()
            if token == b"\n":
                self._number += self._by_line
            elif token.startswith(b"\\"):
                continue
            elif token == b'"':
                self._quoted = not self._quoted
                if self._depth == 0 and self._quoted:
                    self._stray = self._stray or (self._at + place, self._number)
            elif not self._quoted:
                yield from self._bracket(token, self._at + place)
        if self._depth == 0 and not self._quoted:
            self._note_stray(block, before, len(block))
        self._at += len(block)

    def finish(self) -> Iterator[Span]:
        start = self._object or self._stray
        if start is not None:
            yield Span(start[0], self._at, start[1])

    def _bracket(self, token: bytes, place: int) -> Iterator[Span]:
        if token == b"{":
            if self._depth == 0:
                yield from self._end_stray(place)
                self._object = (place, self._number)
            self._depth += 1
        elif token == b"[" and self._depth:
            self._depth += 1
        elif token in b"}]" and self._depth:
            self._depth -= 1
            if self._depth == 0 and self._object is not None:
                yield Span(self._object[0], place + 1, self._object[1])
                self._object = None
                self._number += not self._by_line
        elif token == b"}":
            self._stray = self._stray or (place, self._number)

    def _end_stray(self, place: int) -> Iterator[Span]:
        if self._stray is not None:
            yield Span(self._stray[0], place, self._stray[1])
            self._stray = None
            self._number += not self._by_line

    def _note_stray(self, block: bytes, start: int, end: int) -> None:
        if self._stray is None and (rest := block[start:end].lstrip(_SEPARATORS)):
            self._stray = (self._at + end - len(rest), self._number)


def read_objects(path: Path, span: Span, *, by_line: bool = True) -> Iterator[RawRow]:
    """Parse each top-level value of a piece, numbered as :func:`find_objects` says."""
    with path.open("rb") as stream:
        for found in find_objects(path, span, by_line=by_line):
            size = found.end - found.start
            if size > MAX_ROW_BYTES:
                problem = Problem("PHI3-D005", f"the row has {size:,} bytes")
                yield RawRow(found.line, problem=problem)
                continue
            stream.seek(found.start)
            yield parse_row(found.line, stream.read(size).strip(_SEPARATORS))


def is_one_line(path: Path) -> bool:
    """Whether all values stand on one line, which tells none from another."""
    with path.open("rb") as stream:
        return b"\n" not in stream.read(_BLOCK).strip()


def is_many_lined(path: Path) -> bool:
    """Whether a file holds an array or indented objects rather than a row a line."""
    with path.open("rb") as stream:
        head = stream.read(_BLOCK).removeprefix(BOM_UTF8).lstrip()
    line, _, rest = head.partition(b"\n")
    whole = parse_row(1, line.strip()).problem is None
    if head.startswith(b"["):
        # A list on the first of several lines is a wrong row of JSON Lines.
        return not (whole and rest.strip())
    if whole or not head.startswith(b"{"):
        return False
    reach = min(path.stat().st_size, MAX_ROW_BYTES)
    first = next(find_objects(path, Span(0, reach, 1)), None)
    if first is None:
        return False
    with path.open("rb") as stream:
        stream.seek(first.start)
        text = stream.read(first.end - first.start)
    # An object on one line is JSON Lines; a broken one is better told line by line.
    return b"\n" in text and parse_row(1, text).problem is None
