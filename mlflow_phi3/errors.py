"""Every error this package raises on purpose.

    Phi3Error                exit 1
    ├── UsageError           exit 2   a parameter or command that cannot be meant
    ├── DataError            exit 3   rows that cannot be trained on
    ├── PreflightError       exit 4   something that must be there first is missing
    ├── AzureError           exit 5   Azure refused, failed or did not answer
    ├── GateError            exit 6   a model is not good enough to go on
    └── TrainingError        exit 1   a training that cannot go on (NaN, out of memory)

``Interrupted`` (exit 130: the person or the system asked to stop) stands beside them, under
``KeyboardInterrupt``: it is raised wherever the program happens to be, and the many
``except Exception`` of the libraries beneath us must not take it for a fault of theirs.

A message reads ``CODE place: problem. Fix: mend``. Codes are stable: people search for them.
"""

import copyreg
from typing import ClassVar


class _Told(BaseException):
    """What every error of ours tells.

    Args:
        code: Stable identifier such as ``PHI3-D014``.
        problem: What is wrong, with the value, without a full stop at the end.
        where: The place: ``file:line``, a parameter, a resource. Empty when there is none.
        fix: What the reader can do about it, without a full stop at the end.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, code: str, problem: str, *, where: str = "", fix: str = "") -> None:
        place = f" {where}" if where else ""
        mend = f". Fix: {fix}" if fix else ""
        # What a library says often ends its sentence; ours is ended below.
        told = problem if problem.endswith("...") else problem.rstrip(".")
        message = f"{code}{place}: {told}{mend}"
        super().__init__(message if message.endswith(("?", "!", ".")) else f"{message}.")
        self.code = code
        self.problem = problem
        self.where = where
        self.fix = fix

    def __reduce__(self) -> tuple[object, ...]:
        """Between processes it goes as it is; made anew, it would lack all but its message."""
        return copyreg.__newobj__, (type(self), *self.args), self.__dict__  # type: ignore[attr-defined]  # typeshed leaves it out


class Phi3Error(_Told, Exception):
    """The root of the tree; its arguments are ``code``, ``problem``, ``where`` and ``fix``."""


class UsageError(Phi3Error):
    """A parameter or command that cannot be meant; raised before anything runs."""

    exit_code = 2


class DataError(Phi3Error):
    """Rows that cannot be trained on."""

    exit_code = 3


class PreflightError(Phi3Error):
    """Something that has to be there first is missing."""

    exit_code = 4


class AzureError(Phi3Error):
    """Azure refused, failed or did not answer.

    Args:
        code: Stable identifier of ours.
        problem: What happened, without keys or tokens.
        where: The resource.
        fix: What the reader can do.
        status: HTTP status, where there was an answer.
        azure_code: The service's own error code.
        request_id: ``x-ms-request-id``, for a support ticket.
    """

    exit_code = 5

    def __init__(
        self,
        code: str,
        problem: str,
        *,
        where: str = "",
        fix: str = "",
        status: int | None = None,
        azure_code: str = "",
        request_id: str = "",
    ) -> None:
        facts = {"status": status, "code": azure_code, "request id": request_id}
        told = ", ".join(f"{name} {value}" for name, value in facts.items() if value)
        super().__init__(code, f"{problem} ({told})" if told else problem, where=where, fix=fix)
        self.status = status
        self.azure_code = azure_code
        self.request_id = request_id


class GateError(Phi3Error):
    """A model that is not good enough, or not the one that was trained, to go on."""

    exit_code = 6


class TrainingError(Phi3Error):
    """A training that cannot go on."""


class Interrupted(_Told, KeyboardInterrupt):
    """The person (Ctrl-C) or the system (SIGTERM) asked to stop."""

    exit_code = 130
