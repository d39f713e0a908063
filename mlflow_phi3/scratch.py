"""Working folders of one process; what a killed process left of them is cleared away."""

import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlflow_phi3.processes import is_alive, namespace


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
        if pid == os.getpid() or not is_alive(pid):
            shutil.rmtree(left, ignore_errors=True)
    scratch = parent / f".{name}.{os.getpid()}{ending}"
    try:
        scratch.mkdir(parents=True)
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def machine_name() -> str:
    """Names the table in which process numbers mean what they do here, also after a new start."""
    return f"{socket.gethostname()}-{namespace()}"
