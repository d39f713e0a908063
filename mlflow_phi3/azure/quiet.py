"""The process while the SDK works: with its settings, and without what it would print.

That is dots, warnings of experimental classes and log lines.
"""

import contextlib
import io
import logging
import os
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any


class _Shared:
    """A change of the whole process that threads share: the first makes it, the last undoes it.

    Each for itself would put back what another had changed, and the process would keep that. A
    thread that wants another change waits until nobody is inside; one that is inside itself never
    waits, so that two cannot wait for each other, and makes its own for as long as it needs it.
    """

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._inside: list[int] = []
        self._settings: Mapping[str, str] = {}
        self._made = contextlib.ExitStack()

    @contextlib.contextmanager
    def held(
        self,
        change: Callable[[], contextlib.AbstractContextManager[None]],
        settings: Mapping[str, str],
    ) -> Iterator[None]:
        """Hold a change that ``settings`` tells from others; nothing is locked meanwhile."""
        me = threading.get_ident()
        with self._condition:
            self._condition.wait_for(
                lambda: not self._inside or self._settings == settings or me in self._inside
            )
            if not self._inside:
                self._made.enter_context(change())
                self._settings = dict(settings)
            own = change() if self._settings != settings else contextlib.nullcontext()
            self._inside.append(me)
        try:
            with own:
                yield
        finally:
            with self._condition:
                self._inside.remove(me)
                if not self._inside:
                    self._made.close()
                    self._condition.notify_all()


# Of the process, as are its environment and its output.
_environment = _Shared()
_output = _Shared()


def applied(environment: Mapping[str, str]) -> contextlib.AbstractContextManager[None]:
    """Set environment variables while the SDK works, and put back what was there.

    The SDK reads its cloud's settings from the environment at every call, and writes
    ``AZUREML_CURRENT_CLOUD`` itself, which would pin later clients to this cloud: that is put back
    too. Threads with other settings wait.
    """
    return _environment.held(partial(_set, environment), environment)


def quiet() -> contextlib.AbstractContextManager[None]:
    """Keep the SDK's output from the person, also what pollers that begin here print later."""
    return _output.held(_silence, {})


@contextlib.contextmanager
def _set(environment: Mapping[str, str]) -> Iterator[None]:
    touched = {*environment, "AZUREML_CURRENT_CLOUD"}
    before = {name: os.environ.get(name) for name in touched}
    os.environ.update(environment)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    loggers = [
        logger
        for name, logger in logging.root.manager.loggerDict.items()
        if name.split(".")[0] in {"azure", "msal", "msrest"} and isinstance(logger, logging.Logger)
    ]
    were = [logger.disabled for logger in loggers]
    for logger in loggers:
        logger.disabled = True
    try:
        with (
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            with _without_dots(), _without_search():
                yield
    finally:
        for logger, was in zip(loggers, were, strict=True):
            logger.disabled = was


@contextlib.contextmanager
def _without_dots() -> Iterator[None]:
    """Make pollers that print no dots: theirs come from a thread, for as long as Azure works."""
    from azure.ai.ml._utils._azureml_polling import AzureMLPolling
    from azure.mgmt.core.polling.arm_polling import ARMPolling

    polling: Any = AzureMLPolling
    begin = polling.__init__

    def begin_silently(self: Any, *args: Any, **options: Any) -> None:
        begin(self, *args, **options)
        self.update_status = partial(ARMPolling.update_status, self)

    polling.__init__ = begin_silently
    try:
        yield
    finally:
        polling.__init__ = begin


@contextlib.contextmanager
def _without_search() -> Iterator[None]:
    """Spare the SDK the search through the stack by which it decides whether to warn.

    Each use of an experimental class makes it, for a warning that nobody sees here.
    """
    from azure.ai.ml._utils import _experimental

    search = _experimental._should_skip_warning  # noqa: SLF001 - there is no public way
    _experimental._should_skip_warning = lambda: True  # noqa: SLF001 - as above
    try:
        yield
    finally:
        _experimental._should_skip_warning = search  # noqa: SLF001 - as above
