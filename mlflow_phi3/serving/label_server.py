"""A classifier over HTTP: MLflow's ``/invocations``, health and metrics; it does not chat."""

import asyncio
from typing import Any

from fastapi import FastAPI, Response
from fastapi.responses import JSONResponse
from starlette.routing import Route

from mlflow_phi3.config.serve import ServeConfig
from mlflow_phi3.errors import UsageError
from mlflow_phi3.serving.admission import Admission, Exchange
from mlflow_phi3.serving.labels import Labeller
from mlflow_phi3.serving.measures import Measures
from mlflow_phi3.serving.refusal import read_json
from mlflow_phi3.serving.status import add_status


def build_label_app(labeller: Labeller, config: ServeConfig, *, name: str) -> FastAPI:
    """The application over a classifier.

    Args:
        labeller: What answers.
        config: The limits.
        name: What the model is called in ``/v1/models``.
    """
    app = FastAPI(title="mlflow-phi3", docs_url=None, redoc_url=None)
    measures = Measures()
    handlers = _Handlers(labeller, config)
    for path, work in (
        ("/invocations", handlers.classify),
        ("/v1/chat/completions", handlers.chat),
        ("/chat/completions", handlers.chat),
    ):
        admission = Admission(work, measures, config.max_waiting)
        app.router.routes.append(Route(path, admission, methods=["POST"]))
    add_status(app, measures, name=name)
    return app


def read_texts(body: Any) -> tuple[list[dict[str, Any]], bool]:
    """The texts in a body, each as ``{"text": ...}``, and whether it was a single bare one.

    Args:
        body: ``{"text": "..."}``, or what MLflow's scoring server takes: ``dataframe_records``,
            ``dataframe_split`` or ``inputs`` (records, or columns).

    Raises:
        UsageError: It is none of them.
    """
    match body:
        case {"text": _}:
            return [dict(body)], True
        case {"dataframe_records": [*rows], **rest} | {"inputs": [*rows], **rest} if not rest:
            return [row if isinstance(row, dict) else {"text": row} for row in rows], False
        case {"inputs": {"text": [*texts], **others}, **rest} if not (others or rest):
            return [{"text": text} for text in texts], False
        case {"dataframe_split": {"columns": [*columns], "data": [*rows]}, **rest} if (
            not rest and _is_table(columns, rows)
        ):
            return [dict(zip(columns, row, strict=True)) for row in rows], False
    raise UsageError(
        "PHI3-U049",
        "the body holds no texts",
        where="body",
        fix='give {"text": "..."} or {"dataframe_records": [{"text": "..."}]}',
    )


def _is_table(columns: list[Any], rows: list[Any]) -> bool:
    named = all(isinstance(column, str) for column in columns)
    return named and all(isinstance(row, list) and len(row) == len(columns) for row in rows)


class _Handlers:
    """Takes texts in; they are classified one request after the other."""

    def __init__(self, labeller: Labeller, config: ServeConfig) -> None:
        self._labeller, self._config = labeller, config
        self._turn = asyncio.Lock()

    async def classify(self, exchange: Exchange) -> Response:
        """``label`` and ``score`` of a bare text, else ``predictions`` of all, as MLflow answers.

        Raises:
            Refused: The body is too large, or no JSON.
            UsageError: It holds no texts, or one that is longer than the context.
        """
        texts, bare = read_texts(await read_json(exchange.request, self._config.max_body_bytes))
        async with self._turn:
            found = await asyncio.to_thread(self._labeller.answer, texts)
        exchange.status = 200
        return JSONResponse(found[0] if bare else {"predictions": found})

    async def chat(self, _: Exchange) -> Response:
        """Tell a client that wants to chat what this model does.

        Raises:
            UsageError: Always.
        """
        raise UsageError(
            "PHI3-U050",
            f"the model tells {', '.join(self._labeller.labels)} apart and does not chat",
            where="path",
            fix='POST {"text": "..."} to /invocations',
        )
