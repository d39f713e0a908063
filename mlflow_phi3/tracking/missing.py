"""What MLflow does not have, told apart from what it could not say."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alembic.util.exc import CommandError
from mlflow.environment_variables import (
    MLFLOW_HTTP_REQUEST_MAX_RETRIES,
    MLFLOW_HTTP_REQUEST_TIMEOUT,
)
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import (
    INVALID_PARAMETER_VALUE,
    PERMISSION_DENIED,
    RESOURCE_DOES_NOT_EXIST,
    UNAUTHENTICATED,
    ErrorCode,
)
from sqlalchemy.exc import SQLAlchemyError

from mlflow_phi3.errors import PreflightError
from mlflow_phi3.tracking.sqlite import path_of
from mlflow_phi3.tracking.uris import hide_password

# A store also calls a name that it could never have an invalid value: an empty id, an unset alias.
_MISSING = frozenset(map(ErrorCode.Name, (RESOURCE_DOES_NOT_EXIST, INVALID_PARAMETER_VALUE)))
_FORBIDDEN = frozenset(map(ErrorCode.Name, (PERMISSION_DENIED, UNAUTHENTICATED)))
# What somebody has to start, by the scheme of its URI.
_SERVED = frozenset({"http", "https", "postgresql", "mysql", "mssql"})
# What SQLite says of a disk, and of tables that were begun and not finished.
_DISK = ("disk I/O error", "disk is full", "readonly", "unable to open database file")
_HALF_MADE = re.compile(r"table \S+ already exists|duplicate column|overlaps with other requested")


def is_missing(error: MlflowException) -> bool:
    """Whether a store answered that it has no such thing; not that it is away, or refuses."""
    return error.error_code in _MISSING


@contextmanager
def unless_missing() -> Iterator[None]:
    """A block that ends early, without an error, at what the store does not have."""
    try:
        yield
    except MlflowException as error:
        if not is_missing(error):
            raise


@contextmanager
def briefly() -> Iterator[None]:
    """A block that gives a server which does not answer seconds, in place of MLflow's minutes."""
    most = {MLFLOW_HTTP_REQUEST_MAX_RETRIES: 1, MLFLOW_HTTP_REQUEST_TIMEOUT: 10}
    before = {variable: variable.get_raw() for variable in most}
    for variable, value in most.items():
        variable.set(min(value, variable.get()))
    try:
        yield
    finally:
        for variable, value in before.items():
            variable.set(value) if value is not None else variable.unset()


@contextmanager
def asking(uri: str, *, given: str = "") -> Iterator[None]:
    """A block that asks the store at ``uri``.

    Args:
        uri: The store.
        given: The same as a person wrote it.

    Raises:
        PreflightError: The store does not answer, refuses, or is none.
    """
    try:
        yield
    except ModuleNotFoundError as error:  # SQLAlchemy's for a database's driver
        fix = f"install the package that has the module {error.name}"
        if uri.startswith("postgresql:"):
            fix += "; with mlflow-phi3[postgres] the address begins with postgresql+psycopg2:"
        raise unusable(uri, error, fix=fix) from None
    # MLflow lets a database's own through, and what alembic says of one that another is making.
    except (MlflowException, SQLAlchemyError, CommandError) as error:
        raise unusable(uri, error, given=given) from None


@contextmanager
def logging_to(uri: str, *, fix: str) -> Iterator[None]:
    """A block of work that logs to the store at ``uri``.

    Raises:
        PreflightError: The store does not take something any more; ``fix`` is the mend.
    """
    try:
        yield
    except MlflowException as error:
        raise unusable(uri, error, fix=fix, code="PHI3-P090") from error


def unusable(
    uri: str, error: Exception, *, fix: str = "", given: str = "", code: str = "PHI3-P086"
) -> PreflightError:
    """The error that says that the store at ``uri`` cannot be used.

    Args:
        uri: The store.
        error: What it, or the system, said.
        fix: The mend; empty takes what helps with such a store.
        given: ``uri`` as a person wrote it.
        code: The error's code.
    """
    shown = hide_password(uri)
    why = (str(error).splitlines() or [type(error).__name__])[0].replace(uri, shown)
    where = hide_password(given) or shown
    if _is_refused_folder(uri, error):
        # The rest is the mend, and many lines of it.
        why = f"it is taken for the folder {shown}, and MLflow no longer keeps runs in one"
    problem = f"MLflow's store cannot be used: {why}"
    return PreflightError(code, problem, where=where, fix=fix or _mend(uri, error))


def _is_refused_folder(uri: str, error: Exception) -> bool:
    return uri.startswith("file:") and "migrate-filestore" in str(error)


def _mend(uri: str, error: Exception) -> str:
    """What helps, by the kind of store and what it said."""
    if getattr(error, "error_code", "") in _FORBIDDEN:
        return "ask for the right to, or say who you are by MLFLOW_TRACKING_USERNAME and _PASSWORD"
    if uri.partition(":")[0].partition("+")[0] in _SERVED:
        return "start it, or let MLFLOW_TRACKING_URI name another"
    if _is_refused_folder(uri, error):
        return (
            "correct MLFLOW_TRACKING_URI, to sqlite:///mlflow.db for instance; `mlflow "
            "migrate-filestore --source FOLDER --target sqlite:///mlflow.db` takes runs there"
        )
    if path := path_of(uri):
        return _mend_file(path, error)
    return (
        "correct MLFLOW_TRACKING_URI: sqlite:///mlflow.db, or a server's address as in "
        "http://127.0.0.1:5000"
    )


def _mend_file(path: Path, error: Exception) -> str:
    """What helps with a SQLite database."""
    told = str(error)
    if _HALF_MADE.search(told):
        return f"it was left half made: delete {path} (move it away if it held runs), and try again"
    if isinstance(error, OSError) or any(words in told for words in _DISK):
        return (
            f"see that the disk of {path.parent} has room and may be written, or let "
            "MLFLOW_TRACKING_URI name a store elsewhere"
        )
    return "let MLFLOW_TRACKING_URI name another, such as sqlite:///new.db"
