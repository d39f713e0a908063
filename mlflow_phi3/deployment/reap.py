"""Endpoints whose time is over."""

import datetime as dt
from collections.abc import Iterable, Mapping
from typing import Protocol, TypeVar

EXPIRES_TAG = "azure.expires_at"


class Tagged(Protocol):
    """An endpoint of any kind."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def tags(self) -> Mapping[str, str] | None:
        """Its tags."""


TaggedT = TypeVar("TaggedT", bound=Tagged)


def expiry(now: dt.datetime, ttl_hours: float) -> str:
    """Return the value of the tag for a life that begins now."""
    return (now + dt.timedelta(hours=ttl_hours)).isoformat(timespec="seconds")


def find_expired(endpoints: Iterable[TaggedT], now: dt.datetime) -> list[TaggedT]:
    """Return the endpoints whose tag lies in the past; what cannot be read is left alone."""
    expired = []
    for endpoint in endpoints:
        try:
            end = dt.datetime.fromisoformat((endpoint.tags or {}).get(EXPIRES_TAG, ""))
        except ValueError:
            continue
        if end.tzinfo is not None and end <= now:
            expired.append(endpoint)
    return expired
