"""Labels that only all rows together can tell: those that nobody learns, those that seem one."""

import re
import unicodedata
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
_WHOLE = re.compile(r"([+-]?\d+)\.0*")


def find_untaught(labels: Ints, teaching: npt.NDArray[np.bool_]) -> Ints:
    """Rows whose label no teaching row has.

    Args:
        labels: Label number of each row; -1 for none.
        teaching: Which rows are trained on.
    """
    return np.flatnonzero((labels >= 0) & ~np.isin(labels, labels[teaching]))


def find_alike(names: Sequence[str]) -> list[tuple[int, int]]:
    """Labels that differ only by case, blanks or how a whole number is written.

    Returns:
        For each such label its number, and that of the first one it is like.
    """
    first: dict[str, int] = {}
    pairs = ((number, first.setdefault(_fold(name), number)) for number, name in enumerate(names))
    return [(number, other) for number, other in pairs if number != other]


def _fold(name: str) -> str:
    text = " ".join(unicodedata.normalize("NFKC", name).casefold().split())
    whole = _WHOLE.fullmatch(text)
    return whole[1] if whole else text
