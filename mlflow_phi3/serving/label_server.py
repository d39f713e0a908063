"""A classifier over HTTP: MLflow's ``/invocations``, health and metrics; it does not chat."""

import asyncio
import time
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse

from mlflow_phi3.config.serve import ServeConfig
from mlflow_phi3.errors import UsageError
from mlflow_phi3.serving.labels import Labeller
from mlflow_phi3.serving.measures import Measures
from mlflow_phi3.serving.refusal import Refused, read_json, refuse_when_full
from mlflow_phi3.serving.status import add_status


def build_label_app(labeller: Labeller, config: ServeConfig, *, name: str = "phi") -> FastAPI:
    """The application over a classifier.

    Args:
        labeller: What answers.
        config: The limits.
        name: What the model is called in ``/v1/models``.
    """
    app = FastAPI(title="mlflow-phi3", docs_url=None, redoc_url=None)
    measures = Measures()
    desk = _Desk(labeller, config, measures)
    app.add_api_route("/invocations", desk.classify, methods=["POST"], response_model=None)
    for path in ("/v1/chat/completions", "/chat/completions"):
        app.add_api_route(path, desk.chat, methods=["POST"], response_model=None)
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
        case {"dataframe_split": {"columns": [*columns], "data": [*rows]}, **rest} if not rest:
            return [dict(zip(columns, row, strict=False)) for row in rows], False
    raise UsageError(
        "PHI3-U049",
        "the body holds no texts",
        where="body",
        fix='give {"text": "..."} or {"dataframe_records": [{"text": "..."}]}',
    )


class _Desk:
    """Takes texts in; they are classified one request after the other."""

    def __init__(self, labeller: Labeller, config: ServeConfig, measures: Measures) -> None:
        self._labeller, self._config, self._measures = labeller, config, measures
        self._turn = asyncio.Lock()

    async def classify(self, request: Request) -> Response:
        """Answer one request."""
        began = time.perf_counter()
        try:
            refuse_when_full(self._measures.inside, self._config.max_waiting)
            self._measures.inside += 1
            try:
                answer = await self._answer(request)
            finally:
                self._measures.inside -= 1
        except Refused as refusal:
            self._measures.answered[refusal.status] += 1
            return refusal.to_response()
        self._measures.answered[200] += 1
        self._measures.duration.observe(time.perf_counter() - began)
        return JSONResponse(answer)

    async def _answer(self, request: Request) -> dict[str, Any]:
        """``label`` and ``score`` of a bare text, else ``predictions`` of all, as MLflow answers.

        Raises:
            Refused: The body is too large, or holds no texts.
        """
        body = await read_json(request, self._config.max_body_bytes)
        try:
            texts, bare = read_texts(body)
            async with self._turn:
                found = await asyncio.to_thread(self._labeller.answer, texts)
        except UsageError as error:
            raise Refused(400, str(error), param=error.where, code=error.code) from error
        return found[0] if bare else {"predictions": found}

    async def chat(self) -> Response:
        """Tell a client that wants to chat what this model does."""
        wrong = UsageError(
            "PHI3-U050",
            f"the model tells {', '.join(self._labeller.labels)} apart and does not chat",
            where="path",
            fix='POST {"text": "..."} to /invocations',
        )
        self._measures.answered[400] += 1
        return Refused(400, str(wrong), param=wrong.where, code=wrong.code).to_response()
