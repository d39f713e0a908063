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


@contextmanager
def stoppable() -> Iterator[None]:
    """SIGTERM, SIGHUP and the end of the launching ``mlflow run`` raise ``Interrupted`` inside.

    ``mlflow run`` dies of SIGTERM without telling the program it started, which would train on
    with nobody waiting; so while one waits for us, its life is watched.
    """
    before = {number: signal.signal(number, _raise) for number in (signal.SIGTERM, signal.SIGHUP)}
    finished = threading.Event()
    launcher = _launcher() if "MLFLOW_RUN_ID" in os.environ else None
    if launcher is not None:
        watch = threading.Thread(target=_watch, args=(launcher, finished), daemon=True)
        watch.start()
    try:
        yield
    finally:
        finished.set()
        for number, handler in before.items():
            signal.signal(number, handler)


def _raise(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - the signature is signal's
    # A second signal while the first is being handled would tear the clean-up apart.
    signal.signal(number, signal.SIG_IGN)
    raise Interrupted("PHI3-T001", f"stopped by {signal.Signals(number).name}")


def _launcher() -> psutil.Process | None:
    """The ``mlflow run`` process among our ancestors, or None."""
    for ancestor in psutil.Process().parents():
        try:
            words = ancestor.cmdline()
        except psutil.Error:
            continue
        if "run" in words and any("mlflow" in word for word in words[:3]):
            return ancestor
    return None


def _watch(launcher: psutil.Process, finished: threading.Event) -> None:
    """Send ourselves SIGTERM when ``launcher`` is gone."""
    while not finished.wait(_POLL_S):
        if not launcher.is_running() or launcher.status() == psutil.STATUS_ZOMBIE:
            os.kill(os.getpid(), signal.SIGTERM)
            return
