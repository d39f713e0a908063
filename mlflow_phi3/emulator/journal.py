"""What was asked of the emulator, for tests and for the curious.

Bodies of changes are kept as sent, to be held against Microsoft's published types; secrets are
not: neither headers nor answers nor the values of credentials are written down.
"""

import threading
from collections import deque
from dataclasses import asdict, dataclass, replace
from typing import Any

from mlflow_phi3.emulator.router import Call, Reply, Route

_KEPT = 5000


@dataclass(frozen=True, slots=True)
class Entry:
    """One request: method, path, api-version, body of a change, and the status it got."""

    method: str
    path: str
    api_version: str
    body: Any
    status: int


class Journal:
    """The latest requests."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entries: deque[Entry] = deque(maxlen=_KEPT)

    def note(self, entry: Entry) -> None:
        """Write one request down."""
        with self._lock:
            self._entries.append(replace(entry, body=_without_credentials(entry.body)))

    def routes(self) -> list[Route]:
        """Return the routes under which the journal is read and emptied."""
        return [
            Route("GET", "/emulator/journal", self._read, open=True),
            Route("DELETE", "/emulator/journal", self._clear, open=True),
        ]

    def _read(self, _call: Call) -> Reply:
        with self._lock:
            return Reply([asdict(entry) for entry in self._entries])

    def _clear(self, _call: Call) -> Reply:
        with self._lock:
            self._entries.clear()
        return Reply(status=204)


def _without_credentials(body: Any, *, secret: bool = False) -> Any:
    if isinstance(body, dict):
        return {
            name: _without_credentials(value, secret=secret or name == "credentials")
            for name, value in body.items()
        }
    if isinstance(body, list):
        return [_without_credentials(value, secret=secret) for value in body]
    return "[secret]" if secret and body is not None else body
