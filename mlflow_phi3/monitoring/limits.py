"""Limits that a figure may not go beyond, as people write them."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from mlflow_phi3.config.parse import suggest
from mlflow_phi3.errors import UsageError
from mlflow_phi3.evaluation.notation import show_short


@dataclass(frozen=True, slots=True)
class Limit:
    """The most that a figure may be.

    Args:
        name: The figure.
        most: Its limit.
    """

    name: str
    most: float


def parse_limits(texts: Iterable[str], known: Iterable[str]) -> tuple[Limit, ...]:
    """Read ``name=most`` texts.

    Args:
        texts: As given.
        known: Names of figures.

    Raises:
        UsageError: Of another form, or a figure that there is not.
    """
    names = list(known)
    limits = []
    for text in texts:
        name, _, most = text.partition("=")
        if name not in names:
            raise UsageError(
                "PHI3-U764",
                f"no figure is called {name!r}",
                where="--limit",
                fix=suggest(name, names),
            )
        try:
            value = float(most)
        except ValueError:
            value = math.nan
        if math.isnan(value):
            raise UsageError(
                "PHI3-U765", f"{text!r} is no limit", where="--limit", fix=f"{name}=0.05"
            )
        limits.append(Limit(name, value))
    return tuple(limits)


def find_exceeded(limits: Iterable[Limit], figures: Mapping[str, float]) -> list[str]:
    """Return in words which limits are exceeded; what nobody measured exceeds none."""
    return [
        f"{limit.name} is {show_short(figures[limit.name])}, the limit {show_short(limit.most)}"
        for limit in limits
        if figures.get(limit.name, math.nan) > limit.most
    ]
