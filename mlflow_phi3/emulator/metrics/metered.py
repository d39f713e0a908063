"""Stands before an endpoint's scoring: what passes is counted, and collected where asked for."""

import datetime as dt
import time
from dataclasses import dataclass, field

from starlette.concurrency import run_in_threadpool
from starlette.types import Message, Receive, Scope, Send

from mlflow_phi3.emulator.metrics.collector import Collector
from mlflow_phi3.emulator.metrics.state import Measured, Meter
from mlflow_phi3.emulator.proxy import Service
from mlflow_phi3.emulator.router import Refusal

_LONGEST = 4 << 20
"""Bytes of a body that are collected: as the service, which refers to longer ones."""


@dataclass(slots=True)
class _Passing:
    deployment: str = ""
    request: bytearray = field(default_factory=bytearray)
    response: bytearray = field(default_factory=bytearray)


class Metered:
    """Answers as what it stands before.

    Args:
        scored: Answers calls of endpoints; the endpoint is the second word of the path.
        meter: Counts them.
        collector: Keeps bodies.
    """

    def __init__(self, scored: Service, meter: Meter, collector: Collector) -> None:
        self._scored = scored
        self._meter = meter
        self._collector = collector

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> int:
        """Answer one call; return the status.

        Raises:
            Refusal: As what it stands before; that is counted too.
        """
        passing = _Passing()
        parts = scope["path"].strip("/").split("/")
        endpoint = parts[1] if len(parts) > 1 else ""

        async def listening() -> Message:
            message = await receive()
            if len(passing.request) < _LONGEST:
                passing.request += message.get("body", b"")
            return message

        async def telling(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = dict(message.get("headers") or ())
                passing.deployment = headers.get(b"azureml-model-deployment", b"").decode()
            elif len(passing.response) < _LONGEST:
                passing.response += message.get("body", b"")
            await send(message)

        at, began, status = dt.datetime.now(dt.UTC), time.perf_counter(), 500
        try:
            status = await self._scored(scope, listening, telling)
        except Refusal as refusal:
            status = refusal.status
            raise
        finally:
            took_ms = (time.perf_counter() - began) * 1000
            self._meter.note(Measured(at, endpoint, passing.deployment, status, took_ms))
        if status < 400:
            call = (endpoint, passing.deployment, passing.request, passing.response, at)
            await run_in_threadpool(self._collector.write, *call)
        return status
