"""Which side a row is on: decided by what it asks, so that adding rows moves none."""

import hashlib
import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from mlflow_phi3.config.prepare import SPLITS
from mlflow_phi3.data.digest import Keys

TRAIN, VALIDATION, TEST = range(len(SPLITS))
_GOLDEN = 0.6180339887498949  # its multiples fill [0, 1) as evenly as any sequence can
Sides = npt.NDArray[np.int8]
Ints = npt.NDArray[np.int64]
Shares = npt.NDArray[np.float64]


def choose_sides(shares: Shares, *, validation: float, test: float) -> Sides:
    """The side of each row from its place in [0, 1).

    The test rows lie at the lower end and the validation rows at the upper one, so that changing
    one share moves no row between the other two sides.

    Args:
        shares: float64 ``[rows]``.
        validation: Share of the validation side, 0 to 1.
        test: Share of the test side, 0 to 1.

    Returns:
        int8 ``[rows]``: index into :data:`~mlflow_phi3.config.prepare.SPLITS`.
    """
    sides = np.full(len(shares), TRAIN, np.int8)
    sides[shares >= 1 - validation] = VALIDATION
    sides[shares < test] = TEST
    return sides


def place_by_hash(keys: Keys) -> Shares:
    """A place in [0, 1) from the hash of the prompt alone: no other row has a say."""
    return keys[:, 2].astype(np.float64) / 2.0**64


def place_by_label(labels: Ints, sources: Ints, names: Sequence[str], *, first: float) -> Shares:
    """Places in [0, 1) that are even within each label of each source, and over all labels.

    The k-th row of a label takes the k-th place of a golden-ratio sequence, whose shares are right
    to within a few rows for any length; rows that are added at a source's end move none. Where a
    label's sequence begins is told by a hash of its name: else all labels of few rows would send
    the same ones of them to the same side. The first row is one to train on, and the second makes
    good for it: its place lies in the outer half of [0, 1), where the sides not trained on are.

    Args:
        labels: Label number of each row; -1 for none.
        sources: Source number of each row.
        names: The labels.
        first: Place of each first row.
    """
    stratum = labels + (labels.max(initial=0) + 2) * sources
    order = np.argsort(stratum, kind="stable")
    ranked = stratum[order]
    starts = np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]]) if len(ranked) else ranked
    rank = np.empty(len(labels), np.int64)
    rank[order] = np.arange(len(ranked)) - np.repeat(starts, np.diff(np.r_[starts, len(ranked)]))
    begins = np.array([_hash_share(name) for name in (*names, "")])
    places = (begins[labels] + rank * _GOLDEN) % 1.0
    second = rank == 1
    places[second] = (places[second] / 2 - 0.25) % 1.0
    places[rank == 0] = first
    return np.asarray(places, np.float64)


def _hash_share(name: str) -> float:
    digest = hashlib.blake2b(name.encode(), digest_size=6).digest()
    return int.from_bytes(digest) / 2.0**48


def is_far(rows: int, of: int, share: float) -> bool:
    """Whether a side's rows are far from its share: a quarter of it, and beyond chance.

    Args:
        rows: Rows of the side.
        of: Rows of all sides.
        share: What the side was to have of them, 0 to 1.
    """
    chance = 3 * math.sqrt(of * share * (1 - share))
    return abs(rows - of * share) > max(chance, of * share / 4)


def fill_empty(
    shares: Shares, groups: Ints, sides: Sides, wanted: Mapping[int, float]
) -> tuple[Sides, list[int]]:
    """Give each wanted side at least one group where small data left it without.

    The training group that is nearest to the side goes there, whole.

    Args:
        shares: Place of each row's group in [0, 1).
        groups: First row of each row's group.
        sides: What was chosen.
        wanted: Share of each side that must not be empty.

    Returns:
        The sides, and the rows that were moved.
    """
    moved: list[int] = []
    sides = sides.copy()
    for side, share in wanted.items():
        training = np.flatnonzero(sides == TRAIN)
        if share <= 0 or (sides == side).any() or len(np.unique(groups[training])) < 2:
            continue
        places = shares[training]
        nearest = training[places.argmin() if side == TEST else places.argmax()]
        chosen = training[groups[training] == groups[nearest]]
        sides[chosen] = side
        moved.extend(chosen.tolist())
    return sides, moved
