"""Start, stop and look at the emulator from another process."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from mlflow_phi3.emulator.settings import CACHE_VARIABLE, HOME_VARIABLE, Settings
from mlflow_phi3.errors import PreflightError
from mlflow_phi3.processes import is_alive

_START_TIMEOUT_S = 720.0
"""A first start fetches Azurite, which may take minutes."""
_STOP_TIMEOUT_S = 90.0


@dataclass(frozen=True, slots=True)
class Running:
    """How a running emulator is reached."""

    pid: int
    port: int
    url: str
    home: Path


def find_emulator(settings: Settings) -> Running | None:
    """Return the emulator that runs with these settings, or None."""
    try:
        record = json.loads(settings.record.read_text())
    except FileNotFoundError:  # also one that stops at this moment
        return None
    found = Running(**record, home=settings.home)
    return found if _is_locked(settings) and is_alive(found.pid) else None


def start_emulator(settings: Settings) -> Running:
    """Return the running emulator, starting one in the background when there is none.

    Raises:
        PreflightError: Its home holds files of others, or it did not start; its log says why.
    """
    known = find_emulator(settings)
    if known is not None:
        return known
    settings.check_home()
    settings.home.mkdir(parents=True, exist_ok=True)
    log = settings.log
    homes = {HOME_VARIABLE: str(settings.home), CACHE_VARIABLE: str(settings.cache)}
    with log.open("ab") as output:
        child = subprocess.Popen(
            [sys.executable, "-m", "mlflow_phi3.emulator"],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **homes},
            start_new_session=True,
        )
    deadline = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < deadline:
        known = find_emulator(settings)
        if known is not None:
            child.returncode = child.returncode or 0  # it is meant to outlive us: no warning
            return known
        if child.poll() is not None and not _is_locked(settings):
            break  # else one that somebody started at the same time is coming up
        time.sleep(0.05)
    said = log.read_text(errors="replace").strip().splitlines()[-1:] or ["nothing in its log"]
    raise PreflightError(
        "PHI3-P707", f"the emulator did not start: {said[0]}", where=str(log), fix="read its log"
    )


def stop_emulator(settings: Settings) -> bool:
    """Stop the emulator and all that it started; tell whether one ran.

    Raises:
        PreflightError: It does not stop.
    """
    known = find_emulator(settings)
    if known is None:
        return False
    os.kill(known.pid, signal.SIGTERM)
    deadline = time.monotonic() + _STOP_TIMEOUT_S
    # The lock goes first, at the end of its work; the process a moment later.
    while _is_locked(settings) or is_alive(known.pid):
        if time.monotonic() > deadline:
            raise PreflightError(
                "PHI3-P708",
                f"process {known.pid} does not stop",
                where=str(settings.home),
                fix=f"kill -9 {known.pid}; what it started ends with it",
            )
        time.sleep(0.05)
    return True


def _is_locked(settings: Settings) -> bool:
    """Tell whether a process holds this home: unlike a process id, a lock is never stale."""
    if not settings.lock.exists():
        return False
    with settings.lock.open("r+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
