"""What is missing of hub and project of Azure AI Foundry, and in which order it can be made."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from mlflow_phi3.azure.infra_wanted import CREATE, SKIP, WantedInfra, check_wanted
from mlflow_phi3.azure.names import region_name
from mlflow_phi3.azure.resource_manager import LOST, state_of
from mlflow_phi3.config.parse import suggest
from mlflow_phi3.errors import PreflightError, UsageError

Kind = Literal["resource group", "AI Services account", "hub", "project", "connection"]
AI_SERVICES, AI_SEARCH = "ai-services", "ai-search"
"""Names of a hub's connections."""
_OPTIONS = {AI_SERVICES: "--ai-services", AI_SEARCH: "--search"}
_LOCATION = re.compile(r"[a-z]+\d?")
_WORKSPACE_ID = re.compile(
    r"/subscriptions/(?P<subscription>[^/]+)/resourceGroups/(?P<group>[^/]+)"
    r"/providers/Microsoft\.MachineLearningServices/workspaces/(?P<name>[^/]+)",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Step:
    """One thing to be created.

    Args:
        kind: What.
        name: Its name.
        path: Its resource id.
        note: With what, in words.
    """

    kind: Kind
    name: str
    path: str
    note: str

    def __str__(self) -> str:
        """As a line of a plan."""
        return f"create {self.kind} {self.name} ({self.note})"


@dataclass(frozen=True, slots=True)
class CurrentInfra:
    """What is there: the description of each resource, or None.

    Args:
        group: The resource group.
        hub: The hub.
        project: The project.
        account: The AI Services account.
        connections: What the hub's connections lead to, by their names; empty where not told.
        locations: Names of the subscription's regions; none where they may not be read.
    """

    group: Mapping[str, Any] | None
    hub: Mapping[str, Any] | None
    project: Mapping[str, Any] | None
    account: Mapping[str, Any] | None
    connections: Mapping[str, str] = field(default_factory=dict)
    locations: tuple[str, ...] = ()


def plan_infra(current: CurrentInfra, wanted: WantedInfra) -> tuple[Step, ...]:
    """Return what is missing, in the order in which it can be created.

    Raises:
        UsageError: As :func:`check_wanted`, or no region for what is new.
        PreflightError: Something of that name is something else, or elsewhere.
    """
    check_wanted(wanted)
    location = find_location(current, wanted)
    _check_known(current, wanted, location)
    steps: list[Step] = []
    if current.group is None:
        target = wanted.target
        steps.append(Step("resource group", target.group, target.group_path, location))
    if wanted.ai_services == CREATE and current.account is None:
        note = f"{location}, kind AIServices, SKU S0: billed by use"
        steps.append(Step("AI Services account", wanted.account_name, wanted.account_path, note))
    if current.hub is None:
        note = f"{location}, with a new storage account and key vault"
        steps.append(Step("hub", wanted.hub, wanted.hub_target.path, note))
    for name, to in connections(wanted).items():
        if name not in current.connections:
            path = f"{wanted.hub_target.path}/connections/{name}"
            steps.append(Step("connection", name, path, f"of the hub to {to}"))
    if current.project is None:
        note = f"{location}, in hub {wanted.hub}"
        steps.append(Step("project", wanted.target.project, wanted.target.path, note))
    return tuple(steps)


def find_location(current: CurrentInfra, wanted: WantedInfra) -> str:
    """Return the region: as wanted, else the hub's, else the resource group's.

    Raises:
        UsageError: It is told nowhere, or is no region's name.
    """
    told = [wanted.location] + [
        str(found["location"]) for found in (current.hub, current.group) if found is not None
    ]
    location = region_name(next((place for place in told if place), ""))
    if not _LOCATION.fullmatch(location):
        raise UsageError(
            "PHI3-U762",
            f"{location!r} is not a region" if location else "no region is told",
            where="--location",
            fix="name one that tunes your model, for example --location eastus2 "
            "(mlflow-phi3 models lists them)",
        )
    if wanted.location and current.locations and location not in current.locations:
        raise UsageError(
            "PHI3-U762",
            f"{location!r} is not a region of this subscription",
            where="--location",
            fix=suggest(
                location,
                current.locations,
                "az account list-locations -o table lists them; "
                "mlflow-phi3 models those that tune your model",
            ),
        )
    return location


def connections(wanted: WantedInfra) -> dict[str, str]:
    """Return the hub's connections by name, and what they lead to."""
    found = {}
    if wanted.ai_services != SKIP:
        found[AI_SERVICES] = wanted.account_path
    if wanted.search != SKIP:
        found[AI_SEARCH] = wanted.search
    return found


def own_hub(project: Mapping[str, Any] | None) -> re.Match[str] | None:
    """Return the hub that a project is in, by ``group`` and ``name``; None where it is in none."""
    properties = (project or {}).get("properties") or {}
    return _WORKSPACE_ID.fullmatch(str(properties.get("hubResourceId") or ""))


def _check_known(current: CurrentInfra, wanted: WantedInfra, location: str) -> None:
    for what, found, target in (
        ("hub", current.hub, wanted.hub_target),
        ("project", current.project, wanted.target),
    ):
        if found is None:
            continue
        where = f"{what} {target.project}"
        _check_made(found, where, f"az ml workspace delete -n {target.project} -g {target.group}")
        kind = str(found.get("kind") or "Default")
        if kind.lower() != what:
            raise PreflightError(
                "PHI3-P721",
                f"there is a workspace of this name, of kind {kind}",
                where=where,
                fix=f"choose another name by --{what}",
            )
        place = region_name(str(found["location"]))
        if place != location:
            raise PreflightError(
                "PHI3-P722",
                f"it is in {place}, not in {location}",
                where=where,
                fix="choose another name by --project"
                + (" and another by --hub" if what == "hub" else "")
                + f", or --location {place}",
            )
    _check_hub(current.project, wanted)
    if current.account is None and wanted.ai_services not in {CREATE, SKIP}:
        raise PreflightError(
            "PHI3-P723",
            "there is no such AI Services account",
            where=wanted.ai_services,
            fix="give the resource id of one, or --ai-services create or skip",
        )
    _check_connections(current, wanted)


def _check_hub(project: Mapping[str, Any] | None, wanted: WantedInfra) -> None:
    """Refuse another hub than the project's: what is made for it would be used by nothing."""
    own = own_hub(project)
    hub = wanted.hub_target
    asked = (hub.group.lower(), hub.project.lower())
    if own is None or (own["group"].lower(), own["name"].lower()) == asked:
        return
    elsewhere = "" if own["group"].lower() == asked[0] else f" of resource group {own['group']}"
    raise PreflightError(
        "PHI3-P724",
        f"it is in hub {own['name']}{elsewhere}, not in {wanted.hub}",
        where=f"project {wanted.target.project}",
        fix="choose another name by --project, or leave --hub out",
    )


def _check_made(found: Mapping[str, Any], where: str, mend: str) -> None:
    """Refuse what Azure could not make: another PUT does not bring it to life."""
    state = state_of(found)
    if state in LOST:
        raise PreflightError(
            "PHI3-P725",
            f"Azure ended its creation as {state}",
            where=where,
            fix=f"{mend}, then run the same command again",
        )


def _check_connections(current: CurrentInfra, wanted: WantedInfra) -> None:
    """Refuse to lead a connection elsewhere: others may use it."""
    told = connections(wanted)
    if wanted.ai_services == CREATE:  # whatever it leads to is no matter then
        del told[AI_SERVICES]
    for name, to in told.items():
        found = current.connections.get(name, "")
        if found and found.rstrip("/").lower() != to.rstrip("/").lower():
            raise PreflightError(
                "PHI3-P726",
                f"it leads to {found}, not to {to}",
                where=f"connection {name} of hub {wanted.hub}",
                fix=f"leave it as it is by {_OPTIONS[name]} skip, or first "
                f"az ml connection delete -n {name} -w {wanted.hub} -g {wanted.hub_target.group}",
            )
