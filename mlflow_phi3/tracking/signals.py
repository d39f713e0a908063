"""Orders to stop, turned into one error in the main thread, so that every run is told its end."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import psutil

from mlflow_phi3.errors import Interrupted

_POLL_S = 0.5
_ORDERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def stoppable(launcher: psutil.Process | None) -> Iterator[None]:
    """Ctrl-C, SIGTERM, SIGHUP and the end of ``launcher`` raise ``Interrupted`` inside.

    ``mlflow run`` dies of SIGTERM without telling the program it started, which would train on
    with nobody waiting; so its life is watched.

    Args:
        launcher: The process that waits for us, or None.
    """
    before = {number: signal.signal(number, _raise) for number in _ORDERS}
    finished = threading.Event()
    if launcher is not None:
        threading.Thread(target=_watch, args=(launcher, finished), daemon=True).start()
    try:
        yield
    finally:
        finished.set()
        for number, handler in before.items():
            signal.signal(number, handler)


def is_alive(process: psutil.Process | None) -> bool:
    """Whether a process still runs; False for None."""
    try:
        return process is not None and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _raise(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - the signature is signal's
    # A second order while the first is being obeyed would tear the clean-up apart, and one follows
    # for sure: on Ctrl-C, `mlflow run` sends SIGTERM to the program that got the SIGINT as well.
    for each in _ORDERS:
        signal.signal(each, signal.SIG_IGN)
    raise Interrupted("PHI3-T001", f"stopped by {signal.Signals(number).name}")


def _watch(launcher: psutil.Process, finished: threading.Event) -> None:
    """Send ourselves SIGTERM when ``launcher`` is gone."""
    while not finished.wait(_POLL_S):
        if not is_alive(launcher):
            os.kill(os.getpid(), signal.SIGTERM)
            return
