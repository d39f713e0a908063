"""Endpoints whose time is over, and what is noted of what was deleted."""

import datetime as dt
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

from mlflow_phi3.azure.online import Endpoint
from mlflow_phi3.deployment.rollout import Service
from mlflow_phi3.errors import PreflightError, UsageError
from mlflow_phi3.tracking.tags import (
    DELETED,
    ENDPOINT_TAG,
    EXPIRES_TAG,
    MODEL_TAG,
    PROJECT_TAG,
    STATE_TAG,
    VERSION_TAG,
)


@dataclass(frozen=True, slots=True)
class Gone:
    """A version that does not run at an endpoint any more.

    Args:
        endpoint: Where it ran.
        model: Registered model.
        version: Its version.
    """

    endpoint: str
    model: str
    version: str


class Tagged(Protocol):
    """An endpoint of any kind, or a deployment."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def tags(self) -> Mapping[str, str] | None:
        """Its tags."""


class Notes(Protocol):
    """What noting needs of the model registry."""

    def note_deleted(self, name: str, version: str, place: Mapping[str, str]) -> None:
        """Say of a version that it is deleted, unless its tags name another place by now."""

    def find_deployed(self, place: Mapping[str, str]) -> Sequence[tuple[str, str]]:
        """Return the names and versions that are noted as deployed at a place."""


TaggedT = TypeVar("TaggedT", bound=Tagged)


def expiry(now: dt.datetime, ttl_hours: float) -> str:
    """Return the value of the tag for a life that begins now.

    Raises:
        UsageError: It would end after the last year that a date can have.
    """
    try:
        return (now + dt.timedelta(hours=ttl_hours)).isoformat(timespec="seconds")
    except OverflowError as never:
        raise UsageError(
            "PHI3-U754",
            f"{ttl_hours:g} hours end after the year 9999",
            where="ttl_hours",
            fix="leave it out: the endpoint stays until it is deleted",
        ) from never


def let_expire(endpoint: str, service: Service, ttl_hours: float) -> None:
    """Write on an endpoint that its life of so many hours begins now.

    Args:
        endpoint: Its name; one that is gone is left.
        service: The remote calls.
        ttl_hours: How long it lives.
    """
    found = service.get_endpoint(endpoint)
    if found is not None:
        service.put_endpoint(ending(found, expiry(dt.datetime.now(dt.UTC), ttl_hours)))


def put_off_end(endpoint: str, service: Service, ttl_hours: float) -> None:
    """Put the end of an endpoint off where it has one that comes before these hours are over.

    Args:
        endpoint: Its name; one that is not there yet is left.
        service: The remote calls.
        ttl_hours: How long it lives from now.
    """
    found, end = service.get_endpoint(endpoint), expiry(dt.datetime.now(dt.UTC), ttl_hours)
    if found is not None and find_expired([found], dt.datetime.fromisoformat(end)):
        service.put_endpoint(ending(found, end))


def ending(endpoint: Endpoint, end: str) -> Endpoint:
    """Return an endpoint whose time is over then."""
    return replace(endpoint, tags={**endpoint.tags, EXPIRES_TAG: end})


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


def find_gone(endpoint: str, before: Iterable[Tagged], after: Iterable[Tagged] = ()) -> list[Gone]:
    """Return the versions that ran at an endpoint and do not any more.

    Args:
        endpoint: Its name.
        before: What was deployed there.
        after: What is deployed there now.
    """
    still = _versions(after)
    return [Gone(endpoint, *version) for version in _versions(before) if version not in still]


def note_deleted(gone: Sequence[Gone], target: str, registry: Notes) -> None:
    """Tell the registry that versions do not run there any more.

    Args:
        gone: Which.
        target: Path of the project in Azure.
        registry: Gets the notes.

    Raises:
        PreflightError: The registry does not answer; what was deleted is deleted.
    """
    for done, one in enumerate(gone):
        place = {PROJECT_TAG: target, ENDPOINT_TAG: one.endpoint}
        try:
            registry.note_deleted(one.model, one.version, place)
        except PreflightError as away:
            left = ", ".join(f"{other.model} version {other.version}" for other in gone[done:])
            raise PreflightError(
                "PHI3-P709",
                f"the deployments are deleted, but it could not be noted on {left}: {away.problem}",
                where=away.where,
                fix=f"set the tag {STATE_TAG} of these to {DELETED} when the store answers",
            ) from None


def note_replaced(
    endpoint: str,
    list_running: Callable[[], Iterable[Tagged]],
    target: str,
    registry: Notes,
) -> None:
    """Tell the registry of the versions that it takes to run at an endpoint and that do not.

    An earlier command may have begun to replace one, and have left before it was done.

    Args:
        endpoint: Its name; nothing of it is changing.
        list_running: Lists what runs there.
        target: Path of the project in Azure.
        registry: Is asked, and gets the notes.

    Raises:
        PreflightError: The registry does not answer.
    """
    noted = registry.find_deployed({PROJECT_TAG: target, ENDPOINT_TAG: endpoint})
    running = _versions(list_running())  # later: what another command adds is noted after it runs
    gone = [Gone(endpoint, *version) for version in noted if version not in running]
    note_deleted(gone, target, registry)


def _versions(deployed: Iterable[Tagged]) -> list[tuple[str, str]]:
    tags = [one.tags or {} for one in deployed]
    return [(t[MODEL_TAG], t[VERSION_TAG]) for t in tags if t.get(MODEL_TAG) and t.get(VERSION_TAG)]
