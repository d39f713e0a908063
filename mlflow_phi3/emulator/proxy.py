"""Passes a request on to a process behind the emulator's port, its answer back, as they flow."""

from collections.abc import AsyncIterator, Awaitable, Callable

import httpx
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from mlflow_phi3.emulator.router import Refusal

Service = Callable[[Scope, Receive, Send], Awaitable[int]]
"""Answers a request; returns the status."""
IDLE_S = 2.0
"""How long a connection to a process behind may lie idle before it is asked no more.

Less than the 5 s after which uvicorn and Node close it: a request that meets the closing is lost.
"""
_HOP = frozenset(
    {b"connection", b"keep-alive", b"transfer-encoding", b"upgrade", b"te", b"trailer"}
)


async def forward(
    client: httpx.AsyncClient, base: str, scope: Scope, receive: Receive, send: Send
) -> int:
    """Pass a whole request on to a base address without holding its body; return the status.

    Raises:
        Refusal: 502, the process behind does not answer.
    """
    query = f"?{scope['query_string'].decode()}" if scope["query_string"] else ""
    headers = [(n, v) for n, v in scope["headers"] if n not in _HOP and n != b"host"]
    sized = any(n == b"content-length" and v != b"0" for n, v in headers)
    chunked = any(n == b"transfer-encoding" for n, _ in scope["headers"])
    request = client.build_request(
        scope["method"],
        f"{base}{scope['raw_path'].decode()}{query}",
        headers=headers,
        content=_body(scope, receive) if sized or chunked else None,
    )
    answer = await ask(client, request)
    try:
        await relay(answer, send)
    finally:
        await answer.aclose()
    return answer.status_code


async def invoke(client: httpx.AsyncClient, port: int, payload: bytes) -> httpx.Response:
    """Return a scoring process's answer, as :func:`ask` does."""
    headers = {"content-type": "application/json"}
    address = f"http://127.0.0.1:{port}/invocations"
    return await ask(
        client, client.build_request("POST", address, content=payload, headers=headers)
    )


async def ask(client: httpx.AsyncClient, request: httpx.Request) -> httpx.Response:
    """Return an answer whose body is not read yet: close it.

    Raises:
        Refusal: 502, there was none.
    """
    try:
        return await client.send(request, stream=True)
    except httpx.TransportError as gone:
        text = f"The process behind did not answer: {gone!r}"
        raise Refusal(502, "BadGateway", text) from gone


async def relay(
    answer: httpx.Response,
    send: Send,
    *,
    status: int | None = None,
    extra: tuple[tuple[bytes, bytes], ...] = (),
) -> None:
    """Send an answer on, part by part, with extra headers, under its own or another status."""
    dropped = _HOP | {b"date", b"server"}  # our own server writes these
    headers = [(n.lower(), v) for n, v in answer.headers.raw if n.lower() not in dropped]
    start = {"type": "http.response.start", "status": status or answer.status_code}
    await send({**start, "headers": [*headers, *extra]})
    async for part in answer.aiter_raw():
        await send({"type": "http.response.body", "body": part, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def _body(scope: Scope, receive: Receive) -> AsyncIterator[bytes]:
    async for part in Request(scope, receive).stream():
        if part:
            yield part
