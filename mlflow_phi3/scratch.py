"""Working folders of one process; what a killed process left of them is cleared away."""

import os
import platform
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil


@contextmanager
def scratch_folder(parent: Path, name: str) -> Iterator[Path]:
    """Yield an empty folder to work in; it is gone afterwards, unless it was renamed.

    Those of processes that were killed on this machine are cleared away first: of a process on
    another one, or in another container, which may share ``parent``, nothing is known.

    Args:
        parent: Where it lies; made if it is not there.
        name: What the process works on: the folder is called ``.<name>.<pid>.<machine>.partial``.
    """
    ending = f".{machine_name()}.partial"
    for left in parent.glob(f".*{ending}"):
        pid = int(left.name.removesuffix(ending).rpartition(".")[2])
        if pid == os.getpid() or not psutil.pid_exists(pid):
            shutil.rmtree(left, ignore_errors=True)
    scratch = parent / f".{name}.{os.getpid()}{ending}"
    try:
        scratch.mkdir(parents=True)
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def machine_name() -> str:
    """Names the table in which process numbers mean what they do here.

    Two containers that share a host name have a table each. That of the machine itself has the
    same number after each start, so that what was left before one is still cleared away.
    """
    try:
        return f"{platform.node()}-{Path('/proc/self/ns/pid').stat().st_ino}"
    except OSError:  # not Linux: the machine is all that there is
        return platform.node()
