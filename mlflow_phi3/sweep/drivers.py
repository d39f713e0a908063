"""Drivers: the processes that work on a study, and which of them still live.

A trial that runs carries its driver's name. Where its process can be seen, a driver that is gone is
seen at once; from another machine or container by its heartbeat, a study attribute renewed by a
thread. A storage that was away has heard of nobody, so others' hearts are compared with one's own.
"""

import json
import math
import socket
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from typing import Any

from optuna import Study

from mlflow_phi3.processes import Process, this_process

HEARTBEAT_S = 15.0
# Four missed beats: a driver that swaps or waits for its database is not yet dead.
GRACE_S = 60.0
_PREFIX = "driver:"


@dataclass(frozen=True, slots=True)
class Driver:
    """One process that works on a study.

    Args:
        name: Unique for ever.
        process: Where it is.
    """

    name: str
    process: Process


def this_driver() -> Driver:
    """The driver that the calling process is; a new one at each call."""
    return Driver(uuid.uuid4().hex[:12], this_process())


@contextmanager
def beating(study: Study, driver: Driver, *, every_s: float = HEARTBEAT_S) -> Iterator[None]:
    """Tell the study, inside the block, that ``driver`` lives, and since when.

    Raises:
        KeyboardInterrupt: As it came, with a note that says how the study is gone on with.
    """
    stop = threading.Event()
    began = last = time.time()

    def beat() -> None:
        nonlocal last
        now = time.time()
        times = {"began_at": began, "before_at": last, "beat_at": now}
        told = json.dumps({**asdict(driver.process), **times})
        study.set_user_attr(_PREFIX + driver.name, told)
        last = now

    def go_on() -> None:
        while not stop.wait(every_s):
            with suppress(Exception):  # a storage that is away for a while; the next may reach it
                beat()

    beat()
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
            beat()


def is_alive(name: str, attrs: Mapping[str, Any], *, now: float) -> bool:
    """Whether the driver called ``name`` still worked at ``now``, judging by the study's attrs."""
    text = attrs.get(_PREFIX + name)
    if text is None:
        return False
    facts = json.loads(text)
    process = Process(**{field.name: facts[field.name] for field in fields(Process)})
    return process.runs() if process.is_visible() else bool(now - facts["beat_at"] < GRACE_S)


def heard_until(name: str, attrs: Mapping[str, Any]) -> float:
    """The beat before the last of the driver called ``name``; the present of one without any.

    Until then the study could be told, and whoever else lives has told it since.
    """
    return float(json.loads(attrs.get(_PREFIX + name, "{}")).get("before_at", time.time()))


def worked_here(name: str, attrs: Mapping[str, Any]) -> bool:
    """Whether the driver called ``name`` worked on this machine, judging by the study's attrs."""
    facts = json.loads(attrs.get(_PREFIX + name, "{}"))
    return bool(facts.get("host") == socket.gethostname())


def spent_by_others(attrs: Mapping[str, Any], name: str) -> float:
    """Seconds that drivers other than ``name`` have worked on the study, as far as they told."""
    keys = [key for key in attrs if key.startswith(_PREFIX) and key != _PREFIX + name]
    told = [json.loads(attrs[key]) for key in keys]
    return math.fsum(max(0.0, one["beat_at"] - one["began_at"]) for one in told)
