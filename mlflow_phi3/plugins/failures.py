"""Our errors as MLflow's: one exception for those who call, one line for those who type."""

from typing import Any

import click  # MLflow's command line is made of it
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import (
    BAD_REQUEST,
    CANCELLED,
    INVALID_PARAMETER_VALUE,
    PERMISSION_DENIED,
    REQUEST_LIMIT_EXCEEDED,
    RESOURCE_CONFLICT,
    RESOURCE_DOES_NOT_EXIST,
    TEMPORARILY_UNAVAILABLE,
    UNAUTHENTICATED,
)

from mlflow_phi3.errors import AzureError, Interrupted, Phi3Error, UsageError

_STATUS = {
    401: UNAUTHENTICATED,
    403: PERMISSION_DENIED,
    404: RESOURCE_DOES_NOT_EXIST,
    409: RESOURCE_CONFLICT,
    429: REQUEST_LIMIT_EXCEEDED,
}


class FoundryException(MlflowException, click.ClickException):  # type: ignore[misc]  # mlflow's types are not followed
    """An MLflow exception that MLflow's command line shows without a traceback.

    Args:
        message: Code, place, problem and mend.
        error_code: MLflow's.
        exit_code: Of the command.
        facts: What Azure told: ``azure_status``, ``azure_code``, ``azure_request_id``.
    """

    def __init__(self, message: str, *, error_code: int, exit_code: int = 1, **facts: Any) -> None:
        MlflowException.__init__(self, message, error_code=error_code, **facts)
        self.exit_code = exit_code  # type: ignore[misc]  # click reads it from the instance


def is_typed() -> bool:
    """Whether ``mlflow deployments`` calls, and not a program, which handles what we raise."""
    from mlflow.deployments.cli import commands  # it looks for all plugins when it is imported

    context = click.get_current_context(silent=True)
    parent = context.parent if context is not None else None
    return parent is not None and parent.command is commands


def as_stopped(order: KeyboardInterrupt) -> FoundryException:
    """An order to stop as the end of a command; click would end it with exit code 1."""
    told = (
        order if isinstance(order, Interrupted) else Interrupted("PHI3-T001", "stopped by SIGINT")
    )
    return FoundryException(str(told), error_code=CANCELLED, exit_code=told.exit_code)


def as_mlflow(error: Phi3Error) -> FoundryException:
    """Our error as MLflow's; our message says all, and its exit code is the command's."""
    code, facts = BAD_REQUEST, {}
    if isinstance(error, UsageError):
        code = INVALID_PARAMETER_VALUE
    elif isinstance(error, AzureError):
        status = error.status or 0
        code = TEMPORARILY_UNAVAILABLE if status >= 500 else _STATUS.get(status, BAD_REQUEST)
        told = {"status": error.status, "code": error.azure_code, "request_id": error.request_id}
        facts = {f"azure_{name}": value for name, value in told.items() if value}
    return FoundryException(str(error), error_code=code, exit_code=error.exit_code, **facts)
