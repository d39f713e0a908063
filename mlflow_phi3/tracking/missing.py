"""What MLflow does not have, told apart from what it could not say."""

from collections.abc import Iterator
from contextlib import contextmanager

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
from mlflow_phi3.tracking.uris import hide_password

# A store also calls a name that it could never have an invalid value: an empty id, an unset alias.
_MISSING = frozenset(map(ErrorCode.Name, (RESOURCE_DOES_NOT_EXIST, INVALID_PARAMETER_VALUE)))
_FORBIDDEN = frozenset(map(ErrorCode.Name, (PERMISSION_DENIED, UNAUTHENTICATED)))


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
def asking(uri: str) -> Iterator[None]:
    """A block that asks the store at ``uri``.

    Raises:
        PreflightError: The store does not answer, or refuses.
    """
    try:
        yield
    except ModuleNotFoundError as error:  # SQLAlchemy's for a database's driver
        fix = f"install the package that has the module {error.name}"
        if uri.startswith("postgresql:"):
            fix += "; with mlflow-phi3[postgres] the address begins with postgresql+psycopg2:"
        raise _unusable(uri, error, fix=fix) from None
    except (MlflowException, SQLAlchemyError) as error:  # MLflow lets a database's own through
        fix = "start it, or let MLFLOW_TRACKING_URI name another"
        if getattr(error, "error_code", "") in _FORBIDDEN:
            fix = (
                "ask for the right to, or say who you are by MLFLOW_TRACKING_USERNAME and _PASSWORD"
            )
        raise _unusable(uri, error, fix=fix) from None


@contextmanager
def logging_to(uri: str, *, fix: str) -> Iterator[None]:
    """A block of work that logs to the store at ``uri``.

    Raises:
        PreflightError: The store does not take something any more; ``fix`` is the mend.
    """
    try:
        yield
    except MlflowException as error:
        raise _unusable(uri, error, fix=fix, code="PHI3-P090") from error


def _unusable(uri: str, error: Exception, *, fix: str, code: str = "PHI3-P086") -> PreflightError:
    shown = hide_password(uri)
    why = str(error).splitlines()[0].replace(uri, shown)
    return PreflightError(code, f"MLflow's store cannot be used: {why}", where=shown, fix=fix)
