"""Faults on demand: what the cloud does on a bad day, told beforehand.

A fault is posted to ``/emulator/faults`` and hits the next requests (or operations) that match it,
as many times as it says.
"""

import asyncio
import re
import threading
from dataclasses import field
from enum import StrEnum

from pydantic import ConfigDict, ValidationError
from pydantic.dataclasses import dataclass

from mlflow_phi3.emulator.router import Call, Refusal, Reply, Route


class Kind(StrEnum):
    """What can be made to go wrong."""

    STATUS = "status"
    """Answer with ``status`` (429, 500, 503 ...) and ``retry_after`` seconds."""
    DROP = "drop"
    """Close the connection without an answer, before the request is looked at."""
    DROP_AFTER = "drop_after"
    """Do what was asked, then close the connection without an answer."""
    SLOW = "slow"
    """Wait ``seconds`` first."""
    HOLD = "hold"
    """Wait until faults are cleared."""
    FAIL_OPERATION = "fail_operation"
    """The long-running operation on a matching resource fails."""
    HANG_OPERATION = "hang_operation"
    """The long-running operation on a matching resource does not end until faults are cleared."""


_PAUSE_S = 0.02
_OPERATION = (Kind.FAIL_OPERATION, Kind.HANG_OPERATION)


@dataclass(config=ConfigDict(extra="forbid", arbitrary_types_allowed=True))
class Fault:
    """One fault.

    Args:
        kind: What happens.
        method: Which method it hits; empty for every one. Not for operations.
        path: Regular expression searched in the path, or in the operation's resource id.
        times: How many requests or operations it hits.
        status: For ``status``.
        retry_after: For ``status``, seconds; sent also in milliseconds.
        seconds: For ``slow``.
    """

    kind: Kind
    method: str = ""
    path: re.Pattern[str] = re.compile("")
    times: int = 1
    status: int = 500
    retry_after: float = 0.05
    seconds: float = 1.0
    released: threading.Event = field(default_factory=threading.Event, init=False)


class Faults:
    """The faults that are still to come; safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: list[Fault] = []
        self._released = threading.Event()

    def take(self, method: str, path: str) -> Fault | None:
        """Return the fault that hits this request, and count it."""
        return self._take(path, method, operations=False)

    def during_operation(self, resource_id: str) -> None:
        """Fail when a fault hits the operation on this resource, at once or once it is let go.

        Raises:
            RuntimeError: The operation shall fail.
        """
        fault = self._take(resource_id, "", operations=True)
        if fault is None:
            return
        if fault.kind is Kind.HANG_OPERATION:
            fault.released.wait()
        raise RuntimeError("an unexpected internal failure")

    def release(self) -> None:
        """Let requests go that are held, and operations that never end: these fail."""
        with self._lock:
            self._released.set()
            self._released = threading.Event()

    def _take(self, path: str, method: str, *, operations: bool) -> Fault | None:
        with self._lock:
            for fault in self._waiting:
                if (fault.kind in _OPERATION) is not operations:
                    continue
                if fault.method and not operations and fault.method != method:
                    continue
                if re.search(fault.path.pattern, path, re.IGNORECASE):
                    fault.times -= 1
                    if fault.times <= 0:
                        self._waiting.remove(fault)
                    return fault
        return None

    def routes(self) -> list[Route]:
        """Return the routes under which faults are told, counted and forgotten."""
        path = "/emulator/faults"
        return [
            Route("POST", path, self._add, open=True),
            Route("GET", path, self._list, open=True),
            Route("DELETE", path, self._clear, open=True),
        ]

    def _add(self, call: Call) -> Reply:
        try:
            fault = Fault(**call.body)
        except (TypeError, ValidationError) as wrong:
            raise Refusal(400, "BadFault", str(wrong)) from wrong
        with self._lock:
            fault.released = self._released
            self._waiting.append(fault)
        return Reply(status=204)

    def _list(self, _call: Call) -> Reply:
        with self._lock:
            return Reply(
                [{"kind": f.kind, "path": f.path.pattern, "times": f.times} for f in self._waiting]
            )

    def _clear(self, _call: Call) -> Reply:
        with self._lock:
            self._waiting.clear()
        self.release()
        return Reply(status=204)


async def answer(fault: Fault | None) -> Reply | None:
    """Return the answer of a ``status`` fault, wait out the others; with None the request goes on.

    It waits in no thread: all of those could be taken by what is held, and none be left for the
    request that lets it go.
    """
    if fault is None:
        return None
    while fault.kind is Kind.HOLD and not fault.released.is_set():  # noqa: ASYNC110 - set by threads
        await asyncio.sleep(_PAUSE_S)
    if fault.kind is Kind.SLOW:
        await asyncio.sleep(fault.seconds)
    if fault.kind is not Kind.STATUS:
        return None
    error = {"code": _NAMES.get(fault.status, "InternalServerError"), "message": "A bad day."}
    headers = {}
    if fault.status in _TOLD_WHEN:  # with any other status the header would invite a retry too
        milliseconds = str(int(fault.retry_after * 1000))
        headers = {
            "Retry-After": str(max(1, round(fault.retry_after))),
            "retry-after-ms": milliseconds,
            "x-ms-retry-after-ms": milliseconds,
        }
    return Reply({"error": error}, fault.status, headers)


_TOLD_WHEN = frozenset({429, 503})
_NAMES = {429: "TooManyRequests", 503: "ServiceUnavailable"}
