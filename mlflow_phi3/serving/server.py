"""The model over HTTP: OpenAI's chat completions, MLflow's ``/invocations``, health and metrics."""

import asyncio
import contextlib
import json
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

from mlflow_phi3.config.serve import ServeConfig
from mlflow_phi3.errors import Phi3Error, PreflightError, UsageError
from mlflow_phi3.serving.concurrent import ConcurrentModel, Prompt
from mlflow_phi3.serving.label_server import build_label_app
from mlflow_phi3.serving.labels import Labeller
from mlflow_phi3.serving.local import load_checkpoint
from mlflow_phi3.serving.measures import Measures
from mlflow_phi3.serving.protocol import (
    completion,
    logprobs_content,
    new_id,
    parse_request,
    usage,
)
from mlflow_phi3.serving.refusal import Refused, error_body, read_json, refuse_when_full
from mlflow_phi3.serving.status import add_status
from mlflow_phi3.serving.vllm import run_vllm

# Nginx's status for a client that closed the connection; only counted, never sent.
_CLIENT_LEFT = 499


def serve(
    folder: Path,
    config: ServeConfig,
    *,
    name: str = "phi",
    told: Callable[[str], None] = lambda _: None,
) -> None:
    """Serve the portable checkpoint in ``folder`` until SIGINT or SIGTERM.

    Args:
        folder: Of a model that chats, or of a classifier, which answers ``/invocations`` alone.
        config: Where, with what, within which limits.
        name: What the model is called in answers that do not name one.
        told: Called with the server's address when it is about to answer.

    Raises:
        PreflightError: There is no checkpoint, the engine cannot serve it, or the port is taken.
    """
    if config.serve_engine == "vllm":
        run_vllm(folder, config, name=name)  # it takes this process over
    checkpoint = load_checkpoint(folder, device=config.serve_device, dtype=config.serve_dtype)
    if checkpoint.labels:
        app = build_label_app(Labeller(checkpoint), config, name=name)
    else:
        model = ConcurrentModel(
            checkpoint,
            default_max_tokens=config.default_max_tokens,
            cache_tokens=config.cache_tokens,
            interval_s=config.stream_interval_ms / 1000,
        )
        app = build_app(model, config, name=name)
    with listen(config) as listening:
        told(f"http://{config.host}:{listening.getsockname()[1]}")
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False))
        with contextlib.suppress(KeyboardInterrupt):  # it has ended in order, and says so again
            server.run(sockets=[listening])


def listen(config: ServeConfig) -> socket.socket:
    """A socket that listens where ``config`` says.

    asyncio sends small pieces at once only on connections that it knows to be TCP, which those of
    a plain socket do not say; without this a token waits for the last one's acknowledgement, 40 ms.

    Raises:
        PreflightError: The address cannot be taken.
    """
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    try:
        listening = socket.create_server((config.host, config.port), family=family)
    except OSError as error:
        raise PreflightError(
            "PHI3-P045",
            f"cannot listen at {config.host}, port {config.port}: {error.strerror}",
            where="port",
            fix="choose another port; 0 takes a free one",
        ) from error
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # each connection inherits it
    return listening


def build_app(model: ConcurrentModel, config: ServeConfig, *, name: str = "phi") -> FastAPI:
    """The application over ``model``, which is stopped with it.

    Args:
        model: What answers.
        config: The limits.
        name: What the model is called in answers that do not name one.
    """

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(model.stop)

    app = FastAPI(title="mlflow-phi3", lifespan=lifespan, docs_url=None, redoc_url=None)
    measures = Measures()
    desk = _Desk(model, config, measures, name)
    # The first is OpenAI's path, the second what Azure AI Inference clients append to an endpoint.
    for path in ("/v1/chat/completions", "/chat/completions", "/invocations"):
        app.add_api_route(path, desk.chat, methods=["POST"], response_model=None)
    add_status(app, measures, name=name, is_alive=lambda: model.alive)
    return app


class _Desk:
    """Takes requests in, and sees each to its end."""

    def __init__(
        self, model: ConcurrentModel, config: ServeConfig, measures: Measures, name: str
    ) -> None:
        self._model, self._config, self._measures, self._name = model, config, measures, name

    async def chat(self, request: Request) -> Response:
        """Answer one chat completion."""
        began = time.perf_counter()
        try:
            prompt = await self._admit(request)
        except Refused as refusal:
            self._measures.answered[refusal.status] += 1
            return refusal.to_response()
        self._measures.prompt_tokens += len(prompt.ids)
        if prompt.request.stream:
            events = self._counted(self._events(prompt, began))
            return StreamingResponse(events, media_type="text/event-stream")
        self._measures.inside += 1
        try:
            status, body = await self._whole(request, prompt)
        finally:
            self._measures.inside -= 1
        self._measures.answered[status] += 1
        self._measures.duration.observe(time.perf_counter() - began)
        return JSONResponse(body, 500 if status == _CLIENT_LEFT else status)

    async def _admit(self, request: Request) -> Prompt:
        """Read and check a body, unless the house is full.

        Raises:
            Refused: With the status that tells why.
        """
        refuse_when_full(self._measures.inside, self._config.max_waiting)
        body = await read_json(request, self._config.max_body_bytes)
        try:
            return self._model.prepare(parse_request(body))
        except UsageError as error:
            raise Refused(400, str(error), param=error.where, code=error.code) from error

    async def _whole(self, request: Request, prompt: Prompt) -> tuple[int, dict[str, Any]]:
        """Status and body of an answer given in one piece."""
        work = asyncio.ensure_future(self._model.answer(prompt))
        try:
            if not await _unless_left(request, work):
                return _CLIENT_LEFT, {}
            reply = work.result()
        except Phi3Error as error:
            return 500, error_body(str(error), kind="server_error", code=error.code)
        self._measures.completion_tokens += sum(answer.tokens for answer in reply.answers)
        model = prompt.request.model or self._name
        return 200, completion(
            prompt.request, reply.answers, prompt_tokens=reply.prompt_tokens, model=model
        )

    async def _counted(self, events: AsyncIterator[str]) -> AsyncIterator[str]:
        """Count a stream in when it starts, which one that is left at once never does, and out."""
        self._measures.inside += 1
        status = _CLIENT_LEFT
        try:
            async for event in events:
                yield event
            status = 200
        finally:
            self._measures.inside -= 1
            self._measures.answered[status] += 1

    async def _events(self, prompt: Prompt, began: float) -> AsyncIterator[str]:
        """Server-sent events of a streamed answer."""
        request = prompt.request
        head = {
            "id": new_id(),
            "object": "chat.completion.chunk",
            "created": int(time.time()),
            "model": request.model or self._name,
        }
        for index in range(request.n):
            yield _event(head | _choice(index, {"role": "assistant", "content": ""}))
        generated = 0
        pieces = self._model.pieces(prompt)
        try:
            async for piece in pieces:
                if not generated:
                    self._measures.first_token.observe(time.perf_counter() - began)
                generated += piece.tokens
                self._measures.completion_tokens += piece.tokens
                if piece.text or piece.logprobs:
                    told = logprobs_content(piece.logprobs) if piece.logprobs else None
                    yield _event(head | _choice(piece.index, {"content": piece.text}, told))
                if piece.finish:
                    yield _event(head | _choice(piece.index, {}, finish=piece.finish))
        except Phi3Error as error:
            # The status line is gone: the error can only come as an event.
            yield _event(error_body(str(error), kind="server_error", code=error.code))
            return
        finally:
            await pieces.aclose()
        if request.stream_options.include_usage:
            yield _event(head | {"choices": [], "usage": usage(len(prompt.ids), generated)})
        yield "data: [DONE]\n\n"
        self._measures.duration.observe(time.perf_counter() - began)


async def _unless_left(request: Request, work: asyncio.Future[Any]) -> bool:
    """Wait for ``work``; when the client leaves first, cancel it and return False."""
    gone = asyncio.ensure_future(_until_left(request.receive))
    try:
        await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            return True
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
        return False
    finally:
        gone.cancel()


async def _until_left(receive: Callable[[], Awaitable[Any]]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _choice(
    index: int, delta: dict[str, Any], logprobs: object = None, *, finish: str | None = None
) -> dict[str, Any]:
    choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
    return {"choices": [choice]}


def _event(body: dict[str, Any]) -> str:
    return f"data: {json.dumps(body)}\n\n"
