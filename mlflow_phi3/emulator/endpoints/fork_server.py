"""Starts scoring processes in a moment: imports once what they all need, and forks each from there.

Run by its path, with the modules to import: ``python -P fork_server.py MODULE...``. The package
itself is not imported, so that a model's own copy of its code is what a scoring process loads.
Standard input brings orders, one JSON object a line (``log``, ``folder``, ``environment``,
``port``, ``application``); standard output answers each by the process's id. When the input closes
(asked to stop, or the emulator was killed) all are told to end, then made to.
"""

import contextlib
import gc
import importlib
import json
import os
import random
import select
import signal
import sys
import time
import traceback
from typing import Any

GRACE_S = 10.0
"""How long a process may take to finish what it is doing."""
_ORDERS = (signal.SIGTERM, signal.SIGINT)


def main(modules: list[str]) -> int:
    """Serve orders; return the exit code."""
    for order in _ORDERS:
        signal.signal(order, signal.SIG_IGN)  # the pipe alone tells when to stop
    for name in modules:
        importlib.import_module(name)
    gc.freeze()  # collectors that go through all that would copy it into each child
    children: set[int] = set()
    waiting = b""
    while True:
        _reap(children)
        readable, _, _ = select.select([0], [], [], 0.2)
        if not readable:
            continue
        arrived = os.read(0, 1 << 16)
        if not arrived:
            break
        *lines, waiting = (waiting + arrived).split(b"\n")
        for line in lines:
            child = _fork(json.loads(line))
            children.add(child)
            os.write(1, f"{child}\n".encode())
    _end(children)
    return 0


def _fork(order: dict[str, Any]) -> int:
    """Start a scoring process; return its id."""
    child = os.fork()
    if child:
        with contextlib.suppress(OSError):  # it does so itself; whoever is first
            os.setpgid(child, child)
        return child
    code = 1
    try:
        _serve(order)
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    except BaseException:  # noqa: BLE001 - the end of a process: its log is all that is left of it
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _serve(order: dict[str, Any]) -> None:
    """Become a scoring process, as ``python -m uvicorn APPLICATION`` in its folder would be."""
    with contextlib.suppress(OSError):
        os.setpgid(0, 0)  # a group of its own, to be ended with all that it starts
    for number in _ORDERS:
        signal.signal(number, signal.SIG_DFL)
    nothing = os.open(os.devnull, os.O_RDONLY)
    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(nothing, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.chdir(order["folder"])
    sys.path.insert(0, "")
    os.environ.clear()
    os.environ.update(order["environment"])
    random.seed()  # not what its siblings have
    uvicorn = importlib.import_module("uvicorn")
    uvicorn.run(order["application"], host="127.0.0.1", port=order["port"])


def _reap(children: set[int]) -> None:
    for child in list(children):
        if os.waitpid(child, os.WNOHANG)[0]:
            children.discard(child)
            _signal(child, signal.SIGKILL)  # whatever it left behind in its group


def _end(children: set[int]) -> None:
    for child in children:
        _signal(child, signal.SIGTERM)
    deadline = time.monotonic() + GRACE_S
    while children and time.monotonic() < deadline:
        _reap(children)
        time.sleep(0.02)
    for child in children:
        _signal(child, signal.SIGKILL)
        os.waitpid(child, 0)


def _signal(child: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child, number)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
