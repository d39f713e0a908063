"""Promotion and its way back: traffic and the registry's alias as one transaction.

First the endpoint gets its new traffic together with a ledger entry marked pending, then the
alias moves, then the mark goes. When the alias cannot be moved the traffic goes back. When the
command is killed in between, or the mark cannot be taken off, it is still there: the next command
moves the alias first, and the same command run again does no more than that.
"""

import datetime as dt
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from mlflow_phi3.azure.online import Deployment, Endpoint
from mlflow_phi3.azure.operation import RUNS
from mlflow_phi3.azure.target import flag
from mlflow_phi3.config.parse import suggest
from mlflow_phi3.deployment.actions import ShiftTraffic
from mlflow_phi3.deployment.ledger import (
    Entry,
    find_lost,
    marks_of,
    read_ledger,
    with_entries,
)
from mlflow_phi3.deployment.meanwhile import check_unchanged
from mlflow_phi3.deployment.plan import Current, Plan
from mlflow_phi3.deployment.rollout import Service, get_current
from mlflow_phi3.deployment.traffic import WHOLE, largest, to_text
from mlflow_phi3.errors import AzureError, UsageError
from mlflow_phi3.tracking.tags import MODEL_TAG, VERSION_TAG


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


@dataclass(frozen=True, slots=True)
class Standing:
    """An endpoint that is there, with no move of it half-way.

    Args:
        endpoint: As it is.
        current: It, with its deployments.
        ended: The move that was half-way and has been ended; None when there was none.
    """

    endpoint: Endpoint
    current: Current
    ended: Entry | None = None


@dataclass(frozen=True, slots=True)
class AliasMove:
    """How the champion of a registered model moves.

    Args:
        model: Which one; empty moves none.
        old: The champion's version before; empty when there is none.
        new: After.
    """

    model: str
    old: str
    new: str

    @property
    def moves(self) -> bool:
        """Whether there is anything to move."""
        return bool(self.model and self.new and self.old != self.new)


def promote(
    service: Service,
    registry: Registry,
    endpoint: str,
    deployment: str = "",
    *,
    check: Callable[[Deployment], None],
    told: Callable[[str], None],
) -> Moved:
    """Give a deployment all traffic, and make its version the champion.

    Args:
        service: The remote calls.
        registry: The aliases.
        endpoint: Its name.
        deployment: Which one; empty takes the canary, by the ledger, or else the only one that does
            not have all traffic, unless the last move took the traffic from it: that one is
            promoted already, as one that is alone and has it all.
        check: Asks the deployment before traffic moves; what it raises leaves all as it is.
        told: Gets a line on what is not as it was asked for.

    Raises:
        UsageError: There is none, or several.
        Overtaken: Another command has moved the traffic, or changed what shall get it, meanwhile.
    """
    standing = _settle(service, registry, endpoint, told)
    ended = standing.ended
    if ended is not None and not ended.undo and deployment in {"", *ended.after}:
        return _to_moved(ended)
    name = deployment or _candidate(standing, told)
    target = standing.current.find(name)
    if target is None or target.state != RUNS:
        state = "does not exist" if target is None else f"is in state {target.state}"
        able = [d.name for d in standing.current.deployments if d.state == RUNS]
        fix = suggest(name, able) if able else _to_create(endpoint)
        raise UsageError("PHI3-U724", f"it {state}", where=f"deployment {endpoint}/{name}", fix=fix)
    traffic = {name: WHOLE}
    if standing.endpoint.traffic != traffic:
        check(target)
    alias = _alias_to(target, registry)
    return _move(service, registry, standing, traffic, alias, told=told)


def rollback(
    service: Service,
    registry: Registry,
    endpoint: str,
    *,
    target: str,
    told: Callable[[str], None],
) -> Moved:
    """Take the last move back: traffic as before it, and the champion that was then.

    Args:
        service: The remote calls.
        registry: The aliases.
        endpoint: Its name.
        target: URI of the project, for messages.
        told: Gets a line on what is not as it was asked for.

    Raises:
        UsageError: Nothing was moved yet, or what had the traffic is gone, as when its deployment
            runs another version by now.
    """
    standing = _settle(service, registry, endpoint, told)
    current = standing.current
    if standing.ended is not None and standing.ended.undo:
        return _to_moved(standing.ended)
    entries = [e for e in read_ledger(standing.endpoint.tags) if e.before and not e.undo]
    if not entries:
        raise UsageError(
            "PHI3-U725",
            "no move of traffic is in its ledger",
            where=f"endpoint {endpoint}",
            fix=f"mlflow-phi3 promote {endpoint} --deployment <name>{flag(target)}",
        )
    last = entries[-1]
    lost = find_lost(last, [d for d in current.deployments if d.state == RUNS])
    if lost:
        raise UsageError(
            "PHI3-U726",
            f"what {', '.join(lost)} ran when it had the traffic does not run there any more",
            where=f"endpoint {endpoint}",
            fix="deploy the version again: mlflow deployments update -t azure-foundry "
            f"--name {endpoint} -m models:/<name>@previous",
        )
    alias = _alias_to(current.find(largest(last.before)), registry)
    # The alias goes back only where it points at what is being rolled back.
    leaving = current.active()
    if leaving is not None and (alias.model, alias.old) != version_of(leaving):
        alias = replace(alias, model="")
    return _move(service, registry, standing, dict(last.before), alias, undone=last, told=told)


def _alias_to(deployment: Deployment | None, registry: Registry) -> AliasMove:
    """Return how the champion moves to the version that a deployment runs."""
    model, version = version_of(deployment)
    return AliasMove(model, registry.get_champion(model) if model else "", version)


def _move(
    service: Service,
    registry: Registry,
    standing: Standing,
    traffic: dict[str, int],
    alias: AliasMove,
    *,
    told: Callable[[str], None],
    undone: Entry | None = None,
) -> Moved:
    endpoint = _unchanged(service, standing, traffic)
    entry = Entry(
        at=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        before=dict(endpoint.traffic),
        after=traffic,
        model=alias.model if alias.moves else "",
        old_version=alias.old,
        new_version=alias.new,
        pending=True,
        undo=undone is not None,
        held=marks_of(endpoint.traffic, standing.current.deployments),
    )
    version = alias.new if alias.moves else alias.old
    moved = replace(_to_moved(entry), model=alias.model, version=version)
    if undone is None and entry.before == traffic:  # nothing that a rollback could take back
        if alias.moves:
            registry.set_champion(alias.model, alias.new, alias.old)
        return moved
    # A rollback takes its entry out, so that the next rollback goes one further back.
    entries = [e for e in read_ledger(endpoint.tags) if e != undone] + [entry]
    service.put_endpoint(
        replace(endpoint, traffic=traffic, tags=with_entries(endpoint.tags, entries))
    )
    if alias.moves:
        try:
            registry.set_champion(alias.model, alias.new, alias.old)
        except Exception:
            _put_back(service, endpoint, traffic)  # traffic and alias stay together
            raise
    _unmark(service, endpoint.name, told)
    return moved


def _unchanged(service: Service, standing: Standing, traffic: Mapping[str, int]) -> Endpoint:
    """Return the endpoint as it is now; what was decided on may be another's by then.

    Raises:
        Overtaken: Its traffic, or what shall get more of it, is not as it was.
    """
    endpoint = _find_standing(service, standing.endpoint.name).endpoint
    shift = ShiftTraffic(endpoint.name, traffic, standing.endpoint.traffic)
    for deployment in standing.current.deployments:
        check_unchanged(shift, Plan(deployment.name, (), deployment.model), service)
    return endpoint


def _put_back(service: Service, before: Endpoint, after: Mapping[str, int]) -> None:
    """Give an endpoint the traffic and ledger of before, unless others have moved it since."""
    found = service.get_endpoint(before.name)
    if found is not None and found.traffic == after:
        tags = with_entries(found.tags, read_ledger(before.tags))
        service.put_endpoint(replace(found, traffic=before.traffic, tags=tags))


def _to_moved(entry: Entry) -> Moved:
    before, after = to_text(entry.before), to_text(entry.after)
    return Moved(largest(entry.after), before, after, entry.model, entry.new_version)


def _settle(
    service: Service, registry: Registry, endpoint: str, told: Callable[[str], None]
) -> Standing:
    """Return what is there once a move that was killed half-way has been ended, and that move.

    One that later moves have overtaken is not ended but over.
    """
    standing = _find_standing(service, endpoint)
    entries = read_ledger(standing.endpoint.tags)
    if not any(entry.pending for entry in entries):
        return standing
    last = entries[-1]
    ended = last if last.pending and last.after == standing.endpoint.traffic else None
    if ended is not None and ended.model:
        # Somebody may have named another champion since: then that one stays.
        if registry.get_champion(ended.model) in {ended.old_version, ended.new_version}:
            registry.set_champion(ended.model, ended.new_version, ended.old_version)
        else:
            ended = replace(ended, model="")
    _unmark(service, endpoint, told)
    return replace(_find_standing(service, endpoint), ended=ended)


def _find_standing(service: Service, endpoint: str) -> Standing:
    current = get_current(service, endpoint)
    if current.endpoint is None:
        raise UsageError(
            "PHI3-U727",
            "there is no such endpoint",
            where=f"endpoint {endpoint}",
            fix="list them by mlflow deployments list -t azure-foundry",
        )
    return Standing(current.endpoint, current)


def _unmark(service: Service, name: str, told: Callable[[str], None]) -> None:
    """Write into the ledger that its moves are through: they are, whatever becomes of this."""
    try:
        endpoint = _find_standing(service, name).endpoint
        entries = [replace(entry, pending=False) for entry in read_ledger(endpoint.tags)]
        service.put_endpoint(replace(endpoint, tags=with_entries(endpoint.tags, entries)))
    except AzureError as failed:
        told(
            f"it is done, but not noted as done on endpoint {name} ({failed.problem}): "
            "the next promote or rollback does that first"
        )


def _candidate(standing: Standing, told: Callable[[str], None]) -> str:
    endpoint, current = standing.endpoint, standing.current
    if canary := _canary(endpoint):
        return canary
    if not current.deployments:
        raise UsageError(
            "PHI3-U729",
            "there is no deployment on it",
            where=f"endpoint {endpoint.name}",
            fix=_to_create(endpoint.name),
        )
    others = [d.name for d in current.deployments if endpoint.traffic.get(d.name, 0) < WHOLE]
    if not others:  # it is promoted already; its alias may not be
        return current.deployments[0].name
    if len(others) != 1:
        raise UsageError(
            "PHI3-U728",
            f"which deployment is meant? Without all traffic: {', '.join(others)}",
            where=f"endpoint {endpoint.name}",
            fix="name it by --deployment",
        )
    (name,) = others
    *_, last = [None, *read_ledger(endpoint.tags)]
    active = current.active()
    if last is None or last.undo or active is None or last.after != endpoint.traffic:
        return name
    if name not in last.before or name in find_lost(last, current.deployments):
        return name
    # Else the same command run again would take the traffic back to where it came from.
    told(f"{active.name} took over at {last.at}; --deployment {name} gives it back to {name}")
    return active.name


def _canary(endpoint: Endpoint) -> str:
    """Return which of several deployments with a share is the new one; empty where none is known.

    The smaller share need not be its own: it came with the latest move that gave one to another.
    """
    traffic, entries = endpoint.traffic, read_ledger(endpoint.tags)
    if len(traffic) < 2 or not entries or entries[-1].after != traffic:
        return ""
    for entry in reversed(entries):
        came = [name for name in entry.after if name not in entry.before]
        if came and entry.before and not entry.undo:
            return came[0] if len(came) == 1 and came[0] in traffic else ""
    return ""


def version_of(deployment: Deployment | None) -> tuple[str, str]:
    """Return the registered model that a deployment runs, and its version; empty texts if none."""
    tags = deployment.tags if deployment else {}
    return tags.get(MODEL_TAG, ""), tags.get(VERSION_TAG, "")


def _to_create(endpoint: str) -> str:
    return (
        f"mlflow deployments create -t azure-foundry --name {endpoint} -m models:/<name>/<version>"
    )
