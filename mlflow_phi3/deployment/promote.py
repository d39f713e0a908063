"""Promotion and its way back: traffic and the registry's alias as one transaction.

First the endpoint gets its new traffic together with a ledger entry marked pending, then the
alias moves, then the mark goes. When the alias cannot be moved the traffic goes back. When the
command is killed in between, the mark is still there: the next command moves the alias first, and
the same command run again does no more than that.
"""

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from mlflow_phi3.azure.online import Endpoint
from mlflow_phi3.deployment.ledger import (
    Entry,
    find_lost,
    marks_of,
    read_ledger,
    settled,
    with_entries,
)
from mlflow_phi3.deployment.plan import RUNS, Current
from mlflow_phi3.deployment.rollout import Service, get_current
from mlflow_phi3.deployment.traffic import WHOLE, written
from mlflow_phi3.errors import UsageError

MODEL_TAG = "phi3.model"
VERSION_TAG = "phi3.version"


class Registry(Protocol):
    """What promotion needs of the model registry."""

    def get_champion(self, name: str) -> str:
        """Return the champion's version, or an empty text."""

    def set_champion(self, name: str, version: str, previous: str) -> None:
        """Move both aliases; an empty text removes one."""


@dataclass(frozen=True, slots=True)
class Moved:
    """What a promotion or rollback did.

    Args:
        deployment: What gets the traffic now.
        before: Traffic before, as text.
        after: Traffic after, as text.
        model: Registered model whose alias moved; empty when none did.
        version: The champion now.
    """

    deployment: str
    before: str
    after: str
    model: str
    version: str


def promote(service: Service, registry: Registry, endpoint: str, deployment: str = "") -> Moved:
    """Give a deployment all traffic, and make its version the champion.

    Args:
        service: The remote calls.
        registry: The aliases.
        endpoint: Its name.
        deployment: Which one; empty takes the only one that does not have all traffic.

    Raises:
        UsageError: There is none, or several.
    """
    current, ended = _settle(service, registry, endpoint)
    if ended is not None and not ended.undo and deployment in {"", *ended.after}:
        return _to_moved(ended)
    name = deployment or _candidate(current, endpoint)
    target = current.find(name)
    if target is None or target.state != RUNS:
        state = "does not exist" if target is None else f"is in state {target.state}"
        raise UsageError("PHI3-U724", f"it {state}", where=f"deployment {endpoint}/{name}")
    model, version = target.tags.get(MODEL_TAG, ""), target.tags.get(VERSION_TAG, "")
    old = registry.get_champion(model) if model else ""
    return _move(service, registry, current, {name: WHOLE}, (model, old, version))


def rollback(service: Service, registry: Registry, endpoint: str) -> Moved:
    """Take the last move back: traffic as before it, and the champion that was then.

    Raises:
        UsageError: Nothing was moved yet, or what had the traffic is gone, as when its deployment
            runs another version by now.
    """
    current, ended = _settle(service, registry, endpoint)
    if ended is not None and ended.undo:
        return _to_moved(ended)
    entries = [e for e in read_ledger(_tags(current)) if e.before and not e.undo]
    if not entries:
        raise UsageError(
            "PHI3-U725",
            "no move of traffic is in its ledger",
            where=f"endpoint {endpoint}",
            fix=f"mlflow-phi3 promote {endpoint} --deployment <name>",
        )
    last = entries[-1]
    lost = find_lost(last, [d for d in current.deployments if d.state == RUNS])
    if lost:
        raise UsageError(
            "PHI3-U726",
            f"what {', '.join(lost)} ran when it had the traffic does not run there any more",
            where=f"endpoint {endpoint}",
            fix="deploy the version again: mlflow deployments update -m models:/<name>@previous",
        )
    name = max(sorted(last.before), key=lambda n: last.before[n])
    target = current.find(name)
    tags = target.tags if target else {}
    model, version = tags.get(MODEL_TAG, ""), tags.get(VERSION_TAG, "")
    old = registry.get_champion(model) if model else ""
    # The alias goes back only where it points at what is being rolled back.
    leaving = current.active()
    if model and leaving is not None and old != leaving.tags.get(VERSION_TAG):
        model = ""
    return _move(service, registry, current, dict(last.before), (model, old, version), undone=last)


def _move(
    service: Service,
    registry: Registry,
    current: Current,
    traffic: dict[str, int],
    alias: tuple[str, str, str],
    *,
    undone: Entry | None = None,
    clock: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC),
) -> Moved:
    endpoint = _endpoint(current)
    model, old, new = alias
    moves_alias = bool(model and new and old != new)
    entry = Entry(
        at=clock().isoformat(timespec="seconds"),
        before=dict(endpoint.traffic),
        after=traffic,
        model=model if moves_alias else "",
        old_version=old,
        new_version=new,
        pending=True,
        undo=undone is not None,
        held=marks_of(endpoint.traffic, current.deployments),
    )
    entries = read_ledger(endpoint.tags)
    # A rollback takes its entry out, so that the next rollback goes one further back.
    entries = [e for e in entries if e != undone] if undone else entries
    begun = [*entries, entry]
    service.put_endpoint(
        replace(endpoint, traffic=traffic, tags=with_entries(endpoint.tags, begun))
    )
    if moves_alias:
        try:
            registry.set_champion(model, new, old)
        except Exception:
            service.put_endpoint(endpoint)  # whatever it was: traffic and alias stay together
            raise
    done = with_entries(endpoint.tags, [*entries, settled(entry)])
    service.put_endpoint(replace(endpoint, traffic=traffic, tags=done))
    return replace(_to_moved(entry), model=model, version=new if moves_alias else old)


def _to_moved(entry: Entry) -> Moved:
    name = max(sorted(entry.after), key=lambda n: entry.after[n])
    before, after = written(entry.before), written(entry.after)
    return Moved(name, before, after, entry.model, entry.new_version)


def _settle(service: Service, registry: Registry, endpoint: str) -> tuple[Current, Entry | None]:
    """Return what is there once a move that was killed half-way has been ended, and that move."""
    current = get_current(service, endpoint)
    if current.endpoint is None:
        raise UsageError(
            "PHI3-U727",
            "there is no such endpoint",
            where=f"endpoint {endpoint}",
            fix="list them by mlflow deployments list -t <target>",
        )
    entries = read_ledger(current.endpoint.tags)
    pending = [entry for entry in entries if entry.pending]
    if not pending:
        return current, None
    for entry in pending:
        if entry.model:
            registry.set_champion(entry.model, entry.new_version, entry.old_version)
    tags = with_entries(current.endpoint.tags, [settled(entry) for entry in entries])
    service.put_endpoint(replace(current.endpoint, tags=tags))
    return get_current(service, endpoint), pending[-1]


def _candidate(current: Current, endpoint: str) -> str:
    traffic = _endpoint(current).traffic
    others = [d.name for d in current.deployments if traffic.get(d.name, 0) < WHOLE]
    if len(others) != 1:
        found = ", ".join(others) or "none"
        raise UsageError(
            "PHI3-U728",
            f"which deployment is meant? Without all traffic: {found}",
            where=f"endpoint {endpoint}",
            fix="name it by --deployment",
        )
    return others[0]


def _endpoint(current: Current) -> Endpoint:
    if current.endpoint is None:  # _settle has refused that
        raise UsageError("PHI3-U727", "there is no such endpoint")
    return current.endpoint


def _tags(current: Current) -> dict[str, str]:
    return dict(_endpoint(current).tags)
