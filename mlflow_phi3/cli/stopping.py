"""Orders to stop (Ctrl-C, SIGTERM), as the commands that keep a run take them."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from mlflow_phi3.errors import Interrupted
from mlflow_phi3.tracking.signals import stoppable
from mlflow_phi3.workflows.entry import tell


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
        tell(stop, sys.argv[1:])
        raise typer.Exit(stop.exit_code) from None
