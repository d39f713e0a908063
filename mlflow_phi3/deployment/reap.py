"""Endpoints whose time is over, and what is noted of what was deleted."""

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol, TypeVar

from mlflow_phi3.azure.online import Deployment
from mlflow_phi3.deployment.promote import MODEL_TAG, VERSION_TAG
from mlflow_phi3.errors import PreflightError

EXPIRES_TAG = "azure.expires_at"


class Tagged(Protocol):
    """An endpoint of any kind."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def tags(self) -> Mapping[str, str] | None:
        """Its tags."""


class Notes(Protocol):
    """What noting needs of the model registry."""

    def tag_version(self, name: str, version: str, tags: Mapping[str, str]) -> None:
        """Write tags on a version; one that is gone is no error."""


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


def note_deleted(deleted: Sequence[Deployment], registry: Notes) -> None:
    """Tell the registry that versions do not run there any more.

    Raises:
        PreflightError: The registry does not answer; what was deleted is deleted.
    """
    versions = [(d.tags[MODEL_TAG], d.tags[VERSION_TAG]) for d in deleted if d.tags.get(MODEL_TAG)]
    for done, (name, version) in enumerate(versions):
        try:
            registry.tag_version(name, version, {"azure.state": "deleted"})
        except PreflightError as away:
            left = ", ".join(f"{name} version {version}" for name, version in versions[done:])
            raise PreflightError(
                "PHI3-P709",
                f"the deployments are deleted, but it could not be noted on {left}: {away.problem}",
                where=away.where,
                fix="set the tag azure.state of these to deleted when the store answers",
            ) from None
