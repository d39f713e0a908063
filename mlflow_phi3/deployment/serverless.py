"""Serverless deployment: one endpoint, one tuned model, no machines and no traffic to split."""

import datetime as dt
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from mlflow_phi3.azure.operation import DeadlinePassed, Refused
from mlflow_phi3.azure.serverless import CHAT, ServerlessEndpoint, ServerlessService
from mlflow_phi3.config.deploy import DeployConfig
from mlflow_phi3.deployment.meanwhile import left_alone
from mlflow_phi3.deployment.names import Names
from mlflow_phi3.deployment.reap import expiry
from mlflow_phi3.deployment.report import NOTHING_TO_DO, UNPRICED_HOUR
from mlflow_phi3.deployment.rollout import add_undone, to_billed, try_undoing
from mlflow_phi3.deployment.safety import safety_tags
from mlflow_phi3.errors import UsageError
from mlflow_phi3.modeling.catalog import find
from mlflow_phi3.tracking.tags import EXPIRES_TAG, TUNED_TAG

FLAVOR = "serverless"
_OF_MACHINES = (
    "instance_type",
    "instance_count",
    "traffic",
    "environment_variables",
    "content_safety_connection",
    "collect_data",
)


def find_mode(tags: Mapping[str, str], config: DeployConfig, where: str) -> str:
    """Return ``managed`` or ``serverless``: as told, or by where the version came from.

    Raises:
        UsageError: ``serverless`` for a model that Foundry did not tune.
    """
    tuned = TUNED_TAG in tags
    if config.mode == "serverless" and not tuned:
        raise UsageError(
            "PHI3-U747",
            "only a model that Foundry tuned can be served serverless",
            where=where,
            fix="-C mode=managed, which serves any MLflow model",
        )
    if config.mode == "auto":
        return "serverless" if tuned else "managed"
    return config.mode


def check_whole(names: Names) -> None:
    """Refuse to name one deployment of a serverless endpoint."""
    if names.deployment:
        raise UsageError(
            "PHI3-U750",
            "a serverless endpoint holds one deployment, of its own name",
            where=f"--endpoint {names.endpoint}",
            fix="give --name alone",
        )


def name_taken(endpoint: str, other: str) -> UsageError:
    """Return the refusal of a name that an endpoint of the other kind has.

    With two of one name, one would be out of reach.

    Args:
        endpoint: The name.
        other: The other kind.
    """
    return UsageError(
        "PHI3-U753",
        f"there is a {other} endpoint of this name",
        where=f"endpoint {endpoint}",
        fix=f"choose another name, or first mlflow deployments delete -t azure-foundry "
        f"--name {endpoint}",
    )


def check_splits(endpoint: str, known: ServerlessEndpoint | None) -> None:
    """Refuse to move the traffic of a serverless endpoint."""
    if known is not None:
        raise UsageError(
            "PHI3-U755",
            "it is serverless: its one deployment has all traffic",
            where=f"endpoint {endpoint}",
            fix="give it another version: mlflow deployments update -t azure-foundry "
            f"--name {endpoint} -m models:/<name>/<version>",
        )


def to_serverless(
    wanted: ServerlessEndpoint,
    config: DeployConfig,
    known: ServerlessEndpoint | None,
    *,
    now: dt.datetime,
) -> ServerlessEndpoint:
    """Return what a caller's config means for a tuned model; what is not named stays.

    Args:
        wanted: Name, model and the model's tags.
        config: What the caller names.
        known: What is there; None when there is nothing.
        now: When a life of so many hours begins.

    Raises:
        UsageError: It speaks of machines, shares of traffic or a data collector, which there are
            none of.
    """
    for setting in _OF_MACHINES:
        if getattr(config, setting) not in (None, ""):
            raise UsageError(
                "PHI3-U749",
                "a serverless endpoint has no machines, shares of traffic or data collector",
                where=setting,
                fix="leave it out, or use -C mode=managed",
            )
    tags = {**((known and known.tags) or {}), **(wanted.tags or {}), **safety_tags(config)}
    if config.ttl_hours is not None:
        tags[EXPIRES_TAG] = expiry(now, config.ttl_hours)
    return replace(
        wanted,
        content_safety=(known is None or known.content_safety)
        if config.content_safety is None
        else config.content_safety,
        tags={name: value for name, value in tags.items() if value},
    )


def plan_serverless(wanted: ServerlessEndpoint, known: ServerlessEndpoint | None) -> str:
    """Return what has to be done, in words; empty where all is as wanted."""
    if known is not None and replace(known, uri="") == replace(wanted, state="Succeeded"):
        return ""
    return f"{'update' if known else 'create'} serverless endpoint {wanted.name}"


def deploy_serverless(
    service: ServerlessService,
    wanted: ServerlessEndpoint,
    known: ServerlessEndpoint | None,
    check: Callable[[], None],
    *,
    wait: bool,
    told: Callable[[str], None],
) -> dict[str, Any]:
    """Create or change a serverless endpoint; one that is as wanted is left alone.

    Args:
        service: The remote calls.
        wanted: What shall be there.
        known: What is there; nothing of it may be changing.
        check: Checks its answers.
        wait: Wait until it is there and check it; else both are left to the next run.
        told: Gets lines of progress.

    Raises:
        Exception: It could not be made, or does not answer; what was sent is taken back, unless it
            was not even begun, and the error says what became of that.
        KeyboardInterrupt: The person asked to stop. Nothing is removed, and what stays was told.
    """
    action = plan_serverless(wanted, known)
    stays = to_billed(f"serverless endpoint {wanted.name}", f"--name {wanted.name}")
    try:
        if action:
            told(action)
            service.put(wanted, wait=wait)
        if wait:
            check()
    except DeadlinePassed:
        raise  # Azure goes on, and the same command takes it up
    except Refused:
        raise  # nothing was made: what has this name by now is somebody else's
    except KeyboardInterrupt:
        if known is None:
            told(f"interrupted: {stays}")
        raise
    except Exception as failed:
        if action:
            try:
                add_undone(failed, [_take_back(service.renewed(), known, wanted, told)])
            except KeyboardInterrupt:
                told(f"{failed}\ninterrupted: {stays}")
                raise
        else:  # an earlier command made it: people may be asking it
            add_undone(failed, [], stays=stays)
        raise
    found = service.get(wanted.name) or wanted
    left = [] if wait else [f"check the answers of {wanted.name}"]
    return {**describe_serverless(found), "left": left}


def describe_serverless_plan(
    action: str, request: tuple[str, Any], *, usd_per_hour: float | None, base: str
) -> str:
    """Return what shall be done as text: action, cost, and the exact request.

    Args:
        action: In words; empty where there is nothing to do.
        request: Method and path, and the body.
        usd_per_hour: What an hour of hosting costs, when the caller says so.
        base: Name of the base model; empty where it is not known.
    """
    if not action:
        return NOTHING_TO_DO
    line, body = request
    hour = UNPRICED_HOUR
    if usd_per_hour is not None:
        hour = f"{usd_per_hour:g} USD an hour, also when idle (as given)"
    price = model.price if (model := find(base)) else None
    tokens = "tokens on top; no price of them is known"
    if price is not None:
        per_million = f"{price.input:g}/{price.output:g} USD per 1M in/out"
        tokens = f"tokens on top, at {per_million} ({price.as_of}, {price.source})"
    cost = [f"  cost: {hour}", f"  cost: {tokens}"]
    return "\n".join(["plan:", f"  1. {action}", *cost, line, json.dumps(body, indent=2)])


def describe_serverless(endpoint: ServerlessEndpoint) -> dict[str, Any]:
    """Return how a serverless endpoint stands, without secrets."""
    return {
        "name": endpoint.name,
        "flavor": FLAVOR,
        "endpoint": endpoint.name,
        "deployment": endpoint.name,
        "state": endpoint.state,
        "scoring_uri": endpoint.uri + CHAT if endpoint.uri else "",
        "model": endpoint.model_id,
        "content_safety": endpoint.content_safety,
    }


def _take_back(
    service: ServerlessService,
    known: ServerlessEndpoint | None,
    wanted: ServerlessEndpoint,
    told: Callable[[str], None],
) -> str:
    name = wanted.name

    def undo() -> None:
        found = service.get(name)
        ours = {one.model_id.lower() for one in (wanted, known) if one is not None}
        if found is not None and found.model_id.lower() not in ours:
            raise left_alone(f"serverless endpoint {name}", found.model_id)
        if known is None:
            service.delete(name)
        else:
            service.put(known)

    if known is None:
        what = f"delete serverless endpoint {name}"
        return try_undoing(what, undo, told, by_hand="delete")
    what = f"put serverless endpoint {name} back to {known.model_id}"
    return try_undoing(what, undo, told, by_hand="update")
