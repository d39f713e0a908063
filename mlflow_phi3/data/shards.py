"""Prepared rows on disk: one Arrow stream a piece of a source, read through memory maps.

The files are in the format of ``datasets``: ``datasets.Dataset.from_file`` opens them as well.
"""

import bisect
import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mlflow_phi3.data.encode import Encoded
from mlflow_phi3.data.languages import UNKNOWN_TEXT, TextFacts
from mlflow_phi3.data.messages import ROLES, Conversation, Example, Message

SCHEMA = pa.schema(
    [
        ("source", pa.int32()),
        ("line", pa.int64()),
        ("roles", pa.list_(pa.int8())),
        ("contents", pa.list_(pa.string())),
        ("label", pa.string()),
        ("extra", pa.string()),
        ("input_ids", pa.list_(pa.int32())),
        ("turns", pa.list_(pa.int32())),
        ("supervised", pa.list_(pa.int32())),
        ("cut", pa.int32()),
        ("words", pa.int32()),
        ("script", pa.int8()),
        ("language", pa.int8()),
    ]
)
_BATCH_ROWS = 1024
Rows = npt.NDArray[np.uint64]
RowT = TypeVar("RowT")


@dataclass(frozen=True, slots=True)
class Stored:
    """A prepared row.

    Args:
        source: Number of its source.
        line: Its line there.
        messages: As they are learnt, after cleaning.
        encoded: Its tokens, after truncation.
        supervised: Token ranges ``[start, end)`` to learn.
        label: Its class.
        extra: Its other keys, as JSON.
        cut: Token before which a truncation took something away; -1 for none.
        text: Words, script and language.
    """

    source: int
    line: int
    messages: Sequence[Message]
    encoded: Encoded
    supervised: Sequence[tuple[int, int]]
    label: str | None = None
    extra: str | None = None
    cut: int = -1
    text: TextFacts = UNKNOWN_TEXT


@dataclass(slots=True)
class ShardWriter:
    """Writes rows to one shard; nothing is kept beyond a batch."""

    path: Path
    _rows: list[Stored] = field(default_factory=list)
    _stream: Any = None

    def write(self, row: Stored) -> None:
        """Add a row."""
        self._rows.append(row)
        if len(self._rows) >= _BATCH_ROWS:
            self._flush()

    def close(self) -> None:
        """Write what is left; the shard exists from then on, be it empty."""
        self._flush()
        self._stream.close()

    def _flush(self) -> None:
        if self._stream is None:
            self._stream = pa.ipc.new_stream(str(self.path), SCHEMA)
        if self._rows:
            self._stream.write_batch(_to_batch(self._rows))
            self._rows = []


def _to_batch(rows: Sequence[Stored]) -> pa.RecordBatch:
    number = {role: index for index, role in enumerate(ROLES)}
    sizes = [len(row.messages) for row in rows]
    roles = [number[message.role] for row in rows for message in row.messages]
    contents = [message.content for row in rows for message in row.messages]
    spans = [np.array(row.supervised, np.int32).reshape(-1) for row in rows]
    return pa.record_batch(
        [
            pa.array([row.source for row in rows], pa.int32()),
            pa.array([row.line for row in rows], pa.int64()),
            _lists(pa.array(roles, pa.int8()), sizes),
            _lists(pa.array(contents, pa.string()), sizes),
            pa.array([row.label for row in rows], pa.string()),
            pa.array([row.extra for row in rows], pa.string()),
            _joined([row.encoded.ids for row in rows]),
            _joined([row.encoded.turns.reshape(-1) for row in rows]),
            _joined(spans),
            pa.array([row.cut for row in rows], pa.int32()),
            pa.array([row.text.words for row in rows], pa.int32()),
            pa.array([row.text.script for row in rows], pa.int8()),
            pa.array([row.text.language for row in rows], pa.int8()),
        ],
        schema=SCHEMA,
    )


def _joined(parts: Sequence[npt.NDArray[np.int32]]) -> pa.ListArray:
    return _lists(pa.array(np.concatenate(parts)), [len(part) for part in parts])


def _lists(values: pa.Array, sizes: Sequence[int]) -> pa.ListArray:
    offsets = np.zeros(len(sizes) + 1, np.int32)
    np.cumsum(sizes, out=offsets[1:])
    return pa.ListArray.from_arrays(pa.array(offsets), values)


class Shard:
    """One shard, mapped into memory."""

    def __init__(self, path: Path) -> None:
        with pa.memory_map(str(path)) as mapped, pa.ipc.open_stream(mapped) as stream:
            self.batches: list[pa.RecordBatch] = list(stream)
        self._starts = [*itertools.accumulate(map(len, self.batches), initial=0)]

    def locate(self, row: int) -> tuple[pa.RecordBatch, int]:
        """The batch that holds a row, and the row's number in it."""
        batch = bisect.bisect_right(self._starts, row) - 1
        return self.batches[batch], row - self._starts[batch]


class ShardStore:
    """Rows by their address, shards opened when first asked for.

    An address is ``shard << 32 | row``; a split is an array of addresses.

    Args:
        folder: Where the shards lie.
        names: Name of each source, by number.
        labels: Index of each label.
    """

    def __init__(self, folder: Path, names: Sequence[str], labels: dict[str, int]) -> None:
        self._folder = folder
        self._names = names
        self._labels = labels
        self._open: dict[int, Shard] = {}

    def batches(self, number: int) -> list[pa.RecordBatch]:
        """The record batches of a shard that is not kept open: what is read leaves memory."""
        return Shard(self._folder / shard_name(number)).batches

    def place(self, address: int) -> str:
        """``source:line`` of a row."""
        batch, row = self._locate(address)
        return self._place(batch, row)

    def example(self, address: int) -> Example:
        """The tokens of a row."""
        batch, row = self._locate(address)
        ids = _values(batch, 6, row)
        supervised = np.zeros(len(ids), np.bool_)
        for start, end in _values(batch, 8, row).reshape(-1, 2):
            supervised[start:end] = True
        label = batch.column(4)[row].as_py()
        return Example(
            input_ids=ids,
            supervised=supervised,
            place=self._place(batch, row),
            label=None if label is None else self._labels.get(label),
        )

    def _locate(self, address: int) -> tuple[pa.RecordBatch, int]:
        number = address >> 32
        if number not in self._open:
            self._open[number] = Shard(self._folder / shard_name(number))
        return self._open[number].locate(address & 0xFFFFFFFF)

    def _place(self, batch: pa.RecordBatch, row: int) -> str:
        return f"{self._names[batch.column(0)[row].as_py()]}:{batch.column(1)[row].as_py()}"

    def conversation(self, address: int) -> Conversation:
        """The messages of a row."""
        batch, row = self._locate(address)
        roles, contents = batch.column(2)[row].as_py(), batch.column(3)[row].as_py()
        extra = batch.column(5)[row].as_py()
        return Conversation(
            messages=tuple(
                Message(ROLES[role], content) for role, content in zip(roles, contents, strict=True)
            ),
            source=self._names[batch.column(0)[row].as_py()],
            line=batch.column(1)[row].as_py(),
            label=batch.column(4)[row].as_py(),
            extra=json.loads(extra) if extra else {},
        )

    def stored(self, address: int) -> Stored:
        """A row as it was written."""
        batch, row = self._locate(address)
        turns = _values(batch, 7, row).reshape(-1, 3)
        spans = _values(batch, 8, row).reshape(-1, 2)
        return Stored(
            source=batch.column(0)[row].as_py(),
            line=batch.column(1)[row].as_py(),
            messages=self.conversation(address).messages,
            encoded=Encoded(_values(batch, 6, row), turns),
            supervised=[(int(start), int(end)) for start, end in spans],
            label=batch.column(4)[row].as_py(),
            cut=batch.column(9)[row].as_py(),
        )


def _values(batch: pa.RecordBatch, column: int, row: int) -> npt.NDArray[np.int32]:
    """A row of a list column as a view of the mapped file."""
    array = batch.column(column)
    offsets = array.offsets
    start, end = offsets[row].as_py(), offsets[row + 1].as_py()
    view: npt.NDArray[np.int32] = array.values.slice(start, end - start).to_numpy()
    return view


class SplitRows(Sequence[RowT]):
    """A split's rows, each read when it is asked for.

    Args:
        read: Reads the row of that number.
        rows: Numbers of the split's rows, in order.
    """

    def __init__(self, read: Callable[[int], RowT], rows: Rows) -> None:
        self._read = read
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> RowT: ...
    @overload
    def __getitem__(self, index: slice) -> "SplitRows[RowT]": ...
    def __getitem__(self, index: int | slice) -> "RowT | SplitRows[RowT]":
        if isinstance(index, slice):
            return SplitRows(self._read, self._rows[index])
        return self._read(int(self._rows[index]))


def shard_name(number: int) -> str:
    """File name of a shard."""
    return f"{number:06d}.arrow"
