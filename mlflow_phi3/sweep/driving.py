"""Living as a driver of a study: a heartbeat, and a word for what it writes to giving out."""

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from optuna.exceptions import StorageInternalError

from mlflow_phi3.errors import PreflightError
from mlflow_phi3.sweep.drivers import beating
from mlflow_phi3.sweep.opening import OpenStudy
from mlflow_phi3.tracking.missing import logging_to
from mlflow_phi3.tracking.uris import hide_password

# A disk, or a share of it, is full; a file is too large for it; nothing may be written on it.
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS})


@contextmanager
def driving(study: OpenStudy, folder: Path) -> Iterator[None]:
    """Live as a driver of the study, and say what to do when what it writes to gives out.

    Args:
        study: The study.
        folder: Of its checkpoints.

    Raises:
        PreflightError: Its database went away, MLflow's store did, or the disk is full.
    """
    mend = f"look at the store, then continue with study={study.name}"
    with (
        _storage_stays(study.url, study.name),
        logging_to(study.tracker.uri, fix=mend),
        _disk_has_room(folder, study.name),
        beating(study.ledger.study, study.ledger.driver),
    ):
        yield


@contextmanager
def _storage_stays(url: str, study: str) -> Iterator[None]:
    """Say what to do when the study's database went away in the midst of a write."""
    try:
        yield
    except StorageInternalError as error:
        cause = str(error.__cause__ or error).splitlines()[0]
        raise PreflightError(
            "PHI3-P083",
            f"lost the study in the midst of a write: {cause}",
            where=hide_password(url),
            fix=f"look at the database, then continue with study={study}",
        ) from error


@contextmanager
def _disk_has_room(folder: Path, study: str) -> Iterator[None]:
    """Say what to do when a disk took nothing more; the trials wait by then."""
    try:
        yield
    except Exception as error:
        if not _is_full(error):
            raise
        raise PreflightError(
            "PHI3-P088",
            f"the disk takes nothing more: {str(error).splitlines()[0]}",
            where=str(getattr(error, "filename", None) or folder),
            fix=f"make room, then continue with study={study}",
        ) from error


def _is_full(error: Exception) -> bool:
    """Whether a disk is full, by its number or by what a library made of that."""
    told = re.search(r"os error (\d+)", str(error))  # safetensors' way
    number = int(told[1]) if told else getattr(error, "errno", None)
    return number in _FULL or "disk is full" in str(error)  # SQLite's words
