"""What a step says at its end: where to look, and what comes next."""

import shlex

from rich.markup import escape

from mlflow_phi3.tracking.run import Run
from mlflow_phi3.tracking.uris import hide_password
from mlflow_phi3.workflows.context import Context


def how_to_look(store: str, run: Run) -> str:
    """What opens the MLflow UI on a tracking store: a server's page of ``run``, else a command."""
    if store.startswith(("http://", "https://")):
        page = f"#/experiments/{run.experiment_id}/runs/{run.run_id}"
        return f"{hide_password(store).rstrip('/')}/{page}"
    return f"mlflow ui --backend-store-uri {shlex.quote(hide_password(store))}"


def show_look(context: Context, run: Run, artifact: str = "") -> None:
    """Say how to look at ``run``, and which of its artifacts is worth it."""
    look = escape(how_to_look(context.tracker.uri, run))
    what = f"{run.name}: {artifact}" if artifact else run.name
    context.screen.say(f"  Look     {look}   [dim]({escape(what)})[/]")


def show_step(context: Context, command: str) -> None:
    """Say which command goes on from here."""
    context.screen.say(f"  Next     {escape(command)}")
