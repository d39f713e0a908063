"""Endpoints whose time is over."""

import datetime as dt
from collections.abc import Iterable

from mlflow_phi3.azure.online import Endpoint

EXPIRES_TAG = "azure.expires_at"


def expiry(now: dt.datetime, ttl_hours: float) -> str:
    """Return the value of the tag for a life that begins now."""
    return (now + dt.timedelta(hours=ttl_hours)).isoformat(timespec="seconds")


def find_expired(endpoints: Iterable[Endpoint], now: dt.datetime) -> list[Endpoint]:
    """Return the endpoints whose tag lies in the past; what cannot be read is left alone."""
    expired = []
    for endpoint in endpoints:
        try:
            end = dt.datetime.fromisoformat(endpoint.tags.get(EXPIRES_TAG, ""))
        except ValueError:
            continue
        if end.tzinfo is not None and end <= now:
            expired.append(endpoint)
    return expired
