"""Passes a request on to a process behind the emulator's port, its answer back, as they flow."""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import httpx
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

Scored = Callable[[Scope, Receive, Send], Awaitable[int]]
"""Answers a call of an endpoint; returns the status."""
IDLE_S = 2.0
"""How long a connection to a process behind may lie idle before it is asked no more.

Less than the 5 s after which uvicorn and Node close it: a request that meets the closing is lost.
"""
_HOP = frozenset(
    {b"connection", b"keep-alive", b"transfer-encoding", b"upgrade", b"te", b"trailer"}
)


@dataclass(frozen=True, slots=True)
class Behind:
    """A process behind the emulator's port.

    Args:
        client: Reaches it.
        base: Where it listens.
        prefix: How the paths begin that are its own.
    """

    client: httpx.AsyncClient
    base: str
    prefix: str


async def forward(behind: Behind, scope: Scope, receive: Receive, send: Send) -> int:
    """Pass a whole request on without holding its body; return the status.

    Raises:
        httpx.TransportError: The process behind does not answer.
    """
    query = f"?{scope['query_string'].decode()}" if scope["query_string"] else ""
    headers = [(n, v) for n, v in scope["headers"] if n not in _HOP and n != b"host"]
    sized = any(n == b"content-length" and v != b"0" for n, v in headers)
    chunked = any(n == b"transfer-encoding" for n, _ in scope["headers"])
    request = behind.client.build_request(
        scope["method"],
        f"{behind.base}{scope['raw_path'].decode()}{query}",
        headers=headers,
        content=_body(scope, receive) if sized or chunked else None,
    )
    answer = await behind.client.send(request, stream=True)
    try:
        await relay(answer, send)
    finally:
        await answer.aclose()
    return answer.status_code


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
