"""Asking a scoring process, for endpoints of either kind."""

import httpx
from starlette.requests import Request

from mlflow_phi3.emulator.router import Refusal


def bearer(request: Request) -> str:
    """Return the key or token that a call brings; empty without one."""
    return request.headers.get("authorization", "").removeprefix("Bearer ")


async def invoke(client: httpx.AsyncClient, port: int, payload: bytes) -> httpx.Response:
    """Return a scoring process's answer, whose body is not read yet: close it.

    Raises:
        Refusal: 502, there was none.
    """
    request = client.build_request(
        "POST",
        f"http://127.0.0.1:{port}/invocations",
        content=payload,
        headers={"content-type": "application/json"},
    )
    try:
        return await client.send(request, stream=True)
    except httpx.TransportError as gone:
        text = f"The scoring process did not answer: {gone!r}"
        raise Refusal(502, "BadGateway", text) from gone
