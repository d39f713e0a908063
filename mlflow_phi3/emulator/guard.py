"""Runs one command in a process group of its own, and ends it when whoever started us is gone.

``python guard.py COMMAND...`` with a pipe as standard input: when the pipe closes (asked to stop,
or its owner was killed) the whole group is told to end, then made to. So no scoring process and
no storage outlives the emulator, however that ended.
"""

import contextlib
import os
import select
import signal
import subprocess
import sys
import time

GRACE_S = 10.0
"""How long a group may take to finish what it is doing."""


def main(command: list[str]) -> int:
    """Run the command; return its exit code."""
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)  # noqa: S603 - the words are the emulator's own
    for order in (signal.SIGTERM, signal.SIGINT):
        signal.signal(order, signal.SIG_IGN)  # the pipe alone tells when to stop
    while child.poll() is None:
        readable, _, _ = select.select([0], [], [], 0.2)
        if readable and not os.read(0, 1):
            _end(child)
    _signal(child, signal.SIGKILL)  # whatever it left behind in its group
    return child.returncode


def _end(child: "subprocess.Popen[bytes]") -> None:
    _signal(child, signal.SIGTERM)
    deadline = time.monotonic() + GRACE_S
    while child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    _signal(child, signal.SIGKILL)
    child.wait()


def _signal(child: "subprocess.Popen[bytes]", number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, number)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
