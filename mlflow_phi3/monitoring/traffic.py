"""Requests, latency, errors, tokens, refusals and cost of a window of time."""

import datetime as dt
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from mlflow_phi3.azure.metrics import Minute
from mlflow_phi3.monitoring.calls import Call

MILLION = 1_000_000
_ERROR = 400


@dataclass(frozen=True, slots=True)
class Traffic:
    """A window; NaN where nobody measured it.

    Args:
        requests: How many.
        requests_per_minute: On average over the window.
        error_rate: Share of answers of 400 and above.
        latency_p50_ms: Median.
        latency_p95_ms: 95th percentile.
        latency_worst_p95_ms: The worst minute's 95th percentile.
        prompt_tokens: Read.
        completion_tokens: Generated.
        refusal_rate: Share of calls that content safety stopped.
        cost_usd: Of the window.
    """

    requests: float
    requests_per_minute: float
    error_rate: float = math.nan
    latency_p50_ms: float = math.nan
    latency_p95_ms: float = math.nan
    latency_worst_p95_ms: float = math.nan
    prompt_tokens: float = math.nan
    completion_tokens: float = math.nan
    refusal_rate: float = math.nan
    cost_usd: float = math.nan


@dataclass(frozen=True, slots=True)
class Tariff:
    """What a deployment costs; NaN where it is not known.

    Args:
        usd_per_hour: Of all machines, or of hosting.
        usd_per_million_in: Of tokens read.
        usd_per_million_out: Of tokens generated.
    """

    usd_per_hour: float = math.nan
    usd_per_million_in: float = math.nan
    usd_per_million_out: float = math.nan


def from_minutes(minutes: Sequence[Minute], *, hours: float) -> Traffic:
    """Summarise what Azure Monitor says.

    Percentiles of a window cannot be had from those of its minutes: the mean, weighted by
    requests, is told, and beside it the worst minute.
    """
    counts = np.array([sum(minute.requests.values()) for minute in minutes], np.float64)
    bad = sum(
        count for m in minutes for kind, count in m.requests.items() if kind[:1] in {"4", "5"}
    )
    total = float(counts.sum())
    worst = [m.p95_ms for m in minutes if not math.isnan(m.p95_ms)]
    return Traffic(
        requests=total,
        requests_per_minute=total / (hours * 60),
        error_rate=bad / total if total else math.nan,
        latency_p50_ms=_weighted([m.p50_ms for m in minutes], counts),
        latency_p95_ms=_weighted([m.p95_ms for m in minutes], counts),
        latency_worst_p95_ms=max(worst, default=math.nan),
    )


def from_calls(calls: Sequence[Call], *, hours: float) -> Traffic:
    """Summarise calls that were written down one by one."""
    statuses = [call.status for call in calls if call.status is not None]
    latencies = [call.latency_ms for call in calls if call.latency_ms is not None]
    middle, high = np.percentile(latencies, [50, 95]) if latencies else (math.nan, math.nan)
    return Traffic(
        requests=len(calls),
        requests_per_minute=len(calls) / (hours * 60),
        error_rate=_share([status >= _ERROR for status in statuses]),
        latency_p50_ms=float(middle),
        latency_p95_ms=float(high),
        latency_worst_p95_ms=_worst_minute(calls),
        prompt_tokens=_total(calls, [call.prompt_tokens for call in calls]),
        completion_tokens=_total(calls, [call.completion_tokens for call in calls]),
        refusal_rate=_share([call.refused for call in calls]),
    )


def joined(measured: Traffic | None, written: Traffic) -> Traffic:
    """The service's own figures where it counted any request, those of written calls for the rest.

    Tokens are counted up to all answered requests, as only some calls may have been written down.
    """
    if measured is None or not measured.requests:
        return written
    answered = _answered(written)
    scale = max(_answered(measured) / answered, 1.0) if answered else 1.0
    return replace(
        measured,
        prompt_tokens=written.prompt_tokens * scale,
        completion_tokens=written.completion_tokens * scale,
        refusal_rate=written.refusal_rate,
    )


def with_cost(traffic: Traffic, tariff: Tariff, *, hours: float) -> Traffic:
    """The same with its cost: hours also when idle, and tokens; what has no price is left out.

    NaN when neither price is known, or tokens have a price and nobody counted them.
    """
    hosting = hours * tariff.usd_per_hour
    known = [] if math.isnan(hosting) else [hosting]
    prices = (tariff.usd_per_million_in, tariff.usd_per_million_out)
    if traffic.requests and not all(map(math.isnan, prices)):
        read, written = prices
        known.append((traffic.prompt_tokens * read + traffic.completion_tokens * written) / MILLION)
    return replace(traffic, cost_usd=sum(known) if known else math.nan)


def _answered(traffic: Traffic) -> float:
    """How many requests were no errors: all, where nobody noted how they ended."""
    wrong = 0.0 if math.isnan(traffic.error_rate) else traffic.error_rate
    return traffic.requests * (1 - wrong)


def _worst_minute(calls: Sequence[Call]) -> float:
    """The highest of the minutes' 95th percentiles; NaN without a latency."""
    minutes: dict[dt.datetime, list[float]] = defaultdict(list)
    for call in calls:
        if call.latency_ms is not None:
            minutes[call.at.replace(second=0, microsecond=0)].append(call.latency_ms)
    return max((float(np.percentile(one, 95)) for one in minutes.values()), default=math.nan)


def _weighted(values: Sequence[float], counts: np.ndarray) -> float:
    array = np.array(values, np.float64)
    known = ~np.isnan(array) & (counts > 0)
    return float(np.average(array[known], weights=counts[known])) if known.any() else math.nan


def _share(flags: Sequence[bool]) -> float:
    return sum(flags) / len(flags) if flags else math.nan


def _total(calls: Sequence[Call], counts: Sequence[int | None]) -> float:
    """The tokens of all calls, where only some were answered with a count; an error has none."""
    known = [count for count in counts if count is not None]
    untold = [
        call
        for call, count in zip(calls, counts, strict=True)
        if count is None and (call.status or 0) < _ERROR
    ]
    return sum(known) * (1 + len(untold) / len(known)) if known else math.nan
