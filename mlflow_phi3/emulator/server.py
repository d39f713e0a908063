"""The one TLS port: resource manager, sign-in, blobs and scoring, with faults and a journal."""

import json
import traceback
import uuid
from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qsl

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import QueryParams
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import Message, Receive, Scope, Send

from mlflow_phi3.emulator.arm import check_request, paged
from mlflow_phi3.emulator.authorization.actions import needed_actions, scope_of
from mlflow_phi3.emulator.authorization.state import Permissions
from mlflow_phi3.emulator.faults import Fault, Faults, Kind, answer
from mlflow_phi3.emulator.identity.state import Identity
from mlflow_phi3.emulator.journal import Entry, Journal
from mlflow_phi3.emulator.proxy import Service
from mlflow_phi3.emulator.router import Call, Refusal, Reply, Router, bearer
from mlflow_phi3.emulator.store import Store

_CLIENT_LEFT = 499
"""nginx's status for a caller who did not wait; only written down, never sent."""


class Application:
    """The ASGI application.

    Args:
        router: Answers what is JSON.
        store: What the router's answers are told from.
        identity: Checks bearer tokens.
        permissions: Says who may do what.
        faults: What shall go wrong.
        journal: Notes every request.
        services: By the first word of the path, what answers by more than JSON.
    """

    def __init__(
        self,
        *,
        router: Router,
        store: Store,
        identity: Identity,
        permissions: Permissions,
        faults: Faults,
        journal: Journal,
        services: Mapping[str, Service],
    ) -> None:
        self._router = router
        self._store = store
        self._identity = identity
        self._permissions = permissions
        self._faults = faults
        self._journal = journal
        self._services = services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        path = scope["path"]
        if path.startswith("/emulator/"):
            await self._answer(scope, receive, send, None)
            return
        fault = self._faults.take(scope["method"], path)
        kind = None if fault is None else fault.kind
        status, body = (0, None) if kind is Kind.DROP else (500, None)
        try:
            if kind is not Kind.DROP:
                told = _nowhere if kind is Kind.DROP_AFTER else send
                status, body = await self._answer(scope, receive, told, fault)
            if kind in {Kind.DROP, Kind.DROP_AFTER}:
                _drop(send)
        finally:
            version = QueryParams(scope["query_string"]).get("api-version", "")
            self._journal.note(Entry(scope["method"], path, version, body, status))

    async def _answer(
        self, scope: Scope, receive: Receive, send: Send, fault: Fault | None
    ) -> tuple[int, Any]:
        """Answer one request; return the status and, of a change, the body that was sent."""
        service, body = self._services.get(scope["path"].split("/")[1]), None
        try:
            if service is None:
                # Before a fault makes it wait: what has arrived is done, though the caller be gone.
                call = await _to_call(scope, receive)
                reply = await answer(fault)
                if reply is None:
                    reply = await run_in_threadpool(self._handle, call)
                    body = call.body if call.method == "PUT" else None
            else:
                reply = await answer(fault)
                if reply is None:
                    return await service(scope, receive, send), None
                await Request(scope, receive).body()  # else the connection could not be used again
        except Refusal as refusal:
            reply = refusal.to_reply()
        except ClientDisconnect:
            return _CLIENT_LEFT, None
        await _to_response(reply)(scope, receive, send)
        return reply.status, body

    def _handle(self, call: Call) -> Reply:
        try:
            return self._do(call)
        except Refusal:
            raise
        except Exception as bug:
            traceback.print_exc()  # for this process's log
            text = f"{type(bug).__name__}: {bug}"
            raise Refusal(500, "InternalServerError", text) from bug

    def _do(self, call: Call) -> Reply:
        route, names = self._router.find(call.method, call.path)
        check_request(call)
        if not route.open:
            if not self._identity.is_good(bearer(call.headers)):
                text = "The access token is missing, expired or of another issuer."
                raise Refusal(401, "InvalidAuthenticationToken", text)
            for action in needed_actions(call.method, call.path, call.body):
                self._permissions.check(action, scope_of(call.path, call.method))
        found = replace(call, names=names, template=route.template)
        if call.method == "GET":
            return paged(found, route.handler(found))
        with self._store.transaction():  # a change is made alone, and wholly or not at all
            return route.handler(found)


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
        return {}
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


async def _nowhere(_message: Message) -> None:
    """Send an answer that is done and never told."""


def _drop(send: Send) -> None:
    """Cut the connection: ASGI has no word for it, so uvicorn's own request cycle is asked."""
    send.__self__.transport.abort()  # type: ignore[attr-defined]  # uvicorn's send is a method of it
