"""The fork server, and the scoring processes forked from it, as the emulator holds them."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from mlflow_phi3.emulator.endpoints import fork_server
from mlflow_phi3.emulator.process import last_lines
from mlflow_phi3.processes import is_alive


class ForkServer:
    """A process that scoring processes are forked from; see :mod:`.fork_server`.

    Args:
        modules: What it imports beforehand, in the background.
        log: File that gets its output.
        environment: Its whole environment.
        folder: Its working directory.
    """

    def __init__(
        self, modules: Sequence[str], *, log: Path, environment: Mapping[str, str], folder: Path
    ) -> None:
        self._log = log
        self._lock = threading.Lock()
        with log.open("ab") as output:
            self._process = subprocess.Popen(  # noqa: S603 - a program of ours
                [sys.executable, "-P", fork_server.__file__, *modules],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                env=dict(environment),
                cwd=folder,
                start_new_session=True,
            )

    def start(self, **order: object) -> int | None:
        """Start a process; return its id, None when the fork server has ended.

        Args:
            order: As :mod:`.fork_server` takes it.
        """
        asked, told = self._process.stdin, self._process.stdout
        if asked is None or told is None:
            return None
        with self._lock:
            try:
                asked.write(json.dumps(order).encode() + b"\n")
                asked.flush()
            except (BrokenPipeError, ValueError):
                return None
            answer = told.readline()
        return int(answer) if answer else None

    def tail(self) -> str:
        """Return the last lines of its own output."""
        return last_lines(self._log, 15)

    def close(self) -> None:
        """End it with all that it has started."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):  # it did not live to read an order
                    pipe.close()
        self._process.wait(fork_server.GRACE_S + 5)


class Forked:
    """A process that a fork server has started.

    Args:
        pid: Its id, and its group's.
        log: File that gets its output.
    """

    def __init__(self, pid: int, log: Path) -> None:
        self._pid = pid
        self.log = log

    def is_running(self) -> bool:
        """Tell whether it still runs."""
        return is_alive(self._pid)

    def tail(self) -> str:
        """Return the last lines of its output."""
        return last_lines(self.log, 15)

    def stop(self) -> None:
        """Ask it to end, and wait until it has."""
        deadline = time.monotonic() + fork_server.GRACE_S
        self._signal(signal.SIGTERM)
        while self.is_running():
            if time.monotonic() > deadline:
                self._signal(signal.SIGKILL)
            time.sleep(0.02)

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._pid, number)
