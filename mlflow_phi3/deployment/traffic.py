"""Shares of traffic: whole percents that add up."""

from collections.abc import Iterable, Mapping
from typing import Any

from mlflow_phi3.errors import UsageError

WHOLE = 100


def with_share(traffic: Mapping[str, int], name: str, share: int) -> dict[str, int]:
    """Return traffic in which ``name`` has ``share`` and the others share the rest as before.

    Args:
        traffic: Percent by deployment.
        name: Whose share is set.
        share: 0 to 100.

    Raises:
        UsageError: There is nobody to take the rest.
    """
    others = {other: part for other, part in traffic.items() if other != name and part}
    rest = WHOLE - share
    if rest and not others:
        if share == 0 and not traffic.get(name):
            return {}
        raise UsageError(
            "PHI3-U714",
            f"nothing else can take the other {rest} % of the traffic",
            where=f"deployment {name}",
            fix="give it 100 %, or deploy another one first",
        )
    return {**({name: share} if share else {}), **_scaled(others, rest)}


def without(traffic: Mapping[str, int], name: str) -> dict[str, int]:
    """Return traffic with ``name`` left out and its share given to the others.

    Raises:
        UsageError: It has all the traffic.
    """
    if not traffic.get(name):
        return {other: part for other, part in traffic.items() if other != name and part}
    try:
        return with_share(traffic, name, 0)
    except UsageError as refused:
        raise UsageError(
            "PHI3-U715",
            f"it gets {traffic[name]} % of the traffic, and no other deployment gets any",
            where=f"deployment {name}",
            fix="give another one traffic first, or delete the whole endpoint",
        ) from refused


def largest(traffic: Mapping[str, int]) -> str:
    """Return who has most of the traffic; the first by name of several."""
    return min(traffic, key=lambda name: (-traffic[name], name))


def to_text(traffic: Mapping[str, int]) -> str:
    """Return ``blue=90,green=10``."""
    return ",".join(f"{name}={share}" for name, share in sorted(traffic.items()) if share)


def from_text(text: str) -> dict[str, int]:
    """Return what :func:`to_text` wrote.

    Raises:
        ValueError: It is not so written, or not as :func:`to_shares` takes it.
    """
    return to_shares(part.partition("=")[::2] for part in text.split(",") if part)


def to_shares(pairs: Iterable[tuple[str, Any]]) -> dict[str, int]:
    """Return names and shares as traffic.

    Args:
        pairs: Shares are numbers, or texts of them.

    Raises:
        ValueError: A share is not a whole number, or a name is there twice.
    """
    traffic: dict[str, int] = {}
    for name, share in pairs:
        if name in traffic:
            raise ValueError(f"{name} is named twice")
        try:
            traffic[name] = int(share)
        except (TypeError, ValueError, OverflowError):
            raise ValueError(f"{share!r} is no whole number") from None
        if isinstance(share, float) and share != traffic[name]:
            raise ValueError(f"{share} is no whole number")
    return traffic


def _scaled(shares: Mapping[str, int], total: int) -> dict[str, int]:
    """Scale whole shares to a new total by largest remainders, so that they add up exactly."""
    if not total:
        return {}
    whole = sum(shares.values())
    floors = {name: part * total // whole for name, part in shares.items()}
    left = total - sum(floors.values())
    by_remainder = sorted(shares, key=lambda name: (-(shares[name] * total % whole), name))
    scaled = {name: floors[name] + (1 if by_remainder.index(name) < left else 0) for name in shares}
    return {name: share for name, share in scaled.items() if share}
