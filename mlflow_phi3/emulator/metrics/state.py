"""Calls as numbers by the minute; knows no HTTP. Numbers do not survive the emulator."""

import datetime as dt
import re
import statistics
import threading
from collections import defaultdict, deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from mlflow_phi3.emulator.router import Refusal

_LIMIT = 200_000
_METRICS = {
    "requestsperminute": ("RequestsPerMinute", "Count"),
    "requestlatency": ("RequestLatency", "Milliseconds"),
    "requestlatency_p50": ("RequestLatency_P50", "Milliseconds"),
    "requestlatency_p90": ("RequestLatency_P90", "Milliseconds"),
    "requestlatency_p95": ("RequestLatency_P95", "Milliseconds"),
    "requestlatency_p99": ("RequestLatency_P99", "Milliseconds"),
}
_DIMENSIONS = {"deployment": "deployment", "statuscodeclass": "statusCodeClass"}
_CLAUSE = re.compile(r"(\w+)\s+eq\s+'([^']*)'", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Measured:
    """One call: when, of which endpoint and deployment, its status and how long it took."""

    at: dt.datetime
    endpoint: str
    deployment: str
    status: int
    latency_ms: float

    def fact(self, dimension: str) -> str:
        """Its value in a dimension."""
        return self.deployment if dimension == "deployment" else f"{self.status // 100}xx"


class Meter:
    """The latest calls of all endpoints; safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls: deque[Measured] = deque(maxlen=_LIMIT)

    def note(self, call: Measured) -> None:
        """Write one call down."""
        with self._lock:
            self._calls.append(call)

    def query(
        self, endpoint: str, names: str, start: dt.datetime, end: dt.datetime, chosen: str
    ) -> list[dict[str, Any]]:
        """Answer as Azure Monitor does: one time series for each value of a dimension asked by *.

        Raises:
            Refusal: An unknown metric or dimension.
        """
        wanted = {}
        for dimension, value in _CLAUSE.findall(chosen):
            if dimension.lower() not in _DIMENSIONS:
                raise Refusal(400, "BadRequest", f"Dimension {dimension} is not supported.")
            wanted[dimension.lower()] = value
        with self._lock:
            calls = [
                call
                for call in self._calls
                if call.endpoint.lower() == endpoint.lower() and start <= call.at < end
            ]
        for dimension, value in wanted.items():
            if value != "*":
                calls = [call for call in calls if call.fact(dimension) == value]
        parted = [dimension for dimension, value in wanted.items() if value == "*"]
        return [_metric(name, calls, parted) for name in names.split(",")]


def _metric(name: str, calls: list[Measured], parted: list[str]) -> dict[str, Any]:
    if name.lower() not in _METRICS:
        raise Refusal(400, "BadRequest", f"Failed to find metric configuration for {name}.")
    proper, unit = _METRICS[name.lower()]
    groups: dict[tuple[str, ...], list[Measured]] = defaultdict(list)
    for call in calls:
        groups[tuple(call.fact(dimension) for dimension in parted)].append(call)
    series = []
    for values, members in groups.items():
        facts = [
            {"name": {"value": dimension, "localizedValue": dimension}, "value": value}
            for dimension, value in zip(parted, values, strict=True)
        ]
        series.append({"metadatavalues": facts, "data": list(_points(proper, members))})
    return {
        "name": {"value": proper, "localizedValue": proper},
        "unit": unit,
        "type": "Microsoft.Insights/metrics",
        "timeseries": series,
    }


def _points(name: str, calls: list[Measured]) -> Iterable[dict[str, Any]]:
    minutes: dict[dt.datetime, list[float]] = defaultdict(list)
    for call in calls:
        minutes[call.at.replace(second=0, microsecond=0)].append(call.latency_ms)
    for minute, latencies in sorted(minutes.items()):
        stamp = minute.isoformat().replace("+00:00", "Z")
        yield {"timeStamp": stamp, "average": _value(name, sorted(latencies))}


def _value(name: str, latencies: list[float]) -> float:
    if name == "RequestsPerMinute":
        return float(len(latencies))
    if name == "RequestLatency":
        return statistics.fmean(latencies)
    share = int(name.rpartition("P")[2]) / 100
    return latencies[min(int(share * len(latencies)), len(latencies) - 1)]
