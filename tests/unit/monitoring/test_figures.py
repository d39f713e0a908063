"""Traffic, cost and limits: arithmetic that can be checked by hand."""

import datetime as dt
import math

import pytest

from mlflow_phi3.azure.metrics import Minute
from mlflow_phi3.errors import UsageError
from mlflow_phi3.monitoring.calls import Call
from mlflow_phi3.monitoring.limits import find_exceeded, parse_limits
from mlflow_phi3.monitoring.measure import describe, figure_names, measure
from mlflow_phi3.monitoring.traffic import (
    Tariff,
    from_calls,
    from_minutes,
    joined,
    with_cost,
)

AT = dt.datetime(2026, 2, 3, tzinfo=dt.UTC)


def call(status=200, latency_ms=10.0, refused=False, tokens=(10, 5), at=AT):
    return Call(at, ("hi",), status, latency_ms, *tokens, refused)


def test_minutes_are_weighted_by_their_requests():
    minutes = [
        Minute({}),
        Minute({"2xx": 8, "4xx": 1, "5xx": 1}, 100, 200),
        Minute({"2xx": 30}, 20, 40),
    ]
    found = from_minutes(minutes, hours=2)
    assert (found.requests, found.requests_per_minute) == (40, pytest.approx(1 / 3))
    assert found.error_rate == 2 / 40
    assert (found.latency_p50_ms, found.latency_p95_ms) == (40, 80)
    assert found.latency_worst_p95_ms == 200
    assert math.isnan(from_minutes(minutes[:1], hours=2).error_rate)


def test_calls_one_by_one():
    calls = [call(latency_ms=n) for n in range(1, 101)] + [call(status=400, refused=True)]
    found = from_calls(calls, hours=1)
    assert (found.requests, found.error_rate) == (101, 1 / 101)
    assert found.refusal_rate == 1 / 101
    assert found.prompt_tokens == 1010
    assert 94 < found.latency_p95_ms < 97


def test_the_worst_minute_is_one_minutes_percentile_and_no_single_call():
    usual = [call(at=AT + dt.timedelta(seconds=n, microseconds=n)) for n in range(60)]
    slow = [call(latency_ms=n, at=AT + dt.timedelta(minutes=5, seconds=n)) for n in range(21)]
    odd = call(latency_ms=9000.0, at=AT)
    assert from_calls([*usual, odd, *slow], hours=1).latency_worst_p95_ms == pytest.approx(19)
    assert math.isnan(from_calls([call(latency_ms=None)], hours=1).latency_worst_p95_ms)


def test_a_service_that_counted_nothing_does_not_hide_what_was_written_down():
    written = from_calls([call(), call(status=500)], hours=1)
    assert joined(from_minutes([], hours=1), written) == written


def test_the_services_figures_win_and_tokens_are_counted_up():
    measured = from_minutes([Minute({"2xx": 200}, 5, 9)], hours=1)
    found = joined(measured, from_calls([call()] * 99 + [call(refused=True)], hours=1))
    assert (found.requests, found.latency_p95_ms, found.refusal_rate) == (200, 9, 0.01)
    assert (found.prompt_tokens, found.completion_tokens) == (2000, 1000)
    assert joined(None, measured) is measured
    more = from_calls([call()] * 300, hours=1)  # of which Azure Monitor has not heard yet
    assert joined(measured, more).prompt_tokens == 3000
    failed = from_calls([call(status=500)], hours=1)
    assert joined(measured, failed).prompt_tokens == 10


def test_cost_is_hours_and_tokens():
    traffic = from_calls([call(tokens=(1_000_000, 500_000))], hours=2)
    assert with_cost(traffic, Tariff(3.0), hours=2).cost_usd == 6
    assert with_cost(traffic, Tariff(math.nan, 0.1, 0.4), hours=2).cost_usd == pytest.approx(0.3)
    assert with_cost(traffic, Tariff(3.0, 0.1, 0.4), hours=2).cost_usd == pytest.approx(6.3)
    assert math.isnan(with_cost(traffic, Tariff(), hours=2).cost_usd)


def test_calls_that_were_answered_without_a_count_have_tokens_all_the_same():
    counted, untold = [call()] * 30, [call(tokens=(None, None))] * 60
    refused = [call(status=429, tokens=(None, None))] * 10  # read by no model
    written = from_calls([*counted, *untold, *refused], hours=1)
    assert (written.prompt_tokens, written.completion_tokens) == (900, 450)
    measured = from_minutes([Minute({"2xx": 180, "4xx": 20}, 5, 9)], hours=1)
    assert joined(measured, written).prompt_tokens == pytest.approx(1800)


def test_requests_that_reached_no_model_cost_no_tokens():
    seen = [call(status=None)] * 50 + [call(status=None, tokens=(None, None))] * 50
    collected = from_calls(seen, hours=1)  # the collector sees no others
    measured = from_minutes([Minute({"2xx": 100, "4xx": 300}, 5, 9)], hours=1)
    assert joined(measured, collected).prompt_tokens == 1000


def test_a_cost_of_tokens_that_nobody_counted_is_not_known():
    untold = from_calls([call(tokens=(None, None))], hours=2)
    assert math.isnan(with_cost(untold, Tariff(3.0, 0.1, 0.4), hours=2).cost_usd)
    assert with_cost(untold, Tariff(3.0), hours=2).cost_usd == 6
    idle = from_calls([], hours=2)  # that nobody asked is known
    assert with_cost(idle, Tariff(3.0, 0.1, 0.4), hours=2).cost_usd == 6


def test_nothing_was_asked():
    found = measure([Minute({"2xx": 0}, 0.0, 0.0)], [], None, Tariff(), hours=24)
    assert found.traffic.requests == 0
    assert "monitor/error_rate" not in found.figures()
    assert describe(found)["traffic"]["error_rate"] is None


def test_limits_are_of_figures_that_there_are():
    limits = parse_limits(["monitor/error_rate=0.05", "drift/length=0.2"], figure_names())
    told = find_exceeded(limits, {"monitor/error_rate": 0.1, "drift/length": 0.2})
    assert told == ["monitor/error_rate is 0.1, the limit 0.05"]
    assert find_exceeded(limits, {}) == []
    slow = parse_limits(["monitor/latency_p95_ms=5000"], figure_names())
    told = find_exceeded(slow, {"monitor/latency_p95_ms": 10241.7})
    assert told == ["monitor/latency_p95_ms is 10,242, the limit 5,000"]
    for text, told in (
        ("monitor/eror_rate=1", "did you mean 'monitor/error_rate'"),
        ("monitor/requests", "is no limit"),
        ("monitor/requests=many", "is no limit"),
    ):
        with pytest.raises(UsageError, match=told):
            parse_limits([text], figure_names())
