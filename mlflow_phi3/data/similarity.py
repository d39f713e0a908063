"""Near duplicates: MinHash sketches of token runs, and rows that share a band of them.

One-permutation hashing (Li, Owen, Zhang: One Permutation Hashing, NIPS 2012): every run is hashed
once, the upper bits choose one of 128 bins, each bin keeps its least hash; empty bins borrow from
others in an order of their own (Shrivastava: Optimal Densification, ICML 2017). The share of
equal bins estimates the Jaccard similarity. Packages hash each run 128 times, and cut texts into
words again where the tokens are at hand.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

RUN = 5  # tokens: three to four English words
BINS = 128
_WIDTHS = (8, 4, 2)  # bins of a band; the wider, the fewer pairs are compared in vain
_ESCAPES = 0.02  # of pairs that are just similar; of 0.9 and 8 bins, it is 1 in 10,000
_BIN_BITS = 7
_ROWS_AT_ONCE = 1 << 10  # few enough for the processor's cache
_EMPTY = np.uint32(0xFFFFFFFF)
_PAD = -1
_COMPARED_AT_ONCE = 1 << 15

Sketches = npt.NDArray[np.uint32]
Bands = npt.NDArray[np.uint64]
Words = npt.NDArray[np.uint64]


def sketch_rows(rows: Sequence[npt.NDArray[np.int32]], *, filled: bool = True) -> Sketches:
    """MinHash sketches.

    Args:
        rows: Tokens of each row, int32.
        filled: Let empty bins borrow, which :func:`band_keys` needs and a comparison does not.

    Returns:
        uint32 ``[rows, BINS]``; the share of equal entries of two rows, without the bins that are
        empty in both, estimates the Jaccard similarity of their sets of :data:`RUN` tokens.
    """
    starts = range(0, len(rows), _ROWS_AT_ONCE)
    parts = [_sketch(rows[start : start + _ROWS_AT_ONCE]) for start in starts]
    if filled:
        parts = [_fill_empty(part) for part in parts]
    return np.concatenate(parts or [np.zeros((0, BINS), np.uint32)])


def count_bands(similarity: float) -> int:
    """Bands of which similar rows share one, but for two pairs in a hundred.

    Two rows share a band of ``w`` bins with the probability ``s**w``, and one of ``BINS / w`` bands
    with ``1 - (1 - s**w)**(BINS / w)``.

    Args:
        similarity: Least Jaccard similarity of similar rows, above 0.5.
    """
    return next(
        BINS // width for width in _WIDTHS if (1 - similarity**width) ** (BINS // width) <= _ESCAPES
    )


def band_keys(sketches: Sketches, bands: int) -> Bands:
    """uint64 ``[bands, rows]``: equal where all bins of a band are."""
    width = BINS // bands
    grouped = sketches.reshape(-1, bands, width).astype(np.uint64)
    keys = np.zeros(grouped.shape[:2], np.uint64)
    for place in range(width):
        keys = _mix(keys ^ grouped[:, :, place])
    return np.ascontiguousarray(keys.T)


def near_pairs(
    sketches: Sketches, bands: Iterable[Bands], similarity: float
) -> npt.NDArray[np.int64]:
    """Pairs of similar rows: each row with earlier rows that share a band with it.

    Of the rows that share a band's key, each is compared with the first and with the one before it.

    Args:
        sketches: uint32 ``[rows, parts, BINS]``: rows are similar when each part of them is; may be
            a memory map, only candidates are read.
        bands: For each band, the key of each row.
        similarity: Least estimated Jaccard similarity.

    Returns:
        int64 ``[pairs, 2]``: row and an earlier row, sorted, each pair once.
    """
    found: list[npt.NDArray[np.int64]] = []
    for keys in bands:
        candidates = _candidates(keys)
        for start in range(0, len(candidates), _COMPARED_AT_ONCE):
            some = candidates[start : start + _COMPARED_AT_ONCE]
            alike = _similarity(sketches[some[:, 0]], sketches[some[:, 1]])
            found.append(some[alike.min(axis=1) >= similarity])
    if not found:
        return np.zeros((0, 2), np.int64)
    return np.unique(np.concatenate(found), axis=0)


def _similarity(one: Sketches, other: Sketches) -> npt.NDArray[np.float64]:
    """Equal bins over bins that are filled in one of both, along the last axis."""
    met = (one != _EMPTY) | (other != _EMPTY)
    share: npt.NDArray[np.float64] = np.sum((one == other) & met, axis=-1) / np.sum(met, axis=-1)
    return share


def _candidates(keys: Words) -> npt.NDArray[np.int64]:
    order = np.argsort(keys, kind="stable")  # equal keys stay in the order of the rows
    ranked = keys[order]
    same = np.flatnonzero(ranked[1:] == ranked[:-1]) + 1
    if not len(same):
        return np.zeros((0, 2), np.int64)
    starts = np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]])
    first = starts[np.searchsorted(starts, same, side="right") - 1]
    pairs = np.concatenate(
        [
            np.stack([order[same], order[first]], axis=1),
            np.stack([order[same], order[same - 1]], axis=1),
        ]
    )
    return np.unique(pairs, axis=0)


def _sketch(rows: Sequence[npt.NDArray[np.int32]]) -> Sketches:
    hashes, owner = _hash_runs(rows)
    bins = owner * BINS + (hashes >> np.uint64(64 - _BIN_BITS)).astype(np.int64)
    table = np.full(len(rows) * BINS, _EMPTY, np.uint32)
    # The low 31 bits: the bin's own bits carry no news, and _EMPTY stays out of reach.
    np.minimum.at(table, bins, (hashes & np.uint64(0x7FFFFFFF)).astype(np.uint32))
    return table.reshape(-1, BINS)


def _hash_runs(
    rows: Sequence[npt.NDArray[np.int32]],
) -> tuple[Words, npt.NDArray[np.int64]]:
    """The hash of each run of each row, and the row's number; a short row is one padded run."""
    padding = np.full(RUN, _PAD, np.int32)
    padded = [row if len(row) >= RUN else np.r_[row, padding[: RUN - len(row)]] for row in rows]
    sizes = np.array([len(row) for row in padded], np.int64)
    tokens = np.concatenate(padded).astype(np.int64).view(np.uint64)
    owner = np.repeat(np.arange(len(rows)), sizes)
    count = len(tokens) - RUN + 1
    hashes = np.zeros(count, np.uint64)
    for place in range(RUN):
        hashes = _mix(hashes ^ tokens[place : place + count])
    within = owner[:count] == owner[RUN - 1 :]
    return hashes[within], owner[:count][within]


def _mix(words: Words) -> Words:
    """A bijection that spreads every bit (the finaliser of splitmix64)."""
    words = words + np.uint64(0x9E3779B97F4A7C15)
    words ^= words >> np.uint64(30)
    words *= np.uint64(0xBF58476D1CE4E5B9)
    words ^= words >> np.uint64(27)
    words *= np.uint64(0x94D049BB133111EB)
    words ^= words >> np.uint64(31)
    return words


def _fill_empty(table: npt.NDArray[np.uint32]) -> Sketches:
    """Let each empty bin borrow from the first filled one in its own random order of the bins."""
    rows, bins = np.nonzero(table == _EMPTY)
    if not len(rows):
        return table
    orders = np.argsort(np.random.default_rng(20120312).random((BINS, BINS)), axis=1)
    filled = table.copy()
    for place in range(BINS):
        if not len(rows):
            break
        borrowed = table[rows, orders[bins, place]]
        has = borrowed != _EMPTY
        filled[rows[has], bins[has]] = borrowed[has]
        rows, bins = rows[~has], bins[~has]
    return filled
