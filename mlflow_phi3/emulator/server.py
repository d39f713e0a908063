"""The one TLS port: resource manager, sign-in, blobs and scoring, with faults and a journal."""

import json
import uuid
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qsl

import httpx
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import QueryParams
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from mlflow_phi3.emulator.arm import check_request, paged
from mlflow_phi3.emulator.authorization.actions import needed_actions, scope_of
from mlflow_phi3.emulator.authorization.state import Permissions
from mlflow_phi3.emulator.faults import Fault, Faults, Kind, answer
from mlflow_phi3.emulator.identity.state import Identity
from mlflow_phi3.emulator.journal import Entry, Journal
from mlflow_phi3.emulator.proxy import Behind, Scored, forward
from mlflow_phi3.emulator.router import Call, Refusal, Reply, Router

_CLIENT_LEFT = 499
"""nginx's status for a caller who did not wait; only written down, never sent."""


class Application:
    """The ASGI application.

    Args:
        router: Answers what is JSON.
        identity: Checks bearer tokens.
        permissions: Says who may do what.
        faults: What shall go wrong.
        journal: Notes every request.
        scoring: By the first word of the path, who answers calls of endpoints.
        blobs: The blob service; its account's name begins the path.
        sas: Makes a signature for the blob service, which knows no tokens.
    """

    def __init__(
        self,
        *,
        router: Router,
        identity: Identity,
        permissions: Permissions,
        faults: Faults,
        journal: Journal,
        scoring: Mapping[str, Scored],
        blobs: Behind,
        sas: Callable[[], str],
    ) -> None:
        self._router = router
        self._identity = identity
        self._permissions = permissions
        self._faults = faults
        self._journal = journal
        self._scoring = scoring
        self._blobs = blobs
        self._sas = sas

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        path, status = scope["path"], 0
        body: Any = None
        azures = not path.startswith("/emulator/")
        fault = self._faults.take(scope["method"], path) if azures else None
        if fault is not None and fault.kind is Kind.DROP:
            _drop(send)
        else:
            try:
                status, body = await self._answer(scope, receive, send, fault)
            except Refusal as refusal:
                status = refusal.status
                await _to_response(refusal.to_reply())(scope, receive, send)
            except ClientDisconnect:
                status = _CLIENT_LEFT
            except httpx.TransportError as gone:
                status = 502
                reply = Refusal(502, "BadGateway", str(gone)).to_reply()
                await _to_response(reply)(scope, receive, send)
        if azures:
            version = QueryParams(scope["query_string"]).get("api-version", "")
            self._journal.note(Entry(scope["method"], path, version, body, status))

    async def _answer(
        self, scope: Scope, receive: Receive, send: Send, fault: Fault | None
    ) -> tuple[int, Any]:
        is_blob = scope["path"].startswith(self._blobs.prefix)
        scored = self._scoring.get(scope["path"].split("/")[1])
        # Read before a fault makes it wait: what has arrived is done, though the caller be gone.
        call = None if is_blob or scored else await _to_call(scope, receive)
        reply = None if fault is None else await run_in_threadpool(answer, fault)
        if reply is not None:
            if call is None:
                await Request(scope, receive).body()  # else the connection could not be used again
            await _to_response(reply)(scope, receive, send)
            return reply.status, None
        if call is None:
            if scored is not None:
                return await scored(scope, receive, send), None
            return await forward(self._blobs, self._signed(scope), receive, send), None
        reply = await run_in_threadpool(self._handle, call)
        if fault is not None and fault.kind is Kind.DROP_AFTER:
            _drop(send)
        else:
            await _to_response(reply)(scope, receive, send)
        return reply.status, call.body if call.method in {"PUT", "PATCH"} else None

    def _signed(self, scope: Scope) -> Scope:
        """Give a request for blobs that brings a token a signature in its place.

        Raises:
            Refusal: 401, the token is not good.
        """
        headers = dict(scope["headers"])
        token = headers.get(b"authorization", b"").decode()
        if not token.startswith("Bearer "):
            return scope
        if not self._identity.is_good(token.removeprefix("Bearer ")):
            raise Refusal(401, "InvalidAuthenticationInfo", "Server failed to authenticate.")
        kept = [(name, value) for name, value in scope["headers"] if name != b"authorization"]
        query = b"&".join(filter(None, [scope["query_string"], self._sas().encode()]))
        return {**scope, "headers": kept, "query_string": query}

    def _handle(self, call: Call) -> Reply:
        route, names = self._router.find(call.method, call.path)
        check_request(call)
        if not route.open:
            token = call.headers.get("authorization", "").removeprefix("Bearer ")
            if not self._identity.is_good(token):
                text = "The access token is missing, expired or of another issuer."
                raise Refusal(401, "InvalidAuthenticationToken", text)
            for action in needed_actions(call.method, call.path, call.body):
                self._permissions.check(action, scope_of(call.path, call.method))
        found = replace(call, names=names)
        return paged(found, route.handler(found))


async def _to_call(scope: Scope, receive: Receive) -> Call:
    request = Request(scope, receive)
    raw = await request.body()
    headers = dict(request.headers)
    return Call(
        method=request.method,
        path=request.url.path,
        names={},
        query=dict(request.query_params),
        headers=headers,
        body=_parse(raw, headers.get("content-type", "")),
        origin=f"https://{headers.get('host', 'localhost')}",
    )


def _parse(raw: bytes, content_type: str) -> Any:
    if not raw:
        return None
    if "x-www-form-urlencoded" in content_type:
        return dict(parse_qsl(raw.decode()))
    try:
        return json.loads(raw)
    except ValueError as wrong:
        raise Refusal(400, "InvalidRequestContent", f"The body is not JSON: {wrong}") from wrong


def _to_response(reply: Reply) -> Response:
    headers = {**reply.headers, "x-ms-request-id": str(uuid.uuid4())}
    if reply.body is None:
        return Response(status_code=reply.status, headers=headers)
    return JSONResponse(reply.body, reply.status, headers)


def _drop(send: Send) -> None:
    """Cut the connection: ASGI has no word for it, so uvicorn's own request cycle is asked."""
    send.__self__.transport.abort()  # type: ignore[attr-defined]  # uvicorn's send is a method of it
