"""What the SDK prints (dots, warnings of experimental classes, log lines) stays in here."""

import contextlib
import io
import logging
import os
import warnings
from collections.abc import Iterator, Mapping


@contextlib.contextmanager
def applied(environment: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables while the SDK works, and put back what was there.

    The SDK reads its cloud's settings from the environment at every call, and writes
    ``AZUREML_CURRENT_CLOUD`` itself, which would pin later clients to this cloud: that is put back
    too.
    """
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
def quiet() -> Iterator[None]:
    """Keep the SDK's output from the person."""
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
            yield
    finally:
        for logger, was in zip(loggers, were, strict=True):
            logger.disabled = was
