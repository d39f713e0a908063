"""How often rows are shown, from the weights of their sources."""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from mlflow_phi3.data.digest import Keys
from mlflow_phi3.data.relations import Pair

Weights = npt.NDArray[np.float64]


def weigh_rows(weights: Weights, copies: Iterable[Pair]) -> Weights:
    """The weight of each row that is kept: the largest of its own and those of its copies.

    A row that one source shows whole must not be lost because another one holds it too.

    Args:
        weights: Weight of each row's source.
        copies: Dropped rows, each behind what it repeats, exact copies before similar rows.
    """
    if len(np.unique(weights)) < 2:
        return weights
    weights = weights.copy()
    for copy in copies:
        weights[copy.other] = max(weights[copy.other], weights[copy.row])
    return weights


def is_shown(weights: Weights, keys: Keys) -> npt.NDArray[np.bool_]:
    """Which rows a weight below 1 shows, told by their own hash."""
    return _share(keys) < weights


def count_shows(weights: Weights, keys: Keys) -> npt.NDArray[np.int64]:
    """How often each row that is shown is: its whole part, and once more for what is left."""
    shown: npt.NDArray[np.int64] = np.floor(weights).astype(np.int64) + (_share(keys) < weights % 1)
    return shown


def _share(keys: Keys) -> Weights:
    return keys[:, 1].astype(np.float64) / 2.0**64
