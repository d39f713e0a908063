"""Resources by id, in SQLite: what makes the emulator survive its own restart."""

import json
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mlflow_phi3.emulator.router import Refusal

Resource = dict[str, Any]

_SCHEMA = """
CREATE TABLE IF NOT EXISTS resources (
    id TEXT PRIMARY KEY COLLATE NOCASE,
    parent TEXT NOT NULL COLLATE NOCASE,
    kind TEXT NOT NULL COLLATE NOCASE,
    body TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS by_parent ON resources (parent, kind);
"""


class Store:
    """JSON documents by case-insensitive resource id; safe to use from several threads.

    Args:
        path: The database file; made when missing.
    """

    def __init__(self, path: Path) -> None:
        self._lock = threading.RLock()
        self._db = open_database(path, _SCHEMA)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Hold others off while a rule is checked and its change made: wholly, or not at all."""
        with self._lock:
            if self._db.in_transaction:  # it is within another one
                yield
            else:
                with self._db:  # commits, or takes back what an exception or a kill has cut off
                    self._db.execute("BEGIN")
                    yield

    def get(self, resource_id: str) -> Resource | None:
        """Return one document, or None."""
        found = self._read("SELECT body FROM resources WHERE id = ?", resource_id)
        return found[0] if found else None

    def need(
        self,
        resource_id: str,
        code: str = "ResourceNotFound",
        message: str = "The Resource '{id}' was not found.",
    ) -> Resource:
        """Return one document.

        Args:
            resource_id: Its id.
            code: What the service calls its absence.
            message: The service's words for it, in which it tells the ``{id}`` or ``{name}``.

        Raises:
            Refusal: 404.
        """
        found = self.get(resource_id)
        if found is None:
            name = resource_id.rsplit("/", 1)[-1]
            raise Refusal(404, code, message.format(id=resource_id, name=name))
        return found

    def put(self, resource_id: str, kind: str, body: Resource) -> None:
        """Save one document; its parent is the id without its last type and name."""
        parent = resource_id.rsplit("/", 2)[0]
        with self._lock:
            self._db.execute(
                "INSERT INTO resources VALUES (?, ?, ?, ?)"
                " ON CONFLICT (id) DO UPDATE SET body = excluded.body",
                (resource_id, parent, kind, json.dumps(body)),
            )

    def patch(self, resource_id: str, **properties: Any) -> None:
        """Change some of a document's ``properties``; nothing happens when it is gone."""
        with self._lock:
            body = self.get(resource_id)
            if body is None:
                return
            body.setdefault("properties", {}).update(properties)
            self._db.execute(
                "UPDATE resources SET body = ? WHERE id = ?", (json.dumps(body), resource_id)
            )

    def delete(self, resource_id: str) -> None:
        """Forget one document and everything beneath it."""
        with self._lock:
            self._db.execute(
                "DELETE FROM resources WHERE id = ? OR substr(id, 1, ?) = ? COLLATE NOCASE",
                (resource_id, len(resource_id) + 1, resource_id + "/"),
            )

    def beneath(self, parent: str, kind: str) -> list[Resource]:
        """Return the documents of a kind directly beneath a parent, oldest first."""
        wanted = "SELECT body FROM resources WHERE parent = ? AND kind = ? ORDER BY rowid"
        return self._read(wanted, parent, kind)

    def of_kind(self, kind: str) -> list[Resource]:
        """Return every document of a kind, oldest first."""
        return self._read("SELECT body FROM resources WHERE kind = ? ORDER BY rowid", kind)

    def close(self) -> None:
        """Close the database."""
        with self._lock:
            self._db.close()

    def _read(self, wanted: str, *values: str) -> list[Resource]:
        with self._lock:
            return [dict(json.loads(body)) for (body,) in self._db.execute(wanted, values)]


def open_database(path: Path, schema: str) -> sqlite3.Connection:
    """Open a database that several threads use, each change committed by itself.

    Args:
        path: The file; made when missing.
        schema: Makes the tables that are not there yet.
    """
    database = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("PRAGMA synchronous=NORMAL")
    database.executescript(schema)
    return database
