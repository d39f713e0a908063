"""Endpoints by themselves: without a deployment, or their traffic by hand."""

import datetime as dt
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mlflow_phi3.azure.online import Endpoint
from mlflow_phi3.config.deploy import DeployConfig
from mlflow_phi3.config.parse import nearest, parse_values
from mlflow_phi3.deployment.actions import ShiftTraffic
from mlflow_phi3.deployment.deployer import Deployer
from mlflow_phi3.deployment.names import Names
from mlflow_phi3.deployment.plan import RUNS
from mlflow_phi3.deployment.reap import EXPIRES_TAG, expiry
from mlflow_phi3.deployment.rollout import get_current, shifted
from mlflow_phi3.deployment.traffic import WHOLE, from_text
from mlflow_phi3.errors import UsageError

_KEYS = ("traffic", "ttl_hours", "timeout_s")


def create_endpoint(deployer: Deployer, names: Names, config: DeployConfig) -> dict[str, Any]:
    """Create an endpoint without deployments; one that exists is left as it is.

    Raises:
        UsageError: There is a serverless endpoint of this name.
    """
    service = deployer.service(config.timeout_s)
    if get_current(service, names.endpoint).endpoint is None:
        deployer.check_free(names.endpoint, config.timeout_s)
        tags = {}
        if config.ttl_hours is not None:
            tags[EXPIRES_TAG] = expiry(dt.datetime.now(dt.UTC), config.ttl_hours)
        service.put_endpoint(Endpoint(names.endpoint, "", "", {}, tags))
    return deployer.describe(names)


def update_endpoint(deployer: Deployer, names: Names, config: Mapping[str, Any]) -> dict[str, Any]:
    """Change an endpoint's traffic or end of life; what is not named stays.

    Raises:
        UsageError: An unknown key, a value that cannot be, no such endpoint, or traffic that
            cannot be.
    """
    for key in config:
        if key not in _KEYS:
            guess = nearest(key, _KEYS)
            fix = f"did you mean {guess!r}?" if guess else f"one of {', '.join(_KEYS)}"
            raise UsageError("PHI3-U742", "unknown key", where=key, fix=fix)
    settings = parse_values(DeployConfig, {k: v for k, v in config.items() if k != "traffic"})
    service = deployer.service(settings.timeout_s)
    current = get_current(service, names.endpoint)
    if current.endpoint is None:
        raise UsageError("PHI3-U743", "there is no such endpoint", where=names.endpoint)
    endpoint = current.endpoint
    if "traffic" in config:
        traffic = _traffic(config["traffic"])
        running = {d.name for d in current.deployments if d.state == RUNS}
        _check_traffic(traffic, running, names.endpoint)
        shares = {name: share for name, share in traffic.items() if share}
        step = ShiftTraffic(endpoint.name, shares, endpoint.traffic)
        endpoint = shifted(endpoint, current.deployments, step, at=dt.datetime.now(dt.UTC))
    if settings.ttl_hours is not None:
        end = expiry(dt.datetime.now(dt.UTC), settings.ttl_hours)
        endpoint = replace(endpoint, tags={**endpoint.tags, EXPIRES_TAG: end})
    if endpoint != current.endpoint:
        service.put_endpoint(endpoint)
    return deployer.describe(names)


def _traffic(value: Any) -> dict[str, int]:
    try:
        if isinstance(value, Mapping):
            return {str(name): int(share) for name, share in value.items()}
        return from_text(str(value))
    except (TypeError, ValueError) as wrong:
        raise UsageError(
            "PHI3-U744", f"{value!r} is not traffic", where="traffic", fix="blue=90,green=10"
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
    if sum(traffic.values()) != WHOLE or min(traffic.values()) < 0:
        raise UsageError(
            "PHI3-U746",
            f"shares must add up to 100, not {sum(traffic.values())}",
            where=f"endpoint {endpoint}",
            fix="blue=90,green=10",
        )
