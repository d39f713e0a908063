"""What another command has done since a plan was made: then a step is refused, and that is left.

Two commands at work on one name can each have made a sound plan. So each step looks once more, and
what is taken back is looked at too: it may run somebody else's model, or have the traffic, by now.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

from mlflow_phi3.azure.assets import short_name
from mlflow_phi3.azure.online import Deployment, Endpoint
from mlflow_phi3.azure.operation import CHANGING, RUNS, Refused
from mlflow_phi3.deployment.actions import (
    Action,
    CreateEndpoint,
    PutDeployment,
    RemoveDeployment,
    RemoveEndpoint,
    RestoreTraffic,
    ShiftTraffic,
    Verify,
)
from mlflow_phi3.deployment.plan import Plan
from mlflow_phi3.deployment.traffic import to_text


class Readable(Protocol):
    """The remote calls that read."""

    def get_endpoint(self, name: str) -> Endpoint | None:
        """Return an endpoint, or None."""

    def list_deployments(self, endpoint: str) -> list[Deployment]:
        """Return an endpoint's deployments."""


class Overtaken(Refused):
    """A step that another command has overtaken: nothing of it was begun."""


def check_unchanged(action: Action, plan: Plan, service: Readable) -> None:
    """Refuse a step where what it is about is not as it was when the plan was made.

    Args:
        action: What comes next.
        plan: What it is a step of.
        service: The remote calls.

    Raises:
        Overtaken: It was created, deleted, given another model or other traffic meanwhile.
    """
    match action:
        case CreateEndpoint(Endpoint(name)):
            found = service.get_endpoint(name)
            if found is not None and (found.is_made or found.state in CHANGING):
                raise _overtaken(f"endpoint {name}", "it was created meanwhile")
        case PutDeployment(endpoint, wanted, before):
            if change := _change(endpoint, wanted, before, service):
                raise _overtaken(f"deployment {endpoint}/{wanted.name}", change)
        case Verify(endpoint, _):
            _check_model(endpoint, plan, service)
        case ShiftTraffic():
            _check_shift(action, plan, service)
        case RemoveDeployment(endpoint, name):
            if share := _share(endpoint, name, service):
                raise _overtaken(
                    f"deployment {endpoint}/{name}", f"it has {share} % of the traffic by now"
                )
        case _:
            pass


def check_ours(undo: Action, made: Sequence[Action], service: Readable) -> None:
    """Refuse to take back what is another command's by now, or has traffic by its will.

    Args:
        undo: What would be done.
        made: What this command made.
        service: The remote calls.

    Raises:
        Overtaken: It is; the problem says what is left.
    """
    ours = {
        step.deployment.name: step.deployment.model
        for step in made
        if isinstance(step, PutDeployment) and step.before is None
    }
    match undo:
        case RemoveDeployment(endpoint, name):
            where = f"deployment {endpoint}/{name}"
            found = _find(endpoint, name, service)
            if found is not None and not _same(found.model, ours.get(name, "")):
                raise left_alone(where, found.model)
            if share := _share(endpoint, name, service):
                told = f"{where} has {share} % of the traffic: mlflow-phi3 rollback {endpoint}"
                raise _overtaken("", told)
        case RemoveEndpoint(name):
            if use := _use(name, ours, service):
                raise _left(f"endpoint {name}", use)
        case PutDeployment(endpoint, wanted, before):
            if change := _change(endpoint, wanted, before, service):
                raise _left(f"deployment {endpoint}/{wanted.name}", change)
        case RestoreTraffic(failed):
            if moved := _moved(failed, service):
                told = f"another command has changed it to {moved}"
                raise _left(f"traffic of {failed.endpoint}", told)
        case _:
            pass


def left_alone(where: str, model: str) -> Overtaken:
    """Return the refusal to take back what runs another model by now."""
    return _left(where, f"another command has given it {short_name(model)}")


def _change(endpoint: str, wanted: Deployment, before: Deployment | None, service: Readable) -> str:
    """Return what became of a deployment that shall be put; empty where it is as before."""
    found = _find(endpoint, wanted.name, service)
    if before is None:
        return f"it was created meanwhile, with {short_name(found.model)}" if found else ""
    if found is None:
        return "it was deleted meanwhile"
    # An update that failed may have been done.
    if _same(found.model, before.model) or _same(found.model, wanted.model):
        return ""
    return f"it was given {short_name(found.model)} meanwhile"


def _check_shift(shift: ShiftTraffic, plan: Plan, service: Readable) -> None:
    if moved := _moved(shift, service):
        told = f"traffic was changed meanwhile to {moved}"
        raise _overtaken(f"endpoint {shift.endpoint}", told)
    if shift.traffic.get(plan.deployment, 0) > shift.before.get(plan.deployment, 0):
        _check_model(shift.endpoint, plan, service)


def _moved(shift: ShiftTraffic, service: Readable) -> str:
    """Return the traffic in words where it is neither as before nor as after a change of it."""
    there = service.get_endpoint(shift.endpoint)
    if there is None or dict(there.traffic) in (dict(shift.before), dict(shift.traffic)):
        return ""
    return to_text(there.traffic) or "nobody"


def _use(endpoint: str, ours: Mapping[str, str], service: Readable) -> str:
    """Return who needs an endpoint beside its maker; empty where nobody does."""
    others = [d.name for d in service.list_deployments(endpoint) if d.name not in ours]
    if others:
        return f"another command has made {', '.join(others)} in it"
    there = service.get_endpoint(endpoint)
    traffic = to_text(there.traffic) if there is not None else ""
    return f"it has traffic: {traffic}" if traffic else ""


def _check_model(endpoint: str, plan: Plan, service: Readable) -> None:
    """Refuse to ask, or to give traffic to, a deployment that another command has replaced."""
    if not plan.model:
        return
    where = f"deployment {endpoint}/{plan.deployment}"
    found = _find(endpoint, plan.deployment, service)
    if found is None:
        raise _overtaken(where, "it was deleted meanwhile")
    if not _same(found.model, plan.model):
        raise _overtaken(where, f"it was given {short_name(found.model)} meanwhile")
    if found.state != RUNS:
        raise _overtaken(where, f"it is in state {found.state} by now")


def _find(endpoint: str, name: str, service: Readable) -> Deployment | None:
    return next((d for d in service.list_deployments(endpoint) if d.name == name), None)


def _share(endpoint: str, name: str, service: Readable) -> int:
    there = service.get_endpoint(endpoint)
    return there.traffic.get(name, 0) if there is not None else 0


def _same(model: str, other: str) -> bool:
    # Name and version, which holds a digest, tell: what is before them, Azure writes as it likes.
    return short_name(model).lower() == short_name(other).lower()


def _overtaken(where: str, problem: str) -> Overtaken:
    return Overtaken(
        "PHI3-A713",
        problem,
        where=where,
        fix="see what it is by mlflow deployments get -t azure-foundry --name <name>, then run the "
        "same command again",
    )


def _left(where: str, why: str) -> Overtaken:
    return _overtaken("", f"{where} is left: {why}")
