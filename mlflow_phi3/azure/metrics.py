"""What Azure Monitor knows of a managed endpoint, minute by minute.

Source: "Supported metrics for Microsoft.MachineLearningServices/workspaces/onlineEndpoints"
(2025-12): RequestsPerMinute and RequestLatency_P50 and _P95, by deployment and class of status.
"""

import datetime as dt
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import quote

from mlflow_phi3.azure.resource_manager import ResourceManager

_VERSION = "2023-10-01"
_REQUESTS = "RequestsPerMinute"
_LATENCIES = ("RequestLatency_P50", "RequestLatency_P95")


@dataclass(frozen=True, slots=True)
class Minute:
    """One minute in which something was asked.

    Args:
        requests: By class of status, such as ``2xx``.
        p50_ms: Median latency, or NaN.
        p95_ms: 95th percentile, or NaN.
    """

    requests: Mapping[str, float]
    p50_ms: float = math.nan
    p95_ms: float = math.nan


def get_minutes(
    manager: ResourceManager,
    endpoint: str,
    deployment: str,
    start: dt.datetime,
    end: dt.datetime,
) -> list[Minute]:
    """Return the minutes of a window, oldest first.

    Args:
        manager: Asks.
        endpoint: A managed endpoint.
        deployment: Only this one of it; empty takes all.
        start: Begin of the window.
        end: Its end.

    Raises:
        AzureError: Refused, or no answer.
    """
    only = f"deployment eq '{deployment}' and " if deployment else ""
    counted = _ask(manager, endpoint, [_REQUESTS], f"{only}statusCodeClass eq '*'", start, end)
    requests: dict[str, dict[str, float]] = defaultdict(dict)
    for _, facts, at, value in counted:
        kind = facts.get("statuscodeclass", "")
        requests[at][kind] = requests[at].get(kind, 0.0) + value
    latencies: dict[str, dict[str, float]] = defaultdict(dict)
    timed = _ask(manager, endpoint, list(_LATENCIES), only.removesuffix(" and "), start, end)
    for name, _, at, value in timed:
        latencies[name][at] = value
    return [
        Minute(requests[at], *(latencies[name].get(at, math.nan) for name in _LATENCIES))
        for at in sorted(requests)
    ]


def _ask(
    manager: ResourceManager,
    endpoint: str,
    names: list[str],
    chosen: str,
    start: dt.datetime,
    end: dt.datetime,
) -> Iterator[tuple[str, dict[str, str], str, float]]:
    """Yield name, dimensions, minute and value of each point that is not empty."""
    query = {
        "metricnames": ",".join(names),
        # To the next second: what was asked just now belongs to the window.
        "timespan": f"{_stamp(start)}/{_stamp(end + dt.timedelta(seconds=1))}",
        "interval": "PT1M",
        "aggregation": "Average",
    }
    if chosen:
        query["$filter"] = chosen
    path = f"{manager.target.path}/onlineEndpoints/{endpoint}/providers/Microsoft.Insights/metrics"
    answer = manager.get(
        path,
        _VERSION,
        where=f"metrics of {endpoint}",
        query="&".join(f"{name}={quote(value, safe='$')}" for name, value in query.items()),
    )
    for metric in (answer.body if answer else {}).get("value") or ():
        for series in metric.get("timeseries") or ():
            facts = {
                str(one["name"]["value"]).lower(): str(one["value"])
                for one in series.get("metadatavalues") or ()
            }
            for point in series.get("data") or ():
                if point.get("average") is not None:
                    name = str(metric["name"]["value"])
                    yield name, facts, str(point["timeStamp"]), float(point["average"])


def _stamp(at: dt.datetime) -> str:
    return at.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
