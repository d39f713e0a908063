"""All cores at work on the pieces; in order, and nothing left behind when it is stopped."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.process import BaseProcess

from mlflow_phi3.data.work import Outcome, Piece, Settings, Worker
from mlflow_phi3.errors import DataError

# Below this, starting processes takes longer than the work.
_ALONE_BYTES = 12 << 20
_AHEAD = 4  # pieces in flight for each process: enough to keep it busy, few to keep in memory
_GRACE_S = 5.0  # between being asked to end and being ended
_worker: Worker | None = None


def work_pieces(
    settings: Settings, pieces: Sequence[Piece], *, size_bytes: int
) -> Generator[Outcome]:
    """Prepare all pieces; the outcomes come in the order of the pieces.

    Args:
        settings: What every piece is prepared with.
        pieces: The pieces.
        size_bytes: Size of all sources, which decides whether processes are worth starting.

    Raises:
        DataError: A process ended before its work did.
    """
    count = settings.config.prepare_workers or _count_cores()
    count = min(count, len(pieces))
    if count < 2 or (size_bytes < _ALONE_BYTES and not settings.config.prepare_workers):
        yield from map(Worker(settings).prepare, pieces)
        return
    # Spawned, not forked: the caller's threads (torch, tokenizers) do not survive a fork.
    context = multiprocessing.get_context("spawn")
    others = set(multiprocessing.active_children())
    executor = ProcessPoolExecutor(count, context, _begin, (settings, os.getpid()))
    try:
        yield from _in_order(executor.submit, pieces, ahead=count * _AHEAD)
    except BrokenProcessPool as error:
        raise DataError(
            "PHI3-D050",
            "a process that prepares data ended early, perhaps for want of memory",
            fix="set prepare_workers=1, or free memory",
        ) from error
    finally:
        executor.shutdown(wait=False, cancel_futures=True)
        # Not the executor's own list: an interrupt may come before a new process is entered there.
        _end(set(multiprocessing.active_children()) - others)


def _count_cores() -> int:
    """The cores that this process may use; all of them where the system does not say."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _end(processes: Collection[BaseProcess]) -> None:
    for process in processes:
        process.terminate()
    for process in processes:
        process.join(_GRACE_S)
        if process.is_alive():
            process.kill()
            process.join()


def _in_order(
    submit: Callable[[Callable[[Piece], Outcome], Piece], Future[Outcome]],
    pieces: Sequence[Piece],
    *,
    ahead: int,
) -> Iterator[Outcome]:
    waiting: list[Future[Outcome]] = []
    for piece in pieces:
        waiting.append(submit(_prepare, piece))
        if len(waiting) >= ahead:
            yield waiting.pop(0).result()
    for future in waiting:
        yield future.result()


def _begin(settings: Settings, parent: int) -> None:
    """Set up a process: one thread, no signals of its own, no life after its parent's."""
    global _worker  # noqa: PLW0603 - a process's one tokenizer: an initializer can hand it on no other way
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    _worker = Worker(settings)


def _prepare(piece: Piece) -> Outcome:
    if _worker is None:
        raise RuntimeError("the process was not set up")
    return _worker.prepare(piece)


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
