"""Calls of an endpoint: key, routing, and the payload of Azure's no-code MLflow deployments."""

import asyncio
import json
import time
from typing import Any

import httpx
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from mlflow_phi3.emulator.endpoints.fleet import Fleet
from mlflow_phi3.emulator.endpoints.state import Endpoints
from mlflow_phi3.emulator.proxy import invoke, relay
from mlflow_phi3.emulator.router import Refusal, bearer

_PATIENCE_S = 20.0
"""How long traffic may lead to a process that has just gone."""
_PAUSE_S = 0.05
_OK, _MODEL_ERROR = 200, 424


class Scoring:
    """Answers ``POST /online/{endpoint}/score``.

    Args:
        endpoints: Knows keys and traffic.
        fleet: Knows the processes.
        client: Reaches them.
    """

    def __init__(self, endpoints: Endpoints, fleet: Fleet, client: httpx.AsyncClient) -> None:
        self._endpoints = endpoints
        self._fleet = fleet
        self._client = client

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> int:
        """Answer one call; return the status.

        Raises:
            Refusal: Wrong path, key, payload or deployment, or nothing to answer.
        """
        request = Request(scope, receive)
        parts = request.url.path.strip("/").split("/")
        if len(parts) != 3 or parts[2] != "score" or request.method != "POST":
            raise Refusal(404, "NotFound", "An endpoint is called by POST on /score.")
        wanted = request.headers.get("azureml-model-deployment")
        body = await request.body()
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            found, name = await run_in_threadpool(
                self._endpoints.route, parts[1], bearer(request.headers), wanted
            )
            payload = to_mlflow(body)
            with self._fleet.lease(found) as port:
                if port is not None:
                    answer = await invoke(self._client, port, payload)
                    status, told = told_of(answer.status_code)
                    named = (b"azureml-model-deployment", name.encode())
                    try:
                        await relay(answer, send, status=status, extra=(named, *told))
                    finally:
                        await answer.aclose()
                    return status
            # Traffic moved and the process went between the two looks: look again.
            if wanted is not None or time.monotonic() > deadline:
                raise Refusal(503, "ServiceUnavailable", f"Deployment {name} is not ready.")
            await asyncio.sleep(_PAUSE_S)


def told_of(status: int) -> tuple[int, tuple[tuple[bytes, bytes], ...]]:
    """Return the status and headers with which a scoring process's answer is passed on.

    Source: "Troubleshooting online endpoints deployment: HTTPS status codes": 424 for whatever is
    not 200.
    """
    if status == _OK:
        return status, ()
    return _MODEL_ERROR, (
        (b"ms-azureml-model-error-statuscode", str(status).encode()),
        (b"ms-azureml-model-error-reason", b"model_error"),
    )


def to_mlflow(body: bytes) -> bytes:
    """Translate what Azure's scoring script of MLflow models takes into what MLflow's server takes.

    Azure's script wants a top-level ``input_data`` (a frame by columns and data, or plain values)
    and optional ``params``; see "Deploy MLflow models to online endpoints".

    Raises:
        Refusal: 400, not JSON or without ``input_data``.
    """
    try:
        sent: Any = json.loads(body)
    except ValueError as wrong:
        raise Refusal(400, "BadArgument", f"The request is not JSON: {wrong}") from wrong
    if not isinstance(sent, dict) or "input_data" not in sent:
        raise Refusal(400, "BadArgument", "Request must contain a top level key named 'input_data'")
    data = sent["input_data"]
    framed = isinstance(data, dict) and {"columns", "data"} <= data.keys()
    translated: dict[str, Any] = {"dataframe_split": data} if framed else {"inputs": data}
    if sent.get("params"):
        translated["params"] = sent["params"]
    return json.dumps(translated).encode()
