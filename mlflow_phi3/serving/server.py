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
from starlette.routing import Route

from mlflow_phi3.config.serve import ServeConfig
from mlflow_phi3.errors import PreflightError
from mlflow_phi3.modeling.hardware import choose_device
from mlflow_phi3.serving.admission import Admission, Exchange
from mlflow_phi3.serving.concurrent import ConcurrentModel
from mlflow_phi3.serving.label_server import build_label_app
from mlflow_phi3.serving.labels import Labeller
from mlflow_phi3.serving.local import Prompt, load_checkpoint
from mlflow_phi3.serving.measures import Measures
from mlflow_phi3.serving.protocol import (
    completion,
    logprobs_content,
    new_id,
    parse_request,
    usage,
)
from mlflow_phi3.serving.refusal import fault_body, read_json
from mlflow_phi3.serving.status import add_status
from mlflow_phi3.serving.vllm import run_vllm

_GRACE_S = 30
"""How long those inside are waited for when the server is told to end."""


def serve(
    folder: Path,
    config: ServeConfig,
    *,
    name: str = "phi",
    told: Callable[[str], None] = lambda _: None,
) -> None:
    """Serve the portable checkpoint in ``folder`` until SIGINT or SIGTERM.

    Those who are inside then are answered, unless that takes longer than ``_GRACE_S``.

    Args:
        folder: Of a model that chats, or of a classifier, which answers ``/invocations`` alone.
        config: Where, with what, within which limits.
        name: What the model is called in answers that do not name one.
        told: Called with the server's address when it is about to answer.

    Raises:
        PreflightError: There is no checkpoint, the engine cannot serve it, or the port is taken.
        UsageError: No such device on this machine.
    """
    if config.serve_engine == "vllm":
        run_vllm(folder, config, name=name)  # it takes this process over
    device = choose_device(config.serve_device, where="serve_device")
    with contextlib.ExitStack() as stack:
        listening = stack.enter_context(listen(config))  # first: to load a model takes long
        checkpoint = load_checkpoint(folder, device=device, dtype=config.serve_dtype)
        if checkpoint.labels:
            app = build_label_app(Labeller(checkpoint), config, name=name)
        else:
            model = ConcurrentModel(
                checkpoint,
                default_max_tokens=config.default_max_tokens,
                cache_tokens=config.cache_tokens,
                interval_s=config.stream_interval_ms / 1000,
            )
            stack.callback(model.stop)  # its thread would keep the process
            app = build_app(model, config, name=name)
        told(f"http://{config.host}:{listening.getsockname()[1]}")
        settings = uvicorn.Config(
            app, log_level="warning", access_log=False, timeout_graceful_shutdown=_GRACE_S
        )
        with contextlib.suppress(KeyboardInterrupt):  # it has ended in order, and says so again
            uvicorn.Server(settings).run(sockets=[listening])


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


def build_app(model: ConcurrentModel, config: ServeConfig, *, name: str) -> FastAPI:
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
    admission = Admission(
        _Handlers(model, config, measures, name).chat, measures, config.max_waiting
    )
    # The first is OpenAI's path, the second what Azure AI Inference clients append to an endpoint.
    for path in ("/v1/chat/completions", "/chat/completions", "/invocations"):
        app.router.routes.append(Route(path, admission, methods=["POST"]))
    add_status(app, measures, name=name, is_alive=lambda: model.alive)
    return app


class _Handlers:
    """Takes requests in, and sees each to its end."""

    def __init__(
        self, model: ConcurrentModel, config: ServeConfig, measures: Measures, name: str
    ) -> None:
        self._model, self._config, self._measures, self._name = model, config, measures, name

    async def chat(self, exchange: Exchange) -> Response:
        """Answer one chat completion.

        Raises:
            Refused: The body is too large, or no JSON.
            UsageError: It is not a request, or the messages fill the context.
            Phi3Error: Generation failed.
        """
        body = await read_json(exchange.request, self._config.max_body_bytes)
        # In a thread: to tokenise a megabyte takes seconds, in which all others would stand still.
        prompt = await asyncio.to_thread(lambda: self._model.prepare(parse_request(body)))
        self._measures.prompt_tokens += len(prompt.ids)
        if prompt.request.stream:
            return StreamingResponse(self._events(exchange, prompt), media_type="text/event-stream")
        return await self._whole(exchange, prompt)

    async def _whole(self, exchange: Exchange, prompt: Prompt) -> Response:
        """An answer given in one piece."""
        work = asyncio.ensure_future(self._model.answer(prompt))
        if not await _unless_left(exchange.request, work):
            return Response(status_code=500)  # nobody gets it
        reply = work.result()
        self._measures.completion_tokens += sum(answer.tokens for answer in reply.answers)
        model = prompt.request.model or self._name
        body = completion(
            prompt.request, reply.answers, prompt_tokens=reply.prompt_tokens, model=model
        )
        exchange.status = 200
        return JSONResponse(body)

    async def _events(self, exchange: Exchange, prompt: Prompt) -> AsyncIterator[str]:
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
                    self._measures.first_token.observe(time.perf_counter() - exchange.began)
                generated += piece.tokens
                self._measures.completion_tokens += piece.tokens
                if piece.text or piece.logprobs:
                    told = logprobs_content(piece.logprobs) if piece.logprobs else None
                    yield _event(head | _choice(piece.index, {"content": piece.text}, told))
                if piece.finish:
                    yield _event(head | _choice(piece.index, {}, finish=piece.finish))
        except Exception as error:  # noqa: BLE001 - the last resort: it is logged and told
            # The status line is gone: the error can only come as an event.
            exchange.status = 500
            yield _event(fault_body(error))
            return
        finally:
            await pieces.aclose()
        if request.stream_options.include_usage:
            yield _event(head | {"choices": [], "usage": usage(len(prompt.ids), generated)})
        exchange.status = 200
        yield "data: [DONE]\n\n"


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
