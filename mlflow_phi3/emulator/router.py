"""Requests as values, and the table that finds who answers them.

Azure's paths are case-insensitive, which web frameworks' routers are not: hence our own table.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

WORKSPACE = (
    "/subscriptions/{subscription}/resourceGroups/{group}"
    "/providers/Microsoft.MachineLearningServices/workspaces/{workspace}"
)
"""Path of a workspace, which is what a Foundry hub and its projects are to the resource manager."""


@dataclass(frozen=True, slots=True)
class Call:
    """One request.

    Args:
        method: Upper case.
        path: As sent, percent-decoded.
        names: What the braces of the route's template matched.
        query: Query parameters.
        headers: Lower-case names.
        body: Parsed JSON; an empty object where nothing was sent.
        origin: Scheme and authority under which the caller reached us, without a final slash.
        template: Of the route that answers; empty until it is found.
    """

    method: str
    path: str
    names: Mapping[str, str]
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: Any
    origin: str
    template: str = ""

    @property
    def id(self) -> str:
        """Id of the resource that the request is about, without the word that is posted to it."""
        path = self.template.format(**self.names)
        return path.rsplit("/", 1)[0] if self.method == "POST" else path

    @property
    def properties(self) -> dict[str, Any]:
        """What the body says of the resource itself."""
        return dict(self.body.get("properties") or {})

    @property
    def workspace_id(self) -> str:
        """Id of the workspace that the request is about."""
        return WORKSPACE.format(**self.names)


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer: a JSON body (None for no body), status and headers."""

    body: Any = None
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def to_put(cls, body: Any, new: bool, headers: Mapping[str, str] | None = None) -> "Reply":
        """Answer a PUT: with another status where it created something."""
        return cls(body, 201 if new else 200, headers or {})


class Refusal(Exception):  # noqa: N818 - the service's "no", not a bug of the emulator
    """The service says no, in the resource manager's error shape.

    Args:
        status: HTTP status.
        code: Azure's error code.
        message: What the reader sees.
    """

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message

    def to_reply(self) -> Reply:
        """Return the answer that carries this refusal."""
        return Reply({"error": {"code": self.code, "message": self.message}}, self.status)


def bearer(headers: Mapping[str, str]) -> str:
    """Return the key or token that a request brings; empty without one."""
    return headers.get("authorization", "").removeprefix("Bearer ")


Handler = Callable[[Call], Reply]


@dataclass(frozen=True, slots=True)
class Route:
    """Who answers a method on a path template such as ``/workspaces/{workspace}``."""

    method: str
    template: str
    handler: Handler
    open: bool = False
    """True where no bearer token is asked for."""


class Router:
    """Finds the route of a request.

    Args:
        routes: All routes; the first that matches wins.
    """

    def __init__(self, routes: Sequence[Route]) -> None:
        self._table = [(route, _compile(route.template)) for route in routes]

    def find(self, method: str, path: str) -> tuple[Route, dict[str, str]]:
        """Return the route for a request and the names in its path.

        Raises:
            Refusal: 404 for an unknown path, 405 for a known path with another method.
        """
        known = False
        for route, pattern in self._table:
            match = pattern.fullmatch(path)
            if match and route.method == method:
                return route, match.groupdict()
            known = known or match is not None
        if known:
            raise Refusal(405, "MethodNotAllowed", f"{method} is not supported on {path}.")
        raise Refusal(404, "ResourceNotFound", f"No resource answers at {path}.")


def _compile(template: str) -> re.Pattern[str]:
    parts = re.split(r"\{(\w+)\}", template)
    text = "".join(
        f"(?P<{part}>[^/]+)" if index % 2 else re.escape(part) for index, part in enumerate(parts)
    )
    return re.compile(text + "/?", re.IGNORECASE)
