"""What MLflow does not have, told apart from what it could not say."""

from collections.abc import Iterator
from contextlib import contextmanager

from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import (
    INVALID_PARAMETER_VALUE,
    RESOURCE_DOES_NOT_EXIST,
    ErrorCode,
)

# A store also calls a name that it could never have an invalid value: an empty id, an unset alias.
_MISSING = frozenset(map(ErrorCode.Name, (RESOURCE_DOES_NOT_EXIST, INVALID_PARAMETER_VALUE)))


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
