"""Where a study is kept."""

from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit

import optuna
from optuna.storages import BaseStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from sqlalchemy import event
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import ArgumentError, OperationalError
from sqlalchemy.pool import ConnectionPoolEntry

from mlflow_phi3.errors import PreflightError, UsageError

_FILE = "optuna.db"
_JOURNAL_SUFFIX = ".log"
# Several drivers may write to one SQLite file: wait for its lock rather than fail.
_SQLITE_LOCK_S = 60
_SQLITE = "sqlite:///"


def default_storage(tracking_uri: str) -> str:
    """The SQLite file beside a local tracking store; of a remote one, in the working directory."""
    if tracking_uri.startswith(_SQLITE):
        return _SQLITE + str(Path(tracking_uri.removeprefix(_SQLITE)).resolve().parent / _FILE)
    parts = urlsplit(tracking_uri)
    if parts.scheme in ("", "file"):
        return _SQLITE + str(Path(unquote(parts.path)).resolve().parent / _FILE)
    return _SQLITE + str(Path(_FILE).resolve())


def open_storage(url: str) -> BaseStorage:
    """Connect to a study's storage: a database by URL, or a journal file by path.

    Raises:
        UsageError: It is neither.
        PreflightError: The database does not answer, or its driver is missing.
    """
    if "://" not in url:
        if not url.endswith(_JOURNAL_SUFFIX):
            raise UsageError(
                "PHI3-U086",
                f"{url!r} is neither a database URL nor a journal file",
                where="storage",
                fix="sqlite:///study.db, postgresql://user:password@host/name, or study.log",
            )
        Path(url).resolve().parent.mkdir(parents=True, exist_ok=True)
        return optuna.storages.JournalStorage(JournalFileBackend(url))
    options: dict[str, object] = {"pool_pre_ping": True}
    if url.startswith(_SQLITE):
        Path(url.removeprefix(_SQLITE)).resolve().parent.mkdir(parents=True, exist_ok=True)
        options = {"connect_args": {"timeout": _SQLITE_LOCK_S}}
    try:
        storage = RDBStorage(url, engine_kwargs=options)
    except ArgumentError as error:
        raise UsageError(
            "PHI3-U087", str(error), where="storage", fix="see docs/sweep.md"
        ) from None
    except (OperationalError, ImportError) as error:
        raise PreflightError(
            "PHI3-P081",
            f"{str(error).splitlines()[0]}",
            where=hide_password(url),
            fix="start the database, or name another storage",
        ) from None
    if url.startswith(_SQLITE):
        event.listen(storage.engine, "connect", _write_ahead)
        storage.engine.dispose()
    return storage


def hide_password(url: str) -> str:
    """The URL as it may be shown."""
    if "://" not in url:
        return url
    parts = urlsplit(url)
    if parts.password is None:
        return url
    netloc = parts.netloc.replace(f":{parts.password}@", ":***@")
    return urlunsplit(parts._replace(netloc=netloc))


def _write_ahead(connection: DBAPIConnection, _: ConnectionPoolEntry) -> None:
    """Commit without waiting for the disk: a killed process loses nothing, and it is 10x faster.

    Source: https://www.sqlite.org/pragma.html#pragma_synchronous.
    """
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.close()
