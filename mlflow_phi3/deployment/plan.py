"""What has to be done to get from what is there to what is wanted: values in, actions out."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from mlflow_phi3.azure.online import Deployment, Endpoint
from mlflow_phi3.azure.operation import RUNS
from mlflow_phi3.azure.safety import SAFETY_VARIABLES
from mlflow_phi3.deployment.actions import (
    Action,
    CreateEndpoint,
    PutDeployment,
    RemoveDeployment,
    RemoveEndpoint,
    ShiftTraffic,
    Verify,
)
from mlflow_phi3.deployment.traffic import WHOLE, largest, with_share, without
from mlflow_phi3.errors import UsageError

SLOTS = ("blue", "green")
"""Names of a service's deployments: a new version takes the one that is free."""
_REQUEST_TIMEOUT_S = 90


@dataclass(frozen=True, slots=True)
class Current:
    """What is there.

    Args:
        endpoint: None when there is none.
        deployments: Those of the endpoint.
    """

    endpoint: Endpoint | None = None
    deployments: tuple[Deployment, ...] = ()

    def find(self, name: str) -> Deployment | None:
        """Return a deployment by name."""
        return next((found for found in self.deployments if found.name == name), None)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the deployments."""
        return tuple(found.name for found in self.deployments)

    @property
    def traffic(self) -> Mapping[str, int]:
        """Percent by deployment; none where there is no endpoint."""
        return self.endpoint.traffic if self.endpoint else {}

    @property
    def is_made(self) -> bool:
        """Whether there is an endpoint that can have deployments."""
        return self.endpoint is not None and self.endpoint.is_made

    def active(self) -> Deployment | None:
        """Return the deployment that gets most of the traffic."""
        return self.find(largest(self.traffic)) if self.traffic else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What shall be there.

    Args:
        endpoint: Its name.
        deployment: Its name; empty lets blue/green choose.
        model: Resource id of the model version; empty keeps the model.
        instance_type: None keeps what is there.
        default_instance_type: Of a new deployment with nothing to keep it from.
        instance_count: None keeps what is there.
        traffic: Percent; None: all for a service, and for a named deployment what it has.
        tags: Of the deployment, beside those that it has; an empty value takes one away.
        endpoint_tags: Of the endpoint.
        variables: Environment variables; None keeps what is there.
        safety: Variables for content safety, beside the others; None keeps what is there.
        request_timeout_s: Seconds; None keeps what is there.
        collect_data: Let requests and answers be collected; None keeps what is there.
        keep_previous: Leave the deployment that is taken over from.
        verify: Check its answers before traffic moves, also where it is as wanted.
    """

    endpoint: str
    deployment: str
    model: str = ""
    instance_type: str | None
    default_instance_type: str = ""
    instance_count: int | None
    traffic: int | None
    tags: Mapping[str, str]
    endpoint_tags: Mapping[str, str] = field(default_factory=dict)
    variables: Mapping[str, str] | None
    safety: Mapping[str, str] | None
    request_timeout_s: int | None
    collect_data: bool | None
    keep_previous: bool = True
    verify: bool


@dataclass(frozen=True, slots=True)
class Plan:
    """What will be done, in order; no action means that all is as wanted.

    Args:
        deployment: The deployment that it is about; empty for the endpoint as a whole.
        actions: In order.
        model: Resource id of the model that it runs by then; empty where it goes.
    """

    deployment: str
    actions: tuple[Action, ...]
    model: str = ""


def plan_deployment(current: Current, wanted: Wanted) -> Plan:
    """Return how to bring a model version to where it is wanted.

    Args:
        current: What is there; nothing of it may be changing.
        wanted: What shall be there.

    Raises:
        UsageError: It cannot be meant: a new deployment without a model, traffic that nobody
            could take.
    """
    if wanted.deployment:
        return _plan_named(current, wanted)
    return _plan_service(current, wanted)


def plan_removal(current: Current, name: str = "") -> Plan:
    """Return how to delete one deployment without losing requests, or the whole endpoint.

    Args:
        current: What is there.
        name: The deployment; empty for the endpoint with all of them.

    Raises:
        UsageError: The deployment gets all the traffic.
    """
    if current.endpoint is None:
        return Plan(name, ())
    if not name:
        return Plan(name, (RemoveEndpoint(current.endpoint.name, current.names),))
    if current.find(name) is None:
        return Plan(name, ())
    before = current.endpoint.traffic
    after = without(before, name)
    actions: list[Action] = []
    if after != dict(before):
        actions.append(ShiftTraffic(current.endpoint.name, after, before))
    actions.append(RemoveDeployment(current.endpoint.name, name))
    return Plan(name, tuple(actions))


def without_idle(plan: Plan, current: Current) -> Plan:
    """Return the plan with what gets no traffic after it removed.

    Args:
        plan: What is done before.
        current: What is there: a previous version that was kept, or what a killed command has left.
    """
    if current.endpoint is None:
        return plan
    traffic = current.traffic
    for action in plan.actions:
        if isinstance(action, ShiftTraffic):
            traffic = action.traffic
    idle = [d for d in current.deployments if d.name != plan.deployment and not traffic.get(d.name)]
    removals = tuple(RemoveDeployment(current.endpoint.name, found.name) for found in idle)
    return replace(plan, actions=(*plan.actions, *removals))


def _plan_service(current: Current, wanted: Wanted) -> Plan:
    """Blue/green: the free slot gets the new version, then the traffic."""
    share = WHOLE if wanted.traffic is None else wanted.traffic
    serving = _find_serving(current, wanted)
    if serving is not None:  # same version, same machines: at most its settings and share change
        plan = _plan_named(current, replace(wanted, deployment=serving.name, traffic=share))
        return plan if wanted.keep_previous else without_idle(plan, current)
    active = current.active()
    slot = next(name for name in SLOTS if active is None or name != active.name)
    ready = next((d for d in current.deployments if _is_ready(d, wanted, active)), None)
    name = slot if ready is None else ready.name
    actions: list[Action] = []
    if not current.is_made:
        actions.append(_new_endpoint(wanted))
    before = dict(current.traffic)
    if ready is None and current.find(slot) is not None:
        if before.get(slot):  # a canary of another version: its share goes back first
            cleared = without(before, slot)
            actions.append(ShiftTraffic(wanted.endpoint, cleared, before))
            before = cleared
        actions.append(RemoveDeployment(wanted.endpoint, slot))
    target = _merged(active, wanted, name)
    if ready is None:
        actions.append(PutDeployment(wanted.endpoint, target))
    if wanted.verify:
        actions.append(Verify(wanted.endpoint, name))
    # One takes over from all: shares of a canary before belong to the past.
    old = {active.name: WHOLE} if active is not None else {}
    after = with_share(old, name, share)
    if after != before:
        actions.append(ShiftTraffic(wanted.endpoint, after, before))
    if not wanted.keep_previous and share == WHOLE:
        actions += [
            RemoveDeployment(wanted.endpoint, other.name)
            for other in current.deployments
            if other.name != name
        ]
    return Plan(name, tuple(actions), target.model)


def _find_serving(current: Current, wanted: Wanted) -> Deployment | None:
    """Return what runs the wanted version on the wanted machines with a share of the traffic."""
    for name in sorted(current.traffic, key=lambda name: (-current.traffic[name], name)):
        found = current.find(name)
        if found is None or found.state != RUNS:
            continue
        target = _merged(found, wanted, name)
        if (target.model, target.instance_type) == (found.model, found.instance_type):
            return found
    return None


def _plan_named(current: Current, wanted: Wanted) -> Plan:
    """One deployment that the caller named: created or changed where it is."""
    name = wanted.deployment
    known = current.find(name)
    actions: list[Action] = []
    if not current.is_made:
        actions.append(_new_endpoint(wanted))
    if known is not None and known.state != RUNS and not current.traffic.get(name):
        actions.append(RemoveDeployment(wanted.endpoint, name))  # a failed one is not repaired
        known = None
    target = _merged(known, wanted, name)
    changed = known != replace(target, state=RUNS)
    if changed:
        actions.append(PutDeployment(wanted.endpoint, target, known))
    before = dict(current.traffic)
    share = wanted.traffic
    if share is None:
        share = before.get(name, 0) if before else WHOLE
    after = with_share(before, name, share) if share != before.get(name, 0) else before
    moves = after != before
    # What is as wanted is asked too: the command that made it may have been killed before it did.
    if wanted.verify and (changed or share or not moves):
        actions.append(Verify(wanted.endpoint, name))
    if moves:
        actions.append(ShiftTraffic(wanted.endpoint, after, before))
    return Plan(name, tuple(actions), target.model)


def _merged(known: Deployment | None, wanted: Wanted, name: str) -> Deployment:
    """Return the deployment that is wanted, with what is not told kept from ``known``."""
    model = wanted.model or (known.model if known else "")
    if not model:
        raise UsageError(
            "PHI3-U716",
            "a new deployment needs a model",
            where=f"deployment {name}",
            fix="name one by --model-uri models:/<name>@champion",
        )
    return Deployment(
        name=name,
        model=model,
        instance_type=wanted.instance_type
        or (known.instance_type if known else wanted.default_instance_type),
        instance_count=wanted.instance_count or (known.instance_count if known else 1),
        tags=_tags(known, wanted),
        variables=_variables(known, wanted),
        request_timeout_s=wanted.request_timeout_s
        or (known.request_timeout_s if known else _REQUEST_TIMEOUT_S),
        collect_data=(known is not None and known.collect_data)
        if wanted.collect_data is None
        else wanted.collect_data,
        kept=known.kept if known else {},
    )


def _tags(known: Deployment | None, wanted: Wanted) -> dict[str, str]:
    tags = {**(known.tags if known else {}), **wanted.tags}
    return {name: value for name, value in tags.items() if value}


def _variables(known: Deployment | None, wanted: Wanted) -> dict[str, str]:
    """Return the environment variables that are wanted: safety and others are told apart."""
    before = known.variables if known else {}
    others = before if wanted.variables is None else wanted.variables
    safety = before if wanted.safety is None else wanted.safety
    return {
        **{name: value for name, value in others.items() if name not in SAFETY_VARIABLES},
        **{name: value for name, value in safety.items() if name in SAFETY_VARIABLES},
    }


def _is_ready(found: Deployment, wanted: Wanted, active: Deployment | None) -> bool:
    """Tell whether an idle deployment is what is wanted: an interrupted command left it so."""
    if active is not None and found.name == active.name:
        return False
    target = _merged(active, wanted, found.name)
    same = replace(found, tags={}, state="") == replace(target, tags={}, state="")
    return found.state == RUNS and same


def _new_endpoint(wanted: Wanted) -> CreateEndpoint:
    tags, reads = dict(wanted.endpoint_tags), bool(wanted.safety)
    return CreateEndpoint(Endpoint(wanted.endpoint, tags=tags, reads_secrets=reads))
