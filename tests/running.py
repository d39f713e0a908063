"""A server as a process of its own, for as long as a test needs it."""

import contextlib
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any

import httpx
import pytest


def free_port() -> int:
    """A port of this machine that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def running(
    command: Sequence[str], ready: str, **settings: Any
) -> Iterator["subprocess.Popen[bytes]"]:
    """Start ``command``, wait until the URL ``ready`` answers, and end it with its children.

    Args:
        command: Words.
        ready: Answers 2xx when the server is ready.
        settings: Of ``subprocess.Popen``.
    """
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, start_new_session=True, **settings
        )
        try:
            while not _answers(ready):
                if process.poll() is not None:
                    log.seek(0)
                    pytest.fail(log.read().decode())
                time.sleep(0.2)
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            process.wait(30)


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5, verify=False).is_success
    except httpx.TransportError:
        return False
