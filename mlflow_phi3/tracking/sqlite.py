"""SQLite as several processes use it at once: readers do not wait, and a commit costs little."""

import sqlite3
from contextlib import suppress
from pathlib import Path
from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import Engine

SCHEME = "sqlite:///"


def path_of(uri: str) -> Path | None:
    """The file of a SQLite database; None for what is none, or lives in memory."""
    named = uri.removeprefix(SCHEME)
    if not uri.startswith(SCHEME) or named in ("", ":memory:") or "?" in named:
        return None
    return Path(named).resolve()


def write_ahead(engine: Engine) -> None:
    """Let connections of ``engine`` commit to a log beside the file, and not wait for the disk.

    A killed process loses nothing, and a commit is a hundred times faster; a power cut may lose the
    last moments, never the rest.

    Source: https://www.sqlite.org/wal.html, https://www.sqlite.org/pragma.html#pragma_synchronous.
    """
    if not event.contains(engine, "connect", _set_up):
        event.listen(engine, "connect", _set_up)
        engine.dispose()  # what is open already was set up otherwise


def _set_up(connection: Any, _: object) -> None:
    cursor = connection.cursor()
    with suppress(sqlite3.OperationalError):  # read only, or in the midst of another's work
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.close()
