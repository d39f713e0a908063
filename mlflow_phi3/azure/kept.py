"""What others have set on an endpoint or deployment, and no option of ours names.

A PUT takes away what it does not hold, so this is read, and sent back as it came. What is kept of
a deployment is plain values, by the SDK's names, so that two can be compared.
"""

import re
from collections.abc import Mapping
from typing import Any

_OF_ENDPOINT = ("description", "public_network_access")
_OF_DEPLOYMENT = (
    "description",
    "app_insights_enabled",
    "egress_public_network_access",
    "environment",
)

# Large models load for minutes: Microsoft's sample of Phi on managed compute waits 600 s.
_READINESS = {
    "initial_delay": 10,
    "period": 10,
    "timeout": 10,
    "failure_threshold": 30,
    "success_threshold": 1,
}
_PROBES = {"liveness_probe": {**_READINESS, "initial_delay": 600}, "readiness_probe": _READINESS}

# These two are reserved for whole requests and answers ("payload logging").
_BOTH = {"request": {"enabled": "true"}, "response": {"enabled": "true"}}
_COLLECTOR: dict[str, Any] = {"collections": _BOTH, "rolling_rate": "hour"}

_DEFAULTS: dict[str, Any] = {
    "egress_public_network_access": "Enabled",
    "max_concurrent_requests_per_instance": 1,
    "max_queue_wait_ms": 0,  # half a second, of which the SDK reads the whole ones
}
"""What the service answers of what nobody has set; by azure-ai-ml 1.35.2, and by answers of it."""

_DATA = re.compile(r"/data/(?P<name>[^/]+)/versions/(?P<version>[^/]+)$")


def kept_of_endpoint(found: Any) -> dict[str, Any]:
    """Return what others have set of an endpoint of the SDK."""
    return {**_told(found, _OF_ENDPOINT), **_identity(found.identity)}


def kept_of_deployment(found: Any, *, collects: bool) -> dict[str, Any]:
    """Return what others have set of a deployment of the SDK; nothing where all is as ours.

    Args:
        found: The SDK's object.
        collects: Whether it collects data: only then its collector is kept.
    """
    kept = _told(found, _OF_DEPLOYMENT)
    code = found.code_configuration
    if code and code.code:
        kept["code_configuration"] = {"code": code.code, "scoring_script": code.scoring_script}
    limits = ("max_concurrent_requests_per_instance", "max_queue_wait_ms")
    if requests := _told(found.request_settings, limits):
        kept["request_settings"] = requests
    for name, ours in _PROBES.items():
        probe = getattr(found, name)
        # A deployment may have none: its model's own template says how it is probed.
        told = None if probe is None else _set(vars(probe))
        if told is None or {**ours, **told} != ours:
            kept[name] = told
    if collects:
        collector = _collector(found)
        if collector != _COLLECTOR:
            kept["data_collector"] = collector
    return kept


def entities_of(
    kept: Mapping[str, Any], *, request_timeout_s: int, collects: bool
) -> dict[str, Any]:
    """Return what a deployment of the SDK is made with: what is kept, and ours beside it.

    Args:
        kept: As :func:`kept_of_deployment` returns it.
        request_timeout_s: How long one request may take, seconds.
        collects: Whether it is to collect data.
    """
    from azure.ai.ml.entities import CodeConfiguration, OnlineRequestSettings, ProbeSettings

    made = {name: kept[name] for name in _OF_DEPLOYMENT if name in kept}
    if code := kept.get("code_configuration"):
        made["code_configuration"] = CodeConfiguration(**code)
    made["request_settings"] = OnlineRequestSettings(
        request_timeout_ms=request_timeout_s * 1000, **kept.get("request_settings", {})
    )
    for name, ours in _PROBES.items():
        probe = kept.get(name, ours)
        made[name] = None if probe is None else ProbeSettings(**probe)
    if collects:
        made["data_collector"] = _collector_entity(kept.get("data_collector", _COLLECTOR))
    return made


def name_assets(entity: Any) -> None:
    """Name the assets that a deployment collects into as the SDK wants it, which registers them."""
    from azure.ai.ml.entities import DataAsset

    collections = entity.data_collector.collections if entity.data_collector else {}
    for one in collections.values():
        if told := _DATA.search(one.data or ""):
            one.data = DataAsset(name=told["name"], version=told["version"])


def _collector(found: Any) -> dict[str, Any]:
    """Return the data collector of a deployment as plain values."""
    collector = found.data_collector
    collections = {name: _set(vars(one)) for name, one in collector.collections.items()}
    if not any(one.get("enabled") == "true" for one in collections.values()):
        for one in collections.values():  # the SDK reads as off what it has itself sent as on
            one["enabled"] = "true"
    for name, one in collections.items():
        one.pop("sampling_rate", None)  # the collector has it
        # The SDK makes an asset of this name where none is told: the calls of the deployment that
        # takes over do not belong in it.
        if f"/data/{found.endpoint_name}-{found.name}-{name}/" in one.get("data", ""):
            del one["data"]
    logging = collector.request_logging
    told = {
        "collections": collections,
        "rolling_rate": collector.rolling_rate,
        "sampling_rate": collector.sampling_rate,
        "request_logging": list(logging.capture_headers or ()) if logging else None,
    }
    return _set(told)


def _collector_entity(collector: Mapping[str, Any]) -> Any:
    from azure.ai.ml.entities import DataCollector, DeploymentCollection, RequestLogging

    headers = collector.get("request_logging")
    return DataCollector(
        {name: DeploymentCollection(**one) for name, one in collector["collections"].items()},
        rolling_rate=collector.get("rolling_rate"),
        sampling_rate=collector.get("sampling_rate"),
        request_logging=RequestLogging(capture_headers=headers) if headers else None,
    )


def _identity(found: Any) -> dict[str, Any]:
    """Return an identity of the person's own, without what only Azure may say of it."""
    own = [one.resource_id for one in (found and found.user_assigned_identities) or ()]
    if not own:
        return {}  # the endpoint's own, which comes with it
    from azure.ai.ml.entities import IdentityConfiguration, ManagedIdentityConfiguration

    identities = [ManagedIdentityConfiguration(resource_id=one) for one in own]
    return {"identity": IdentityConfiguration(type=found.type, user_assigned_identities=identities)}


def _told(found: Any, names: tuple[str, ...]) -> dict[str, Any]:
    """Return the attributes that are set to something else than what the service sets itself."""
    values = {name: getattr(found, name, None) for name in names}
    return {
        name: value
        for name, value in _set(values).items()
        if value is not False and value not in ("", _DEFAULTS.get(name))
    }


def _set(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
