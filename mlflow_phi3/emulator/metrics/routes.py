"""Requests of Azure Monitor about online endpoints."""

import datetime as dt

from mlflow_phi3.emulator.metrics.state import Meter
from mlflow_phi3.emulator.router import WORKSPACE, Call, Refusal, Reply, Route

_METRICS = WORKSPACE + "/onlineEndpoints/{endpoint}/providers/Microsoft.Insights/metrics"


def routes(meter: Meter) -> list[Route]:
    """Return the routes."""

    def metrics(call: Call) -> Reply:
        start, end = _span(call.query.get("timespan", ""))
        if call.query.get("interval", "PT1M") != "PT1M":
            raise Refusal(400, "BadRequest", "interval must be PT1M.")
        value = meter.query(
            call.names["endpoint"],
            call.query.get("metricnames", "RequestsPerMinute"),
            start,
            end,
            call.query.get("$filter", ""),
        )
        return Reply({"timespan": call.query.get("timespan"), "interval": "PT1M", "value": value})

    return [Route("GET", _METRICS, metrics)]


def _span(text: str) -> tuple[dt.datetime, dt.datetime]:
    try:
        start, end = (dt.datetime.fromisoformat(part) for part in text.split("/"))
    except ValueError as wrong:
        raise Refusal(400, "BadRequest", f"timespan '{text}' is not start/end.") from wrong
    return start, end
