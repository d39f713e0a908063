"""Admission: so many requests at a time, and each one is answered and counted, once."""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from fastapi import Request, Response
from fastapi.responses import JSONResponse
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from mlflow_phi3.errors import UsageError
from mlflow_phi3.serving.measures import Measures
from mlflow_phi3.serving.refusal import Refused, fault_body

# Nginx's status for a client that closed the connection; only counted, never sent.
_CLIENT_LEFT = 499


@dataclass(slots=True)
class Exchange:
    """One request, and how it ends.

    Args:
        request: What came in.
        began: When, on the clock of ``time.perf_counter``.
        status: How it ended, for the count; as long as nobody says, its client left.
    """

    request: Request
    began: float = field(default_factory=time.perf_counter)
    status: int = _CLIENT_LEFT


class Admission:
    """An ASGI application around ``work``.

    A request is inside from before its body is read until the last of its answer is sent.

    Args:
        work: Answers an exchange and sets its status; what it raises is answered here.
        measures: Where exchanges are counted.
        most: Requests inside at a time; further ones get status 429.
    """

    def __init__(
        self, work: Callable[[Exchange], Awaitable[Response]], measures: Measures, most: int
    ) -> None:
        self._work, self._measures, self._most = work, measures, most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        exchange = Exchange(Request(scope, receive))
        has_room = self._measures.inside < self._most
        self._measures.inside += has_room
        try:
            response = await self._answer(exchange, has_room=has_room)
            await response(scope, receive, send)
        except ClientDisconnect:
            pass  # in the midst of its body: there is nobody to answer
        finally:
            self._measures.inside -= has_room
            self._measures.answered[exchange.status] += 1
            if exchange.status == 200:
                self._measures.duration.observe(time.perf_counter() - exchange.began)

    async def _answer(self, exchange: Exchange, *, has_room: bool) -> Response:
        try:
            if has_room:
                return await self._work(exchange)
            told = f"busy with as many requests as are answered at once ({self._most})"
            refusal = Refused(429, told, headers={"Retry-After": "1"})
        except Refused as error:
            refusal = error
        except UsageError as error:
            refusal = Refused(400, str(error), param=error.where, code=error.code)
        except ClientDisconnect:
            raise
        except Exception as error:  # noqa: BLE001 - the last resort: it is logged and told
            exchange.status = 500
            return JSONResponse(fault_body(error), 500)
        exchange.status = refusal.status
        return refusal.to_response()
