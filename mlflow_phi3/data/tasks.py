"""What is learnt from a row: to answer, or a label; and tasks of other packages, by entry point."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from mlflow_phi3.config.plugins import find_named
from mlflow_phi3.config.prepare import TASK_ENTRY_POINTS
from mlflow_phi3.data.validate import Problem

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Task:
    """A task.

    Args:
        classifies: A label is learnt, by a head of its own; otherwise the answers of a chat.
        to_row: Turns a row of the person's data into one that a format reads, such as
            ``{"messages": [...]}`` or ``{"text": ..., "label": ...}``; raises ``ValueError`` (or
            ``LookupError``, ``TypeError``, ``AttributeError``) for one that it cannot read. None
            takes rows as they are.
        version: Part of the name of a preparation: another version prepares anew.
    """

    classifies: bool
    to_row: Callable[[Row], Row] | None = None
    version: str = ""

    def read(self, row: object) -> tuple[object, Problem | None]:
        """The row as a format reads it, and what is wrong with it."""
        if self.to_row is None or not isinstance(row, dict):
            return row, None
        try:
            return self.to_row(row), None
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            told = f"the task cannot read the row: {type(error).__name__}: {error}"
            return row, Problem("PHI3-D027", told)


BUILT_IN: Mapping[str, Task] = {
    "chat-completion": Task(classifies=False),
    "text-classification": Task(classifies=True),
}


def find_task(name: str) -> Task:
    """The task called ``name``: one of ours, or one that an installed package brings.

    Raises:
        UsageError: There is none, it cannot be loaded, or it is no :class:`Task`.
    """
    return find_named(
        name,
        BUILT_IN,
        group=TASK_ENTRY_POINTS,
        where="task",
        code="PHI3-U067",
        fits=lambda found: isinstance(found, Task),
    )
