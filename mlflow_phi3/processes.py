"""Which process this is, and whether another one still runs."""

import os
import socket
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import psutil


@dataclass(frozen=True, slots=True)
class Process:
    """One process.

    Args:
        host: Its machine.
        processes: The table of processes that it is in: a container has its own.
        pid: Its number there.
        started: When it began, in seconds since 1970; tells it from a later one with the same
            number.
    """

    host: str
    processes: str
    pid: int
    started: float

    def __str__(self) -> str:
        """As a person reads it, and :meth:`parse`."""
        return f"{self.host} {self.pid} {self.started} {self.processes}"

    @classmethod
    def parse(cls, text: str) -> "Process":
        """A process from its text."""
        host, pid, started, *processes = text.split(" ")
        return cls(host, " ".join(processes), int(pid), float(started))

    def is_visible(self) -> bool:
        """Whether it is in the table that the calling process sees."""
        return (self.host, self.processes) == (socket.gethostname(), _table_of_processes())

    def runs(self) -> bool:
        """Whether it still runs; only to be asked of one that is visible."""
        try:
            began = psutil.Process(self.pid).create_time()
        except psutil.NoSuchProcess:
            return False
        return abs(began - self.started) < 1.0 and is_alive(self.pid)


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits for its parent does not."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def this_process() -> Process:
    """The calling process."""
    began = psutil.Process().create_time()
    return Process(socket.gethostname(), _table_of_processes(), os.getpid(), began)


def namespace() -> str:
    """Number of the namespace in which process numbers mean what they do here; empty if unknown.

    A container has its own. That of the machine itself has the same number after each start.
    """
    try:
        return str(Path("/proc/self/ns/pid").stat().st_ino)
    except OSError:  # not Linux: the machine is all that there is
        return ""


@cache
def _table_of_processes() -> str:
    """Names the start of the kernel and the namespace of process numbers."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:  # as above
        return ""
    return f"{boot} {namespace()}"
