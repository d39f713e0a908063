"""What every server tells of itself: whether it is well, its counts, and its model's name."""

import time
from collections.abc import Callable

from fastapi import FastAPI, Response
from fastapi.responses import JSONResponse

from mlflow_phi3.serving.measures import CONTENT_TYPE, Measures


def add_status(
    app: FastAPI, measures: Measures, *, name: str, is_alive: Callable[[], bool] = lambda: True
) -> None:
    """Add ``/health``, ``/ping``, ``/metrics`` and ``/v1/models`` to ``app``.

    Args:
        app: The server's.
        measures: What it counts.
        name: What the model is called in ``/v1/models``.
        is_alive: Whether requests can be answered; a server with nothing that runs in the
            background always can.
    """
    started = int(time.time())

    async def health() -> Response:
        """200 while requests can be answered, else 503."""
        alive = is_alive()
        return JSONResponse({"status": "ok" if alive else "failed"}, 200 if alive else 503)

    async def metrics() -> Response:
        """Counts for Prometheus."""
        return Response(measures.to_text(), media_type=CONTENT_TYPE)

    async def models() -> Response:
        """The one model there is."""
        model = {"id": name, "object": "model", "created": started, "owned_by": "local"}
        return JSONResponse({"object": "list", "data": [model]})

    told = {"/health": health, "/ping": health, "/metrics": metrics, "/v1/models": models}
    for path, answer in told.items():
        app.add_api_route(path, answer, methods=["GET"], response_model=None)
