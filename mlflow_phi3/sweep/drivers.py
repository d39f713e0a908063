"""Drivers: the processes that work on a study, and which of them still live.

A trial that runs carries its driver's name. Where its process can be seen, a driver that is gone is
seen at once; from another machine or container by its heartbeat, a study attribute renewed by a
thread.
"""

import json
import math
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

import psutil
from optuna import Study

HEARTBEAT_S = 15.0
# Four missed beats: a driver that swaps or waits for its database is not yet dead.
GRACE_S = 60.0
_PREFIX = "driver:"


@dataclass(frozen=True, slots=True)
class Driver:
    """One process that works on a study.

    Args:
        name: Unique for ever.
        host: Its machine.
        processes: The table of processes that it is in: a container has its own.
        pid: Its process there.
        started: When that process began, in seconds since 1970; tells it from a later one with
            the same number.
    """

    name: str
    host: str
    processes: str
    pid: int
    started: float


def this_driver() -> Driver:
    """The driver that the calling process is; a new one at each call."""
    name, host, began = uuid.uuid4().hex[:12], socket.gethostname(), psutil.Process().create_time()
    return Driver(name, host, _table_of_processes(), os.getpid(), began)


@contextmanager
def beating(study: Study, driver: Driver, *, every_s: float = HEARTBEAT_S) -> Iterator[None]:
    """Tell the study, inside the block, that ``driver`` lives, and since when.

    Raises:
        KeyboardInterrupt: As it came, with a note that says how the study is gone on with.
    """
    stop = threading.Event()
    began = time.time()
    _beat(study, driver, began)

    def go_on() -> None:
        while not stop.wait(every_s):
            with suppress(Exception):  # a storage that is away for a while; the next may reach it
                _beat(study, driver, began)

    thread = threading.Thread(target=go_on, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    except KeyboardInterrupt as order:
        name = study.study_name
        order.add_note(f"The study waits; the same command with study={name} goes on with it.")
        raise
    finally:
        stop.set()
        thread.join(timeout=every_s)
        with suppress(Exception):  # without it a few seconds of its time are not known
            _beat(study, driver, began)


def is_alive(name: str, attrs: Mapping[str, Any], *, now: float, grace_s: float = GRACE_S) -> bool:
    """Whether the driver called ``name`` still works, judging by the study's ``attrs``."""
    text = attrs.get(_PREFIX + name)
    if text is None:
        return False
    facts = json.loads(text)
    beat_at = facts["beat_at"]
    driver = Driver(**{field.name: facts[field.name] for field in fields(Driver)})
    if (driver.host, driver.processes) == (socket.gethostname(), _table_of_processes()):
        return _runs_here(driver)
    return bool(now - beat_at < grace_s)


def worked_here(name: str, attrs: Mapping[str, Any]) -> bool:
    """Whether the driver called ``name`` worked on this machine, judging by the study's attrs."""
    facts = json.loads(attrs.get(_PREFIX + name, "{}"))
    return bool(facts.get("host") == socket.gethostname())


def spent_by_others(attrs: Mapping[str, Any], name: str) -> float:
    """Seconds that drivers other than ``name`` have worked on the study, as far as they told."""
    told = [json.loads(text) for key, text in attrs.items() if key.startswith(_PREFIX)]
    others = [facts for facts in told if facts["name"] != name]
    return math.fsum(max(0.0, one["beat_at"] - one["began_at"]) for one in others)


def _beat(study: Study, driver: Driver, began: float) -> None:
    facts = {**asdict(driver), "began_at": began, "beat_at": time.time()}
    study.set_user_attr(_PREFIX + driver.name, json.dumps(facts))


@cache
def _table_of_processes() -> str:
    """Names the kernel and the namespace in which process numbers mean what they do here."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:  # not Linux: the machine is all that there is
        return ""


def _runs_here(driver: Driver) -> bool:
    try:
        process = psutil.Process(driver.pid)
        same = abs(process.create_time() - driver.started) < 1.0
        return bool(same and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
