"""Orders to stop (Ctrl-C, SIGTERM), as the commands that keep a run take them."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from mlflow_phi3.errors import Interrupted
from mlflow_phi3.tracking.signals import stoppable


@contextmanager
def told_to_stop() -> Iterator[None]:
    """Let an order close what is open, and say in a line why the command ended.

    Raises:
        typer.Exit: There was an order.
    """
    try:
        with stoppable(None):
            yield
    except Interrupted as stop:
        print(stop, *getattr(stop, "__notes__", ()), sep="\n", file=sys.stderr)  # noqa: T201 - the last word belongs on the terminal
        raise typer.Exit(stop.exit_code) from None
