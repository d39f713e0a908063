"""What is known of all rows together, and what was decided for them."""

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mlflow_phi3.data.digest import Keys
from mlflow_phi3.data.findings import Finding, Tally
from mlflow_phi3.data.relations import Pair
from mlflow_phi3.data.shards import Rows, ShardStore
from mlflow_phi3.data.sources import Planned
from mlflow_phi3.data.split import Sides
from mlflow_phi3.data.work import Outcome, Piece, Settings


@dataclass(frozen=True, slots=True)
class Collected:
    """Everything the pieces gave.

    Args:
        folder: The preparation in the making.
        failed: Where the findings go when it fails.
        key: Its name.
        planned: The sources.
        settings: What it was prepared with.
        pieces: The pieces.
        outcomes: Their outcomes, in the same order.
    """

    folder: Path
    failed: Path
    key: str
    planned: tuple[Planned, ...]
    settings: Settings
    pieces: tuple[Piece, ...]
    outcomes: tuple[Outcome, ...]

    def names(self, split: str) -> str:
        """The sources that were given for a split."""
        return ", ".join(p.source.name for p in self.planned if p.source.split == split)


@dataclass(frozen=True, slots=True)
class Table:
    """What is known of every row that was kept by its piece, in order.

    Args:
        store: The rows themselves.
        addresses: Where it is stored.
        keys: Hashes of the row and of its prompt.
        origin: Split its source was given for.
        source: Number of its source.
        label: Number of its label; -1 for none.
        names: The labels, in alphabetical order.
    """

    store: ShardStore
    addresses: Rows
    keys: Keys
    origin: Sides
    source: npt.NDArray[np.int64]
    label: npt.NDArray[np.int64]
    names: tuple[str, ...]

    def place(self, row: int) -> str:
        """``source:line`` of a row."""
        return self.store.place(int(self.addresses[row]))

    def finding(self, row: int, code: str, text: str, *, related: str = "") -> Finding:
        """A finding at a row's place."""
        source, _, line = self.place(row).rpartition(":")
        return Finding(code, source, int(line), text, related)

    def without(self, numbers: npt.NDArray[np.int64]) -> "Table":
        """The table without some labels; their rows have none."""
        left = np.setdiff1d(np.arange(len(self.names)), numbers)
        renumbered = np.full(len(self.names) + 1, -1, np.int64)  # the last is that of no label
        renumbered[left] = np.arange(len(left))
        names = tuple(self.names[number] for number in left)
        return replace(self, label=renumbered[self.label], names=names)


@dataclass(slots=True)
class Decided:
    """What was decided for all rows.

    Args:
        table: The rows.
        tally: All findings.
        sides: Side of each row; -1 for rows that are out.
        duplicates: Rows that repeat others.
        leaks: Training rows that are in validation or test files too.
        rejected: Rows that are out because nothing is trained on with their label.
        left_out: Rows that a weight below 1 does not show.
        splits: Addresses of each split; a row that is shown twice is there twice.
    """

    table: Table
    tally: Tally
    sides: Sides
    duplicates: list[Pair] = field(default_factory=list)
    leaks: list[Pair] = field(default_factory=list)
    rejected: list[int] = field(default_factory=list)
    left_out: int = 0
    splits: dict[str, npt.NDArray[np.int64]] = field(default_factory=dict)
