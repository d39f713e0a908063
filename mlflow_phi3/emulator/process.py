"""Child processes that cannot outlive the emulator."""

import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from mlflow_phi3.emulator import guard


class Guarded:
    """A command under a guard that ends it with us.

    Args:
        command: Program and arguments.
        log: File that gets its output.
        environment: Its whole environment.
        folder: Its working directory.
    """

    def __init__(
        self, command: Sequence[str], *, log: Path, environment: Mapping[str, str], folder: Path
    ) -> None:
        self.log = log
        with log.open("ab") as output:
            self._process = subprocess.Popen(  # noqa: S603 - commands are built by the emulator
                [sys.executable, "-S", guard.__file__, *command],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=dict(environment),
                cwd=folder,
                start_new_session=True,
            )

    def is_running(self) -> bool:
        """Tell whether the command still runs."""
        return self._process.poll() is None

    def tail(self, lines: int = 50) -> str:
        """Return the last lines of its output."""
        return last_lines(self.log, lines)

    def stop(self) -> None:
        """Ask it to end, and wait until it has."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait(guard.GRACE_S + 5)


def last_lines(log: Path, lines: int) -> str:
    """Return the end of a log; nothing where there is none yet."""
    text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
    return "\n".join(text.splitlines()[-lines:])


def free_port() -> int:
    """Return a loopback port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
