"""How a measured number is written for a person, on pages and in tables."""

import math

NONE = "\N{EN DASH}"
# From here on the decimals of a number say nothing: perplexities of a diverged model.
_LARGE = 1e5


def show_figure(value: float, digits: int = 4, *, signed: bool = False) -> str:
    """Write a number; a dash stands for none.

    Args:
        value: NaN where there is none.
        digits: Decimals; a number of 1e5 or more has an exponent instead.
        signed: Whether a plus is written too.
    """
    if math.isnan(value):
        return NONE
    style = ".2e" if abs(value) >= _LARGE else f".{digits}f"
    return f"{value:{'+' if signed else ''}{style}}"


def show_short(value: float) -> str:
    """Four digits that mean something; a large count whole; a dash for what is not known."""
    if math.isnan(value):
        return NONE
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def count_of(number: int, what: str) -> str:
    """``1 row``, ``2 rows``."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"
