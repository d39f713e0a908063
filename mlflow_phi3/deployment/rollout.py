"""Does a plan; on failure takes back what it has made, so that nothing is left to be billed.

When time is over, or the person interrupts, what was made stays, and it is said that it does.
"""

import datetime as dt
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Protocol

from mlflow_phi3.azure.online import Deployment, Endpoint
from mlflow_phi3.azure.operation import DeadlinePassed, Refused
from mlflow_phi3.deployment.actions import (
    Action,
    CreateEndpoint,
    PutDeployment,
    RemoveDeployment,
    RemoveEndpoint,
    RestoreTraffic,
    ShiftTraffic,
    Verify,
    in_words,
)
from mlflow_phi3.deployment.ledger import Entry, marks_of, read_ledger, with_entries
from mlflow_phi3.deployment.meanwhile import Overtaken, Readable, check_ours, check_unchanged
from mlflow_phi3.deployment.plan import Current, Plan
from mlflow_phi3.errors import AzureError, Phi3Error


class Service(Readable, Protocol):
    """The remote calls that a rollout needs; :class:`~mlflow_phi3.azure.online.OnlineService`."""

    def get_logs(self, endpoint: str, name: str, lines: int) -> str:
        """Return the end of a deployment's log."""

    def put_endpoint(self, endpoint: Endpoint) -> None:
        """Create or change an endpoint."""

    def delete_endpoint(self, name: str) -> None:
        """Delete an endpoint."""

    def put_deployment(self, endpoint: str, deployment: Deployment) -> None:
        """Create or change a deployment."""

    def begin_deployment(self, endpoint: str, deployment: Deployment) -> object:
        """Begin to create or change a deployment; return the operation."""

    def delete_deployment(self, endpoint: str, name: str) -> None:
        """Delete a deployment."""

    def await_idle(self, endpoint: str) -> None:
        """Wait until nothing of an endpoint is changing."""

    def renewed(self) -> "Service":
        """Return the same calls, with as much time again."""


Check = Callable[[str, str], None]
"""Checks the answers of (endpoint, deployment); raises GateError."""


def get_current(service: Service, endpoint: str) -> Current:
    """Return what is there, once nothing of it is changing any more."""
    service.await_idle(endpoint)
    found = service.get_endpoint(endpoint)
    if found is None:
        return Current()
    return Current(found, tuple(service.list_deployments(endpoint)))


def roll_out(
    plan: Plan,
    service: Service,
    check: Check,
    *,
    told: Callable[[str], None],
    wait: bool = True,
) -> tuple[Action, ...]:
    """Do a plan's actions in order.

    Args:
        plan: What to do.
        service: The remote calls.
        check: Checks the answers of a deployment.
        told: Gets a line before each action.
        wait: Stop after the first deployment was begun, without waiting for it, when false.

    Returns:
        What is still to be done, by the same command run again.

    Raises:
        Exception: An action failed, in whatever way. What this rollout made was removed; the
            message of a Phi3Error, or the note of another one, says so, with the end of the
            container's log. What was refused was not made, and what another command has made or
            changed meanwhile is left. After a deadline nothing is removed: Azure goes on, and the
            same command takes it up.
        KeyboardInterrupt: The person asked to stop. Nothing is removed, and what stays was told.
    """
    done: list[Action] = []
    for number, action in enumerate(plan.actions):
        told(in_words(action))
        try:
            check_unchanged(action, plan, service)
            if isinstance(action, PutDeployment) and not wait:
                service.begin_deployment(action.endpoint, action.deployment)
                return plan.actions[number + 1 :]
            _do(action, service, check)
        except DeadlinePassed as late:
            raise _unfinished(late, action, plan.actions[number:], service) from late
        except KeyboardInterrupt:
            told(_interrupted([*done, action], plan.actions[number:]))
            raise
        except Exception as failed:
            made = done
            if any(isinstance(d, ShiftTraffic) and d.traffic.get(plan.deployment) for d in done):
                made = []  # requests go to the new deployment by now: it stays
            try:
                _take_back(made, action, failed, service.renewed(), plan.deployment, told=told)
            except KeyboardInterrupt:
                told(f"{failed}\n{_interrupted([*made, action], plan.actions[number:])}")
                raise
            raise
        done.append(action)
    return ()


def shifted(
    endpoint: Endpoint,
    deployments: Iterable[Deployment],
    action: ShiftTraffic,
    *,
    at: dt.datetime,
) -> Endpoint:
    """Return the endpoint with its new traffic and the ledger's new entry: one PUT for both.

    One whose traffic is so already comes back as it is.

    Args:
        endpoint: As it is.
        deployments: Those of the endpoint, as they are.
        action: Where the traffic goes.
        at: Now.
    """
    if dict(endpoint.traffic) == dict(action.traffic):  # by the same command, twice at work
        return endpoint
    held = marks_of(action.before, deployments)
    entry = Entry(at.isoformat(timespec="seconds"), action.before, action.traffic, held=held)
    tags = with_entries(endpoint.tags, [*read_ledger(endpoint.tags), entry])
    return replace(endpoint, traffic=dict(action.traffic), tags=tags)


def restored(endpoint: Endpoint, failed: ShiftTraffic) -> Endpoint:
    """Return the endpoint with the traffic and the ledger from before a change that failed."""
    entries = read_ledger(endpoint.tags)
    if entries and entries[-1].after == dict(failed.traffic):  # it was done before it failed
        entries.pop()
    tags = with_entries(endpoint.tags, entries)
    return replace(endpoint, traffic=dict(failed.before), tags=tags)


def try_undoing(
    what: str, undo: Callable[[], None], told: Callable[[str], None], *, by_hand: str
) -> str:
    """Take one thing back, if that is possible; return what became of it.

    Args:
        what: What is done, in words.
        undo: Does it.
        told: Gets a line before it.
        by_hand: The subcommand of ``mlflow deployments`` that a person does it by.
    """
    told(f"take back: {what}")
    try:
        undo()
    except Overtaken as left:
        return left.problem
    except Exception as stuck:  # noqa: BLE001 - it is told, and the rest is taken back
        reason = stuck.problem if isinstance(stuck, Phi3Error) else repr(stuck)
        return (
            f"could not {what} ({reason}): do it by mlflow deployments {by_hand} -t azure-foundry"
        )
    return f"done: {what}"


def add_undone(failed: Exception, notes: Sequence[str], *, stays: str = "", log: str = "") -> None:
    """Add to an error what became of what was made before it, what stays, and the end of a log."""
    told_back = f"Taken back: {'; '.join(notes)}" if notes else ""
    sentences = (told_back, stays[:1].upper() + stays[1:])
    became = " ".join(f"{sentence}." for sentence in sentences if sentence)
    if isinstance(failed, Phi3Error):
        failed.args = (f"{failed.args[0]} {became}".rstrip() + log,)
    else:
        failed.add_note(became + log)


def to_billed(what: str, flags: str) -> str:
    """Return as text that something stays and is billed, and what of ``delete`` removes it."""
    delete = f"mlflow deployments delete -t azure-foundry {flags}"
    return f"{what} stays, and is billed: {delete} removes it"


def _do(action: Action, service: Service, check: Check) -> None:
    match action:
        case CreateEndpoint(endpoint):
            service.put_endpoint(endpoint)
        case PutDeployment(endpoint, deployment):
            service.put_deployment(endpoint, deployment)
        case Verify(endpoint, name):
            check(endpoint, name)
        case ShiftTraffic(name):
            found = _need(service, name)
            there = service.list_deployments(name)
            service.put_endpoint(shifted(found, there, action, at=dt.datetime.now(dt.UTC)))
        case RestoreTraffic(failed):
            found = _need(service, failed.endpoint)
            if dict(found.traffic) != dict(failed.before):
                service.put_endpoint(restored(found, failed))
        case RemoveDeployment(endpoint, name):
            service.delete_deployment(endpoint, name)
        case RemoveEndpoint(name):
            service.delete_endpoint(name)


def _need(service: Service, name: str) -> Endpoint:
    found = service.get_endpoint(name)
    if found is None:
        raise AzureError("PHI3-A710", "it was deleted meanwhile", where=f"endpoint {name}")
    return found


def _unfinished(
    late: DeadlinePassed, action: Action, left: tuple[Action, ...], service: Service
) -> AzureError:
    rest = "; ".join(in_words(step) for step in left)
    log = _log(action, service)
    return DeadlinePassed(
        late.code, f"{late.problem}. Still to do: {rest}{log}", where=late.where, fix=late.fix
    )


def _interrupted(made: Sequence[Action], left: Sequence[Action]) -> str:
    """Return what to tell of a rollout that was interrupted: what stays, is billed, and goes on."""
    rest = "; ".join(in_words(step) for step in left)
    lines = [
        f"interrupted: what was begun goes on in Azure. Still to do, by the same command: {rest}"
    ]
    whole = any(isinstance(step, CreateEndpoint) for step in made)
    served = {name for d in made[:-1] if isinstance(d, ShiftTraffic) for name in d.traffic}
    for step in made:
        match step:
            case PutDeployment(endpoint, Deployment(name), None) if name not in served:
                flags = f"--name {endpoint}" if whole else f"--endpoint {endpoint} --name {name}"
                lines.append(to_billed(f"deployment {endpoint}/{name}", flags))
    return "\n".join(lines)


def _take_back(
    done: Sequence[Action],
    action: Action,
    failed: Exception,
    service: Service,
    name: str,
    *,
    told: Callable[[str], None],
) -> None:
    """Remove what was made, last first, and add to the error what became of it.

    What was there before and was found bad is left: it may be a previous version that was kept.
    """
    overtaken = isinstance(failed, Overtaken)  # then the action is about what is not ours
    log = "" if overtaken else _log(action, service)
    made = list(done)
    if not isinstance(failed, Refused):  # else it was not even begun
        made.append(action)
    notes: list[str] = []
    for step in reversed(made):
        undo = _opposite(step)
        if step is action and isinstance(step, ShiftTraffic):  # Azure may have done it
            undo = RestoreTraffic(step)
        if undo is not None:
            doing = partial(_undo, undo, made, service)
            notes.append(try_undoing(in_words(undo), doing, told, by_hand=_by_hand(undo)))
    stays = "" if overtaken else _stays(made, action, name, service)
    add_undone(failed, notes, stays=stays, log=log)


def _undo(undo: Action, made: Sequence[Action], service: Service) -> None:
    check_ours(undo, made, service)
    _do(undo, service, _unasked)


def _stays(made: Sequence[Action], action: Action, name: str, service: Service) -> str:
    """Return what to tell of a deployment that was there before: it failed, or could not go."""
    put = any(isinstance(step, PutDeployment) for step in made)
    match action:
        case RemoveDeployment(endpoint, name):
            pass
        case Verify(endpoint, _) if not put:
            pass
        case ShiftTraffic(endpoint, traffic) if traffic.get(name) and not put:
            pass
        case _:
            return ""
    try:
        found = service.get_endpoint(endpoint)
    except Exception:  # noqa: BLE001 - the failure that it is about is the one to show
        return ""
    if found is None:
        return ""
    if share := found.traffic.get(name):
        return f"deployment {endpoint}/{name} keeps its {share} % of the traffic"
    return to_billed(f"deployment {endpoint}/{name}", f"--endpoint {endpoint} --name {name}")


def _unasked(_endpoint: str, _name: str) -> None:
    """Check nothing: what is taken back is asked nothing."""


def _by_hand(undo: Action) -> str:
    match undo:
        case PutDeployment():
            return "update"
        case RestoreTraffic():
            return "update-endpoint"
        case _:
            return "delete"


def _opposite(step: Action) -> Action | None:
    match step:
        case CreateEndpoint(endpoint):
            return RemoveEndpoint(endpoint.name)
        case PutDeployment(endpoint, deployment, None):
            return RemoveDeployment(endpoint, deployment.name)
        case PutDeployment(endpoint, deployment, Deployment() as before):
            return PutDeployment(endpoint, before, deployment)
        case _:
            return None


def _log(action: Action, service: Service) -> str:
    """Return the end of the container's log of the deployment that an action is about."""
    match action:
        case PutDeployment(endpoint, deployment):
            name = deployment.name
        case Verify(endpoint, name):
            pass
        case _:
            return ""
    try:
        text = service.get_logs(endpoint, name, 30).strip()
    except Exception:  # noqa: BLE001 - the failure that it is about is the one to show
        return ""  # there is no container yet, most of the time
    return f"\nEnd of the log of {endpoint}/{name}:\n{text}" if text else ""
