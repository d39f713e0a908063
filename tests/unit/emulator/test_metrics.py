"""Calls as Azure Monitor tells them."""

import datetime as dt

import pytest

from mlflow_phi3.emulator.metrics.state import Measured, Meter
from mlflow_phi3.emulator.router import Refusal

NOON = dt.datetime(2026, 2, 3, 12, tzinfo=dt.UTC)
HOUR = (NOON, NOON + dt.timedelta(hours=1))


@pytest.fixture
def meter(tmp_path):
    meter = Meter(tmp_path / "calls.sqlite", NOON)
    for second in range(90):
        at = NOON + dt.timedelta(seconds=second)
        deployment = "green" if second % 3 == 0 else "blue"
        status = 503 if second == 1 else 200
        meter.note(Measured(at, "chat", deployment, status, float(second)))
    meter.note(Measured(NOON, "other", "blue", 200, 1.0))
    meter.note(Measured(NOON - dt.timedelta(minutes=1), "chat", "blue", 200, 1.0))
    yield meter
    meter.close()


def test_requests_by_the_minute(meter):
    (found,) = meter.query("CHAT", "RequestsPerMinute", *HOUR, "")
    (series,) = found["timeseries"]
    assert [(p["timeStamp"], p["average"]) for p in series["data"]] == [
        ("2026-02-03T12:00:00Z", 60),
        ("2026-02-03T12:01:00Z", 30),
    ]


def test_one_deployment_and_a_series_for_each_class(meter):
    chosen = "deployment eq 'blue' and statusCodeClass eq '*'"
    (found,) = meter.query("chat", "RequestsPerMinute", *HOUR, chosen)
    told = {
        series["metadatavalues"][0]["value"]: sum(p["average"] for p in series["data"])
        for series in found["timeseries"]
    }
    assert told == {"2xx": 59, "5xx": 1}


def test_percentiles(meter):
    p50, p95 = meter.query("chat", "RequestLatency_P50,RequestLatency_P95", *HOUR, "")
    assert p50["timeseries"][0]["data"][0]["average"] == 30
    assert p95["timeseries"][0]["data"][0]["average"] == 57
    assert p95["unit"] == "Milliseconds"


def test_what_azure_monitor_has_not_is_refused(meter):
    with pytest.raises(Refusal, match="metric configuration for Nonsense"):
        meter.query("chat", "Nonsense", *HOUR, "")
    with pytest.raises(Refusal, match="Dimension colour"):
        meter.query("chat", "RequestsPerMinute", *HOUR, "colour eq '*'")


def test_what_is_written_down_survives_until_it_is_old(meter, tmp_path):
    def requests(now):
        again = Meter(tmp_path / "calls.sqlite", now)
        (found,) = again.query("chat", "RequestsPerMinute", *HOUR, "")
        again.close()
        return sum(p["average"] for series in found["timeseries"] for p in series["data"])

    assert requests(NOON + dt.timedelta(days=92)) == 90
    assert requests(NOON + dt.timedelta(days=94)) == 0
