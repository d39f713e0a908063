"""Is the difference more than noise? A paired bootstrap over the test rows."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import bootstrap

from mlflow_phi3.errors import DataError
from mlflow_phi3.training.scoring import ExampleScore

# Resampled indices are drawn in slices of about this many, so that memory stays flat.
_SLICE = 4_000_000


@dataclass(frozen=True, slots=True)
class Comparison:
    """The token-weighted loss of ``a`` minus that of ``b``, on the same rows.

    Args:
        difference: In nats per token; negative when ``a`` is better.
        low: Lower end of the bootstrap interval; minus infinity where the rows are too few.
        high: Upper end; infinity where the rows are too few.
        confidence: Level of the interval.
        rows: How many rows were compared.
    """

    difference: float
    low: float
    high: float
    confidence: float
    rows: int

    @property
    def too_few(self) -> bool:
        """Whether so few rows cannot tell the two apart."""
        return math.isinf(self.high)

    @property
    def significant(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.low > 0 or self.high < 0

    @property
    def better(self) -> bool:
        """Whether ``a`` beats ``b`` beyond noise."""
        return self.high < 0


def compare(
    a: Sequence[ExampleScore],
    b: Sequence[ExampleScore],
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Comparison:
    """Compare two models on the same rows by the percentile bootstrap.

    Rows are drawn with replacement, the same rows for both models, and each draw gives a
    token-weighted difference. Source: Koehn 2004, "Statistical significance tests for machine
    translation evaluation"; Efron and Tibshirani 1993, chapter 13.

    Args:
        a: Losses of the model that is hoped to be better.
        b: Losses of the other one, on the same rows in the same order.
        confidence: Level of the interval, between 0 and 1.
        resamples: How many draws.
        seed: Of the draws.

    Raises:
        DataError: No row, no supervised token, or not the same rows.
    """
    _check_same_rows(a, b)
    tokens = np.array([row.tokens for row in a], dtype=np.float64)
    gaps = np.array([x.nll - y.nll for x, y in zip(a, b, strict=True)])
    low, high = _interval(gaps, tokens, confidence, resamples, seed)
    return Comparison(
        difference=float(gaps.sum() / tokens.sum()),
        low=low,
        high=high,
        confidence=confidence,
        rows=len(a),
    )


def _interval(
    gaps: npt.NDArray[np.float64],
    tokens: npt.NDArray[np.float64],
    confidence: float,
    resamples: int,
    seed: int,
) -> tuple[float, float]:
    """Both ends: unknown for a loss that is no number, without bound for too few rows.

    Rows that all lean to one side leave zero out of every draw. Of equal models, ``n`` rows do so
    with probability 2^(1-n) (the sign test): where that is more than 1 - confidence, as of one row
    always, the draws say nothing.
    """
    if not np.isfinite(gaps).all():
        return math.nan, math.nan
    if 2.0 ** (1 - len(gaps)) > 1 - confidence:
        return -math.inf, math.inf
    found = bootstrap(
        (gaps, tokens),
        # A draw of rows without a supervised token says nothing: no difference.
        lambda gap, count, axis: gap.sum(axis) / np.maximum(count.sum(axis), 1),
        paired=True,
        vectorized=True,
        method="percentile",
        n_resamples=resamples,
        confidence_level=confidence,
        batch=max(1, _SLICE // len(gaps)),
        random_state=np.random.default_rng(seed),  # ``rng`` since scipy 1.15
    ).confidence_interval
    return float(found.low), float(found.high)


def _check_same_rows(a: Sequence[ExampleScore], b: Sequence[ExampleScore]) -> None:
    if len(a) != len(b):
        raise _not_same_rows(f"{len(a)} and {len(b)} rows")
    for x, y in zip(a, b, strict=True):
        if (x.place, x.tokens) != (y.place, y.tokens):
            raise _not_same_rows(x.place)
    if not sum(row.tokens for row in a):
        raise DataError(
            "PHI3-D071",
            "there is no supervised token to compare on",
            fix="evaluate on conversations that end with an assistant's message",
        )


def _not_same_rows(where: str) -> DataError:
    return DataError(
        "PHI3-D070",
        "the two models were not measured on the same rows",
        where=where,
        fix="evaluate both on the same test split",
    )
