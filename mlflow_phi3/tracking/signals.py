"""Orders to stop, turned into one error in the main thread, so that every run is told its end."""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import psutil

from mlflow_phi3.errors import Interrupted
from mlflow_phi3.processes import is_alive
from mlflow_phi3.tracking.transactions import is_in_transaction

_POLL_S = 0.5
_RETRY_S = 0.02
# An order that was not obeyed by then is given again: Python drops an exception that is raised
# inside a finaliser or a callback from C, and the program would go on as if nobody had asked.
_PATIENCE_S = 20.0
_ORDERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def stoppable(
    launcher: psutil.Process | None, *, patience_s: float = _PATIENCE_S
) -> Iterator[None]:
    """Ctrl-C, SIGTERM, SIGHUP and the end of ``launcher`` raise ``Interrupted`` inside.

    A database transaction of the main thread is let to its end first, unless that takes longer
    than ``patience_s``. Ray raises a plain ``KeyboardInterrupt`` in place of what a handler did;
    outside of the block it is an ``Interrupted`` again.

    ``mlflow run`` dies of SIGTERM without telling the program it started, which would train on
    with nobody waiting; so its life is watched.

    Args:
        launcher: The process that waits for us, or None.
        patience_s: Seconds after which an order that had no effect is given again.
    """
    watch = _Watch(launcher, patience_s)
    before = {number: signal.signal(number, watch.obey) for number in _ORDERS}
    watch.start()
    try:
        yield
    except Interrupted:
        raise
    except KeyboardInterrupt as plain:
        ours = watch.describe()
        for note in getattr(plain, "__notes__", ()):
            ours.add_note(note)
        raise ours from plain
    finally:
        with watch.ending:
            watch.finished.set()
        for number, handler in before.items():
            signal.signal(number, handler)


def as_ordered(error: BaseException) -> BaseException:
    """A plain ``KeyboardInterrupt`` inside of :func:`stoppable` as the order that it stands for.

    Any other error, and one outside of such a block, comes back as it is.
    """
    # The handler is where a process keeps who takes its orders.
    watch = getattr(signal.getsignal(signal.SIGINT), "__self__", None)
    plain = isinstance(error, KeyboardInterrupt) and not isinstance(error, Interrupted)
    return watch.describe() if plain and isinstance(watch, _Watch) else error


class _Watch(threading.Thread):
    """Turns the first order into an error, and looks whether it is obeyed."""

    def __init__(self, launcher: psutil.Process | None, patience_s: float) -> None:
        super().__init__(name="stoppable", daemon=True)
        self.finished = threading.Event()
        # Between looking and ordering: an order that came later would meet the handlers of before.
        self.ending = threading.Lock()
        self._launcher = launcher
        self._patience_s = patience_s
        self._first: signal.Signals | None = None
        self._ordered_at = 0.0
        self._raised = False
        self._reminds = False

    def obey(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 - the signature is signal's
        """Raise, unless an order is being obeyed already or has to wait for a transaction.

        A second error would tear the clean-up apart, and a second order comes for sure: on
        Ctrl-C, `mlflow run` sends SIGTERM to the program that got the SIGINT as well. Who orders
        again when the clean-up has taken long means it, though.
        """
        reminded, self._reminds = self._reminds, False
        if reminded and _is_obeyed():
            return
        if self._first is None:
            self._first = signal.Signals(number)
            self._ordered_at = time.monotonic()
        if self._is_overdue() or not (self._raised or is_in_transaction()):
            self._raised = True
            self._ordered_at = time.monotonic()
            raise self.describe()

    def describe(self) -> Interrupted:
        """The first order as an error."""
        return Interrupted("PHI3-T001", f"stopped by {(self._first or signal.SIGINT).name}")

    def run(self) -> None:
        """Send ourselves an order when the launcher is gone, or the last one waits or was lost."""
        while not self.finished.wait(_RETRY_S if self._waits() else _POLL_S):
            with self.ending:
                if not self.finished.is_set() and self._is_needed():
                    self._reminds = True
                    os.kill(os.getpid(), signal.SIGTERM)

    def _is_needed(self) -> bool:
        return self._waits() or self._is_overdue() or self._is_alone()

    def _waits(self) -> bool:
        return self._first is not None and not self._raised

    def _is_overdue(self) -> bool:
        return self._first is not None and time.monotonic() - self._ordered_at >= self._patience_s

    def _is_alone(self) -> bool:
        return (
            self._first is None and self._launcher is not None and not is_alive(self._launcher.pid)
        )


def _is_obeyed() -> bool:
    """Whether the code below us on the stack cleans up after an order."""
    error = sys.exc_info()[1]
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error is not None
