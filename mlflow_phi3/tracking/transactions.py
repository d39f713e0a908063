"""Whether the main thread is in the midst of a database transaction, whichever library began it.

An order to stop is an exception that rises anywhere. Inside a transaction it leaves a connection
that holds its locks for as long as the traceback lives, and whoever closes the runs then waits for
those locks in vain.
"""

import threading
from typing import Any
from weakref import WeakSet

_taken: WeakSet[Any] = WeakSet()


def observe_transactions() -> None:
    """From now on know of each connection that the main thread takes out of a SQLAlchemy pool.

    Source: https://docs.sqlalchemy.org/en/20/core/events.html#sqlalchemy.events.PoolEvents.
    """
    from sqlalchemy import event
    from sqlalchemy.pool import Pool

    if not event.contains(Pool, "checkout", _took):
        event.listen(Pool, "checkout", _took)
        event.listen(Pool, "checkin", _gave_back)


def is_in_transaction() -> bool:
    """Whether the main thread holds a connection."""
    return bool(_taken)


def _took(_connection: Any, record: Any, _proxy: Any) -> None:
    if threading.current_thread() is threading.main_thread():
        _taken.add(record)


def _gave_back(_connection: Any, record: Any) -> None:
    _taken.discard(record)
