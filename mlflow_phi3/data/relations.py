"""Which rows say the same, almost the same, or ask the same; and on which side that puts them."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from mlflow_phi3.data.digest import Keys
from mlflow_phi3.data.split import TRAIN, Sides

Kind = Literal["exact", "prompt", "near"]
LEAK_CODES: dict[Kind, str] = {"exact": "PHI3-D045", "prompt": "PHI3-D046", "near": "PHI3-D047"}
Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Pair:
    """Two rows that have to do with each other.

    Args:
        row: The later one, or the training row of a leak.
        other: The earlier one, or the row it leaks from.
        kind: ``exact``, ``prompt`` (asks the same) or ``near``.
    """

    row: int
    other: int
    kind: Kind


def first_of_equal(*columns: npt.NDArray[np.generic]) -> Ints:
    """For each row, the first row that is equal in all columns; itself when it is the first."""
    order = np.lexsort(columns)  # stable: equal rows stay in order
    if not len(order):
        return order
    new = np.zeros(len(order), np.bool_)
    new[0] = True
    for column in columns:
        ranked = column[order]
        new[1:] |= ranked[1:] != ranked[:-1]
    starts = np.flatnonzero(new)
    first = np.empty(len(order), np.int64)
    first[order] = np.repeat(order[starts], np.diff(np.r_[starts, len(order)]))
    return first


def find_exact(keys: Keys, origin: Sides) -> list[Pair]:
    """Rows that say what an earlier row of the same origin says."""
    first = first_of_equal(keys[:, 0], keys[:, 1], origin)
    later = np.flatnonzero(first != np.arange(len(first)))
    return [Pair(int(row), int(first[row]), "exact") for row in later]


def find_near(pairs: Ints, origin: Sides, dropped: Flags) -> list[Pair]:
    """Rows that almost say what an earlier row says that is kept.

    Rows are taken in order, and only kept rows can be repeated: of three rows of which the second
    is like the first and the third like the second alone, the third stays.

    Args:
        pairs: Similar rows, from :func:`~mlflow_phi3.data.similarity.near_pairs`.
        origin: Where each row was given for; pairs of two origins are leaks, not duplicates.
        dropped: Rows that are out already; marked further here.
    """
    found: list[Pair] = []
    for row, other in pairs.tolist():
        if origin[row] == origin[other] and not dropped[row] and not dropped[other]:
            dropped[row] = True
            found.append(Pair(row, other, "near"))
    return found


def find_leaks(keys: Keys, origin: Sides, pairs: Ints, kept: Flags) -> list[Pair]:
    """Training rows that are, ask, or almost are a row of a validation or test file.

    Each row is named once, by its closest relation.
    """
    own = np.flatnonzero(kept & (origin == TRAIN))
    others = np.flatnonzero(kept & (origin != TRAIN))
    related: dict[int, Pair] = {}
    closest: tuple[tuple[Kind, slice], ...] = (("exact", slice(0, 2)), ("prompt", slice(2, 4)))
    for kind, columns in closest:
        match = _first_match(keys[own, columns], keys[others, columns])
        for place in np.flatnonzero(match >= 0):
            row = int(own[place])
            related.setdefault(row, Pair(row, int(others[match[place]]), kind))
    for late, early in pairs.tolist():
        row, other = (late, early) if origin[late] == TRAIN else (early, late)
        if origin[row] == TRAIN and origin[other] != TRAIN and kept[row] and kept[other]:
            related.setdefault(row, Pair(row, other, "near"))
    return [related[row] for row in sorted(related)]


def _first_match(own: Keys, others: Keys) -> Ints:
    """For each row of ``own``, the first equal row of ``others``, or -1."""
    both = np.concatenate([others, own])
    first = first_of_equal(both[:, 0], both[:, 1])[len(others) :]
    return np.where(first < len(others), first, -1)


def group_rows(keys: Keys, pairs: Iterable[tuple[int, int]]) -> Ints:
    """The first row of each row's group: rows that ask the same, and pairs, stay together."""
    parents = first_of_equal(keys[:, 2], keys[:, 3])

    def root(row: int) -> int:
        while parents[row] != row:
            parents[row] = parents[parents[row]]
            row = int(parents[row])
        return row

    for row, other in pairs:
        one, two = sorted((root(row), root(other)))
        parents[two] = one
    while not np.array_equal(parents, parents[parents]):
        parents = parents[parents]
    return parents
