"""Which side a row is on: decided by what it asks, so that adding rows moves none."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from mlflow_phi3.data.digest import Keys

SPLITS = ("train", "validation", "test")
TRAIN, VALIDATION, TEST = range(3)
Sides = npt.NDArray[np.int8]


def split_by_hash(keys: Keys, *, validation: float, test: float) -> Sides:
    """The side of each row, from the hash of its prompt alone.

    The test rows lie at the lower end of the hashes and the validation rows at the upper one, so
    that changing one share moves no row between the other two sides.

    Args:
        keys: uint64 ``[rows, 4]`` of :func:`~mlflow_phi3.data.digest.to_keys`.
        validation: Share of the validation side, 0 to 1.
        test: Share of the test side, 0 to 1.

    Returns:
        int8 ``[rows]``: index into :data:`SPLITS`.
    """
    share = keys[:, 2].astype(np.float64) / 2.0**64
    sides = np.full(len(keys), TRAIN, np.int8)
    sides[share < test] = TEST
    sides[share >= 1 - validation] = VALIDATION
    return sides


def fill_empty(keys: Keys, sides: Sides, wanted: Mapping[int, float]) -> tuple[Sides, list[int]]:
    """Give each wanted side at least one prompt where small data left it without.

    The training prompt whose hash is nearest to the side goes there, with all rows that ask it.

    Returns:
        The sides, and the rows that were moved.
    """
    moved: list[int] = []
    sides = sides.copy()
    for side, share in wanted.items():
        training = np.flatnonzero(sides == TRAIN)
        if share <= 0 or (sides == side).any() or len(np.unique(keys[training, 2])) < 2:
            continue
        hashes = keys[training, 2]
        nearest = hashes.min() if side == TEST else hashes.max()
        chosen = training[hashes == nearest]
        sides[chosen] = side
        moved.extend(chosen.tolist())
    return sides, moved
