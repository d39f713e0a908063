"""What is asked of Azure Monitor, and what is made of its answer."""

import datetime as dt
from urllib.parse import parse_qs, urlparse

from mlflow_phi3.azure.metrics import Minute, get_minutes
from mlflow_phi3.azure.resource_manager import ResourceManager
from tests.unit.azure.test_pipeline import MemoryClient

AT = "2026-02-03T05:00:00Z"


def metric(name, *series):
    return {
        "name": {"value": name},
        "timeseries": [
            {
                "metadatavalues": [{"name": {"value": "statusCodeClass"}, "value": kind}],
                "data": [{"timeStamp": AT, "average": value}, {"timeStamp": "later"}],
            }
            for kind, value in series
        ],
    }


def test_the_window_is_told_in_utc_and_ends_with_the_call_just_made():
    counted = {"value": [metric("RequestsPerMinute", ("2xx", 3.0), ("5xx", 1.0))]}
    names = ("RequestLatency_P50", "RequestLatency_P95")
    timed = {
        "value": [
            metric(name, ("2xx", value)) for name, value in zip(names, (7.0, 9.0), strict=True)
        ]
    }
    client = MemoryClient((200, counted), (200, timed))
    start = dt.datetime(2026, 2, 3, 7, tzinfo=dt.timezone(dt.timedelta(hours=2)))

    found = get_minutes(ResourceManager(client), "chat", "blue", start, start)

    assert found == [Minute({"2xx": 3.0, "5xx": 1.0}, 7.0, 9.0)]
    asked = [parse_qs(urlparse(url).query) for url in client.urls]
    assert {one["timespan"][0] for one in asked} == {f"{AT}/2026-02-03T05:00:01Z"}
    assert [one["$filter"][0] for one in asked] == [
        "deployment eq 'blue' and statusCodeClass eq '*'",
        "deployment eq 'blue'",
    ]
