"""Several requests in one: all of them are looked at before any is answered."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from mlflow_phi3.errors import UsageError

RowT = TypeVar("RowT")
CheckedT = TypeVar("CheckedT")


def check_rows(rows: Sequence[RowT], check: Callable[[RowT], CheckedT]) -> list[CheckedT]:
    """What ``check`` makes of each row, in order.

    Raises:
        UsageError: A row is refused; where there are several it is named, counted from 0.
    """
    checked: list[CheckedT] = []
    for number, row in enumerate(rows):
        try:
            checked.append(check(row))
        except UsageError as error:
            if len(rows) == 1:
                raise
            place = ": ".join(filter(None, (f"row {number}", error.where)))
            raise UsageError(error.code, error.problem, where=place, fix=error.fix) from error
    return checked
