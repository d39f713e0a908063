"""Calls as numbers by the minute, in SQLite like all that survives a restart; knows no HTTP."""

import datetime as dt
import re
import statistics
import threading
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow_phi3.emulator.arm import stamp
from mlflow_phi3.emulator.router import Refusal
from mlflow_phi3.emulator.store import open_database

_KEPT = dt.timedelta(days=93)
"""How long Azure Monitor keeps platform metrics ("Azure Monitor Metrics overview", 2025-12)."""
_SCHEMA = """
CREATE TABLE IF NOT EXISTS calls (
    at REAL NOT NULL,
    endpoint TEXT NOT NULL COLLATE NOCASE,
    deployment TEXT NOT NULL,
    status INTEGER NOT NULL,
    latency_ms REAL NOT NULL
);
CREATE INDEX IF NOT EXISTS by_endpoint ON calls (endpoint, at);
"""
_METRICS = {
    "requestsperminute": ("RequestsPerMinute", "Count"),
    "requestlatency": ("RequestLatency", "Milliseconds"),
    "requestlatency_p50": ("RequestLatency_P50", "Milliseconds"),
    "requestlatency_p90": ("RequestLatency_P90", "Milliseconds"),
    "requestlatency_p95": ("RequestLatency_P95", "Milliseconds"),
    "requestlatency_p99": ("RequestLatency_P99", "Milliseconds"),
}
_DIMENSIONS = frozenset({"deployment", "statuscodeclass"})
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
    """The calls of all endpoints; safe to use from several threads.

    Args:
        path: The database file; made when missing. It is not the resources', so that a busy
            endpoint does not wait for them.
        now: What is older than Azure Monitor keeps is forgotten.
    """

    def __init__(self, path: Path, now: dt.datetime) -> None:
        self._lock = threading.Lock()
        self._db = open_database(path, _SCHEMA)
        self._db.execute("DELETE FROM calls WHERE at < ?", ((now - _KEPT).timestamp(),))

    def note(self, call: Measured) -> None:
        """Write one call down."""
        row = (call.at.timestamp(), call.endpoint, call.deployment, call.status, call.latency_ms)
        with self._lock:
            self._db.execute("INSERT INTO calls VALUES (?, ?, ?, ?, ?)", row)

    def close(self) -> None:
        """Close the database."""
        with self._lock:
            self._db.close()

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
        calls = self._between(endpoint, start, end)
        for dimension, value in wanted.items():
            if value != "*":
                calls = [call for call in calls if call.fact(dimension) == value]
        parted = [dimension for dimension, value in wanted.items() if value == "*"]
        return [_metric(name, calls, parted) for name in names.split(",")]

    def _between(self, endpoint: str, start: dt.datetime, end: dt.datetime) -> list[Measured]:
        with self._lock:
            rows = self._db.execute(
                "SELECT * FROM calls WHERE endpoint = ? AND at >= ? AND at < ? ORDER BY at",
                (endpoint, start.timestamp(), end.timestamp()),
            ).fetchall()
        return [Measured(dt.datetime.fromtimestamp(at, dt.UTC), *rest) for at, *rest in rows]


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
        yield {"timeStamp": stamp(minute), "average": _value(name, sorted(latencies))}


def _value(name: str, latencies: list[float]) -> float:
    if name == "RequestsPerMinute":
        return float(len(latencies))
    if name == "RequestLatency":
        return statistics.fmean(latencies)
    share = int(name.rpartition("P")[2]) / 100
    return latencies[min(int(share * len(latencies)), len(latencies) - 1)]
