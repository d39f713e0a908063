"""Calls of a serverless endpoint: OpenAI's chat completions, whole or as a stream."""

import json
from typing import Any

import httpx
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from mlflow_phi3.emulator.endpoints.fleet import Fleet
from mlflow_phi3.emulator.proxy import invoke
from mlflow_phi3.emulator.router import Refusal, bearer
from mlflow_phi3.emulator.serverless.state import Serverless


class ServerlessScoring:
    """Answers ``POST /serverless/{endpoint}/v1/chat/completions``.

    Args:
        serverless: Knows names and keys.
        fleet: Knows the processes.
        client: Reaches them.
    """

    def __init__(self, serverless: Serverless, fleet: Fleet, client: httpx.AsyncClient) -> None:
        self._serverless = serverless
        self._fleet = fleet
        self._client = client

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> int:
        """Answer one call; return the status.

        Raises:
            Refusal: Wrong path, key or payload, or nothing to answer.
        """
        request = Request(scope, receive)
        parts = request.url.path.strip("/").split("/")
        if parts[2:] != ["v1", "chat", "completions"] or request.method != "POST":
            raise Refusal(404, "NotFound", "Chat is POST /v1/chat/completions.")
        name = parts[1].lower()
        found = await run_in_threadpool(self._serverless.find, name, bearer(request.headers))
        sent = _parsed(await request.body())
        streamed = bool(sent.pop("stream", False))
        with self._fleet.lease(found) as port:
            if port is None:
                raise Refusal(503, "ServiceUnavailable", "The endpoint is not ready.")
            answer = await invoke(self._client, port, _framed(sent))
            await answer.aread()
            await answer.aclose()
        if answer.status_code != httpx.codes.OK:
            raise Refusal(answer.status_code, "BadRequest", answer.text[:2000])
        response = _response(_completion(answer.json()), streamed=streamed)
        await response(scope, receive, send)
        return answer.status_code


def _parsed(body: bytes) -> dict[str, Any]:
    try:
        sent = json.loads(body)
    except ValueError as wrong:
        raise Refusal(400, "BadRequest", f"The request is not JSON: {wrong}") from wrong
    if not isinstance(sent, dict) or not isinstance(sent.get("messages"), list):
        raise Refusal(422, "unprocessable_entity", "messages: field required")
    return sent


def _framed(sent: dict[str, Any]) -> bytes:
    frame = {"columns": list(sent), "index": [0], "data": [list(sent.values())]}
    return json.dumps({"dataframe_split": frame}).encode()


def _completion(answer: Any) -> dict[str, Any]:
    found = answer["predictions"] if isinstance(answer, dict) else answer
    return dict(found[0] if isinstance(found, list) else found)


def _response(completion: dict[str, Any], *, streamed: bool) -> Response:
    if not streamed:
        return JSONResponse(completion)
    events = [f"data: {event}\n\n" for event in (*_chunks(completion), "[DONE]")]
    return StreamingResponse(events, media_type="text/event-stream")


def _chunks(completion: dict[str, Any]) -> list[str]:
    """Cut an answer into words, as a stream brings them."""
    found: list[dict[str, Any]] = []
    for choice in completion.get("choices", []):
        for word in choice["message"]["content"].split(" "):
            delta = {"content": word if not found else f" {word}"}
            found.append({"index": choice["index"], "delta": delta, "finish_reason": None})
        end = choice.get("finish_reason") or "stop"
        found.append({"index": choice["index"], "delta": {}, "finish_reason": end})
    head = {**completion, "object": "chat.completion.chunk"}
    return [json.dumps({**head, "choices": [choice]}) for choice in found]
