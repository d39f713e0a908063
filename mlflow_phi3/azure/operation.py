"""Waiting for long-running operations, with an end that is told."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from mlflow_phi3.errors import AzureError

CHANGING = frozenset({"Creating", "Updating", "Deleting", "Scaling"})
"""States in which Azure refuses further changes."""
RUNS = "Succeeded"
"""State of what is as it was asked for."""
LONGER = "with a longer -C timeout_s= or --timeout-s"
"""How a command that ran out of time is given more: each has one of the two."""
READ_TIMEOUT_S = 300.0
"""How long a command that only looks may wait in all, seconds."""
_REFUSED, _FAILED = 400, 500
_UNCERTAIN = frozenset({401, 408, 409, 429})
"""After these, a change that is followed goes on, or the one that is in its way is itself."""
_SLICE_S = 0.25
_FIRST_PAUSE_S = 0.2
_LONGEST_PAUSE_S = 5.0


class _Stated(Protocol):
    @property
    def state(self) -> str: ...


class Deadline:
    """A point in time that all waiting of one command shares.

    Args:
        timeout_s: Seconds from now.
        clock: Monotonic seconds.
    """

    def __init__(self, timeout_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.timeout_s = timeout_s
        self._clock = clock
        self._end = clock() + timeout_s

    def left_s(self) -> float:
        """Return the seconds that are left, at least 0."""
        return max(0.0, self._end - self._clock())


class DeadlinePassed(AzureError):  # noqa: N818 - as Interrupted: not a fault
    """An operation that had not ended when the time given was over; it goes on in Azure."""


class Refused(AzureError):  # noqa: N818 - as DeadlinePassed: it says what became of the request
    """A change that was not begun: all is as it was, so there is nothing to take back."""

    @classmethod
    def of(cls, error: AzureError) -> "Refused":
        """Return an answer of the service as a refusal."""
        refused = cls(error.code, error.problem, where=error.where, fix=error.fix)
        refused.status, refused.azure_code = error.status, error.azure_code
        refused.request_id = error.request_id
        return refused


@contextmanager
def beginning() -> Iterator[None]:
    """Raise it as :class:`Refused` when the service answers 4xx to what begins a change."""
    try:
        yield
    except AzureError as error:
        if _REFUSED <= (error.status or 0) < _FAILED:
            raise Refused.of(error) from error
        raise


@contextmanager
def followed(
    state: Callable[[], str], settle: Callable[[], object], *, where: str
) -> Iterator[None]:
    """Look at what became of a change, where its answer was lost or it cannot be followed.

    The SDK sends a change again whose answer was lost: what refuses that is the change itself.

    Args:
        state: Returns the state of what was asked for; empty where it is not there.
        settle: Waits until nothing of it is changing.
        where: For messages.

    Raises:
        AzureError: It was not begun, or it failed.
    """
    try:
        yield
    except AzureError as lost:
        found = state() if _is_uncertain(lost) else ""
        if not found or (isinstance(lost, Refused) and found not in {RUNS, *CHANGING}):
            raise
        settle()
        if (ended := state()) != RUNS:
            raise AzureError(
                "PHI3-A714",
                f"it did not succeed (state {ended or 'unknown'}); why could not be asked: "
                f"{lost.problem}",
                where=where,
                fix="run the same command again",
            ) from lost


def state_of_deletion(found: _Stated | None) -> str:
    """Return how the deletion of what was found stands; empty where it was not begun."""
    if found is None:
        return RUNS
    return found.state if found.state == "Deleting" else ""


def _is_uncertain(error: AzureError) -> bool:
    """Whether a change may have been begun, or go on, although asking for it came to this."""
    if isinstance(error, DeadlinePassed):
        return False
    return error.status is None or error.status in _UNCERTAIN or error.status >= _FAILED


def await_idle(busy: Callable[[], str], deadline: Deadline, *, where: str) -> None:
    """Wait until nothing of a resource is changing.

    Args:
        busy: Tells what is changing and how; empty when nothing is.
        deadline: When to stop waiting.
        where: The resource.

    Raises:
        DeadlinePassed: Time is over.
    """
    pause_s = _FIRST_PAUSE_S
    while told := busy():
        if deadline.left_s() <= 0:
            raise DeadlinePassed(
                "PHI3-A708",
                f"{told} is still being changed after {deadline.timeout_s:.0f} s",
                where=where,
                fix=f"run the same command again, {LONGER}",
            )
        time.sleep(min(pause_s, deadline.left_s()))
        pause_s = min(pause_s * 1.5, _LONGEST_PAUSE_S)


def finish(poller: Any, deadline: Deadline, *, where: str) -> Any:
    """Wait for an operation of the SDK and return its result.

    ``poller.result(timeout)`` of an unfinished operation raises AttributeError (azure-core 1.41),
    so the poller is waited for in slices, between which Ctrl-C is heard.

    Raises:
        DeadlinePassed: Time is over.
    """
    while not poller.done():
        left_s = deadline.left_s()
        if left_s <= 0:
            raise DeadlinePassed(
                "PHI3-A705",
                f"not finished after {deadline.timeout_s:.0f} s (state {poller.status()}); "
                "the operation goes on in Azure",
                where=where,
                fix=f"run the same command again to take it up, {LONGER}",
            )
        poller.wait(min(_SLICE_S, left_s))
    return poller.result()
