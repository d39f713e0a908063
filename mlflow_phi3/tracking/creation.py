"""A SQLite store that is not there yet: made by one command, and there only when it is whole."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from filelock import FileLock

from mlflow_phi3.tracking.missing import unusable
from mlflow_phi3.tracking.sqlite import path_of

# What SQLite keeps beside a database while it is written.
_BESIDE = ("", "-journal", "-wal", "-shm")


def make_whole(uri: str, make: Callable[[str], None]) -> None:
    """Make the SQLite store at ``uri`` where there is none; leave any other alone.

    MLflow makes its tables in dozens of steps, without a lock: two commands that begin at once
    would be in each other's way, and what a full disk or a kill leaves half made never works again.
    So one command makes the store under another name, and renames it when it is whole.

    Args:
        uri: The store.
        make: Makes a store, and is done with it when it returns, at the URI that it is given.

    Raises:
        PreflightError: Its folder cannot be written.
    """
    path = path_of(uri)
    if path is None or _is_begun(path):
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = path.with_name(f"{path.name}.lock")
        with FileLock(lock):
            if not _is_begun(path):
                _make_beside(path, make)
            # Who waits for it holds on to the file, and will find the store.
            with suppress(OSError):
                lock.unlink()
    except OSError as error:
        raise unusable(uri, error) from error


def _make_beside(path: Path, make: Callable[[str], None]) -> None:
    unfinished = path.with_name(f"{path.name}.unfinished")
    _delete(unfinished)  # what a killed command has left
    try:
        make(f"sqlite:///{unfinished}")
        if not _is_begun(path):  # by MLflow itself, which knows no lock
            unfinished.replace(path)
    finally:
        _delete(unfinished)


def _delete(path: Path) -> None:
    for end in _BESIDE:
        Path(f"{path}{end}").unlink(missing_ok=True)


def _is_begun(path: Path) -> bool:
    """Whether there is a database: connecting alone leaves an empty file."""
    return path.exists() and path.stat().st_size > 0
