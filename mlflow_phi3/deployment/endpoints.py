"""Endpoints by themselves: without a deployment, or their traffic by hand."""

import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mlflow_phi3.azure.online import Endpoint
from mlflow_phi3.azure.operation import RUNS
from mlflow_phi3.config.deploy import DeployConfig
from mlflow_phi3.config.parse import parse_values, suggest
from mlflow_phi3.deployment.actions import CreateEndpoint, ShiftTraffic
from mlflow_phi3.deployment.deployer import Deployer
from mlflow_phi3.deployment.meanwhile import check_unchanged
from mlflow_phi3.deployment.names import Names
from mlflow_phi3.deployment.plan import Plan
from mlflow_phi3.deployment.reap import ending, expiry
from mlflow_phi3.deployment.report import describe_plan, requests_of
from mlflow_phi3.deployment.rollout import get_current, shifted
from mlflow_phi3.deployment.traffic import WHOLE, from_text, to_shares
from mlflow_phi3.errors import UsageError
from mlflow_phi3.tracking.tags import EXPIRES_TAG

_KEYS = ("traffic", "ttl_hours", "timeout_s", "verify", "golden", "parity")
_KEYS_OF_NEW = ("ttl_hours", "timeout_s", "content_safety_connection", "dry_run")


def create_endpoint(
    deployer: Deployer,
    names: Names,
    config: Mapping[str, Any],
    *,
    told: Callable[[str], None],
) -> dict[str, Any]:
    """Create an endpoint without deployments; one that exists is left as it is.

    Args:
        deployer: The target.
        names: Which.
        config: ``ttl_hours``, ``timeout_s``, ``dry_run``, and ``content_safety_connection``, which
            lets the deployments that follow read the project's connections.
        told: Gets what a dry run would do.

    Raises:
        UsageError: An unknown key, a value that cannot be, or there is a serverless endpoint of
            this name.
    """
    settings = _parsed(config, _KEYS_OF_NEW)
    service = deployer.managed.service(settings.timeout_s)
    actions: tuple[CreateEndpoint, ...] = ()
    if not get_current(service, names.endpoint).is_made:
        deployer.check_free(names.endpoint, settings.timeout_s)
        tags = {}
        if settings.ttl_hours is not None:
            tags[EXPIRES_TAG] = expiry(dt.datetime.now(dt.UTC), settings.ttl_hours)
        reads = bool(settings.content_safety_connection)
        wanted = Endpoint(names.endpoint, tags=tags, reads_secrets=reads)
        actions = (CreateEndpoint(wanted),)
    if settings.dry_run:
        plan = Plan(names.endpoint, actions)
        told(describe_plan(plan, requests_of(plan, None, service)))
        return {"name": f"{names.endpoint} (dry run)"}
    for action in actions:
        service.put_endpoint(action.endpoint)
    return deployer.managed.describe(names)


def update_endpoint(deployer: Deployer, names: Names, config: Mapping[str, Any]) -> dict[str, Any]:
    """Change an endpoint's traffic or end of life; what is not named stays.

    Args:
        deployer: The target.
        names: Which.
        config: ``traffic``, ``ttl_hours`` and ``timeout_s``; by ``verify``, ``golden`` and
            ``parity``, a deployment whose share grows is asked before it does.

    Raises:
        UsageError: An unknown key, a value that cannot be, no such endpoint, or traffic that
            cannot be.
        GateError: A deployment whose share would grow does not answer as it has to.
        Overtaken: Another command has moved the traffic, or changed what shall get more, meanwhile.
    """
    settings = _parsed(config, _KEYS)
    service = deployer.managed.service(settings.timeout_s)
    current = get_current(service, names.endpoint)
    if current.endpoint is None:
        raise UsageError("PHI3-U743", "there is no such endpoint", where=names.endpoint)
    found = endpoint = current.endpoint
    if "traffic" in config:
        traffic = _traffic(config["traffic"])
        running = {d.name for d in current.deployments if d.state == RUNS}
        _check_traffic(traffic, running, names.endpoint)
        shares = {name: share for name, share in traffic.items() if share}
        step = ShiftTraffic(endpoint.name, shares, endpoint.traffic)
        growing = [
            d for d in current.deployments if shares.get(d.name, 0) > step.before.get(d.name, 0)
        ]
        for deployment in growing:
            deployer.managed.examine(endpoint.name, settings, deployment)
        for deployment in growing:  # that took time: another command may have been here
            check_unchanged(step, Plan(deployment.name, (), deployment.model), service)
        found = service.get_endpoint(endpoint.name) or endpoint
        endpoint = shifted(found, current.deployments, step, at=dt.datetime.now(dt.UTC))
    if settings.ttl_hours is not None:
        end = expiry(dt.datetime.now(dt.UTC), settings.ttl_hours)
        endpoint = ending(endpoint, end)
    if endpoint != found:
        service.put_endpoint(endpoint)
    return deployer.managed.describe(names)


def _parsed(config: Mapping[str, Any], keys: Sequence[str]) -> DeployConfig:
    """Parse what is told of an endpoint; its traffic is not a deployment's share."""
    for key in config:
        if key not in keys:
            raise UsageError("PHI3-U742", "unknown key", where=key, fix=suggest(key, keys))
    return parse_values(DeployConfig, {k: v for k, v in config.items() if k != "traffic"})


def _traffic(value: Any) -> dict[str, int]:
    try:
        if isinstance(value, Mapping):
            return to_shares((str(name), share) for name, share in value.items())
        return from_text(str(value))
    except ValueError as wrong:
        raise UsageError(
            "PHI3-U744",
            f"{value!r} is not traffic: {wrong}",
            where="traffic",
            fix="blue=90,green=10",
        ) from wrong


def _check_traffic(traffic: Mapping[str, int], running: set[str], endpoint: str) -> None:
    gone = sorted(set(traffic) - running)
    if gone:
        raise UsageError(
            "PHI3-U745",
            f"{', '.join(gone)} does not run",
            where=f"endpoint {endpoint}",
            fix=f"name of {', '.join(sorted(running)) or 'nobody'}",
        )
    below = [f"{name}={share}" for name, share in traffic.items() if share < 0]
    if below:
        raise UsageError(
            "PHI3-U746",
            f"no share can be below 0: {', '.join(below)}",
            where=f"endpoint {endpoint}",
            fix="blue=90,green=10",
        )
    if sum(traffic.values()) != WHOLE:
        raise UsageError(
            "PHI3-U746",
            f"shares must add up to 100, not {sum(traffic.values())}",
            where=f"endpoint {endpoint}",
            fix="blue=90,green=10",
        )
