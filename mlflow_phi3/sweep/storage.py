"""Where a study is kept."""

import importlib.util
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import optuna
import tenacity
from optuna.storages import BaseStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from sqlalchemy import create_engine, event
from sqlalchemy.engine import Dialect
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import ArgumentError, DatabaseError, IntegrityError
from sqlalchemy.pool import ConnectionPoolEntry

from mlflow_phi3.errors import PreflightError, UsageError
from mlflow_phi3.tracking.sqlite import SCHEME, write_ahead
from mlflow_phi3.tracking.uris import hide_password

logger = logging.getLogger(__name__)

_FILE = "optuna.db"
_JOURNAL_SUFFIX = ".log"
_CHUNK = 1 << 16
_IN_MEMORY = ("sqlite://", SCHEME, f"{SCHEME}:memory:")
# Several drivers may write to one SQLite file: wait for its lock rather than fail.
_SQLITE_LOCK_S = 60
# How long commands that begin at once may be in each other's way while the tables are made.
_MAKING_S = 60
# How long a database that answered once may be away before the sweep gives up.
_AWAY_S = 300


class WholeLines:
    """A journal file in which a line that a full disk has torn is cut off.

    Optuna's own passes over it, but would write the next one behind it, and read neither again.

    Args:
        path: The file; made where it is not there.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = JournalFileSymlinkLock(str(path))
        self._file = JournalFileBackend(str(path), lock_obj=self._lock)

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        """The entries from a number on."""
        entries: Iterator[dict[str, Any]] = self._file.read_logs(log_number_from)
        return entries

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Write entries, on lines of their own."""
        self._cut()
        try:
            self._file.append_logs(logs)
        except OSError:
            self._cut()
            raise

    def _cut(self) -> None:
        """Let the file end where its last whole line does."""
        self._lock.acquire()
        try:
            with self._path.open("r+b") as file:
                end = at = file.seek(0, os.SEEK_END)
                while at:
                    at = max(0, at - _CHUNK)
                    file.seek(at)
                    _, newline, torn = file.read(end - at).rpartition(b"\n")
                    if newline or not at:
                        file.truncate(end - len(torn))
                        return
        finally:
            self._lock.release()


def find_storage(given: str, tracking_uri: str) -> str:
    """The storage that was named, or else Optuna's SQLite file.

    It lies beside a local tracking store; of a remote one, in the working directory.
    """
    if given:
        return given
    if tracking_uri.startswith(SCHEME):
        return SCHEME + str(Path(tracking_uri.removeprefix(SCHEME)).resolve().parent / _FILE)
    parts = urlsplit(tracking_uri)
    if parts.scheme in ("", "file"):
        return SCHEME + str(Path(unquote(parts.path)).resolve().parent / _FILE)
    return SCHEME + str(Path(_FILE).resolve())


def is_missing(url: str) -> bool:
    """Whether ``url`` means a file that there is not; opening it would make it."""
    if "://" in url and not url.startswith(SCHEME):
        return False
    return not Path(url.removeprefix(SCHEME)).exists()


def check_storage(url: str) -> None:
    """Refuse a storage that nothing could open here; whether it answers is not asked.

    Raises:
        UsageError: It is neither a database's URL nor a journal file, or gone with this process.
        PreflightError: The database's driver is missing.
    """
    if "://" not in url and not url.endswith(_JOURNAL_SUFFIX):
        raise UsageError(
            "PHI3-U086",
            f"{hide_password(url)!r} is neither a database URL nor a journal file",
            where="storage",
            fix="sqlite:///study.db, postgresql://user@host/name, or study.log",
        )
    if url in _IN_MEMORY:
        raise UsageError(
            "PHI3-U087",
            f"{url} is gone with this process, and no study could be continued",
            where="storage",
            fix="name a file, as in sqlite:///study.db",
        )
    if "://" not in url:
        return
    try:
        host = create_engine(_name_driver(url)).url.host  # connects when it is used
    except ArgumentError as error:
        raise _no_address(url, str(error)) from None
    except ValueError:  # whose message may hold the rest of a password
        raise _no_address(url, "its port is no number") from None
    except ImportError:
        raise PreflightError(
            "PHI3-P082",
            "the database's driver is not installed",
            where=hide_password(url),
            fix="for PostgreSQL: pip install 'mlflow-phi3[postgres]'",
        ) from None
    if "@" in (host or ""):  # the rest of a password, which the driver would name
        raise _no_address(url, "an @ stands in its host or password")


def _no_address(url: str, problem: str) -> UsageError:
    return UsageError(
        "PHI3-U087",
        f"{hide_password(url)}: {problem}",
        where="storage",
        fix="see docs/sweep.md; in a password, @ is written %40",
    )


def open_storage(url: str) -> BaseStorage:
    """Connect to a study's storage: a database by URL, or a journal file by path.

    Raises:
        UsageError: It is neither.
        PreflightError: It does not answer, cannot be read or made, or its driver is missing.
    """
    check_storage(url)
    try:
        return _open_database(url) if "://" in url else _open_journal(Path(url))
    # What is no database, a folder that cannot be made, a line that is no journal's; and Optuna's
    # RuntimeError about tables of another version.
    except (DatabaseError, OSError, ValueError, RuntimeError) as error:
        raise PreflightError(
            "PHI3-P081",
            str(error).splitlines()[0],
            where=hide_password(url),
            fix="start or mend it, or name another storage",
        ) from None


def _open_journal(path: Path) -> BaseStorage:
    path.resolve().parent.mkdir(parents=True, exist_ok=True)
    return optuna.storages.JournalStorage(WholeLines(path))


def _open_database(url: str) -> BaseStorage:
    options: dict[str, object] = {"pool_pre_ping": True}
    if url.startswith(SCHEME):
        Path(url.removeprefix(SCHEME)).resolve().parent.mkdir(parents=True, exist_ok=True)
        options = {"connect_args": {"timeout": _SQLITE_LOCK_S}}
    attempts = tenacity.Retrying(
        retry=tenacity.retry_if_exception(_is_made_by_another),
        stop=tenacity.stop_after_delay(_MAKING_S),
        wait=tenacity.wait_random(0.1, 0.5),
        reraise=True,
    )
    storage: BaseStorage = attempts(RDBStorage, _name_driver(url), engine_kwargs=options)
    if url.startswith(SCHEME):
        write_ahead(storage.engine)
    else:
        event.listen(storage.engine, "do_connect", _Patience().connect)
    return storage


def _is_made_by_another(error: BaseException) -> bool:
    """Whether another command was making the tables at the same moment."""
    return isinstance(error, IntegrityError) or (
        isinstance(error, DatabaseError) and "already exists" in str(error)
    )


def _name_driver(url: str) -> str:
    """The URL with the PostgreSQL driver that is installed: SQLAlchemy's default has changed."""
    old = importlib.util.find_spec("psycopg") is None and importlib.util.find_spec("psycopg2")
    return url.replace("postgresql://", "postgresql+psycopg2://", 1) if old else url


class _Patience:
    """Waits for a database that restarts; training goes on once it answers.

    Connections are checked before each use, so whatever is begun while the database is away waits
    here, all of it together no longer than that may be; only what was under way when it went away
    fails. Who is told to stop waits no more.
    """

    def __init__(self) -> None:
        self._until: float | None = None  # while it is away

    def connect(
        self,
        dialect: Dialect,
        _: ConnectionPoolEntry,
        arguments: tuple[Any, ...],
        options: dict[str, Any],
    ) -> DBAPIConnection:
        """A connection, once the database gives one."""
        away: type[Exception] = dialect.loaded_dbapi.OperationalError
        attempts = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(away),
            stop=self._is_over,
            wait=tenacity.wait_exponential(multiplier=0.1, max=5),
            before_sleep=_tell_wait,
            reraise=True,
        )
        try:
            connection: DBAPIConnection = attempts(dialect.connect, *arguments, **options)
        except KeyboardInterrupt:
            self._until = 0.0
            raise
        self._until = None
        return connection

    def _is_over(self, _: tenacity.RetryCallState) -> bool:
        if self._until is None:
            self._until = time.monotonic() + _AWAY_S
        return time.monotonic() > self._until


def _tell_wait(state: tenacity.RetryCallState) -> None:
    """Say once that the sweep waits."""
    if state.attempt_number == 1 and state.outcome is not None:
        problem = str(state.outcome.exception()).splitlines()[0]
        logger.warning("the study's database is away, waiting for it: %s", problem)
