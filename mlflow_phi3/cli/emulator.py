"""``mlflow-phi3 emulator``: an Azure on this machine."""

import json
import os
import shlex

import typer

from mlflow_phi3.cli.options import AS_JSON
from mlflow_phi3.emulator.lifecycle import find_emulator, start_emulator, stop_emulator
from mlflow_phi3.emulator.settings import SUBSCRIPTION, settings_from

app = typer.Typer(
    name="emulator",
    help="Azure AI Foundry on this machine: try every deployment command without an account.",
    no_args_is_help=True,
)
_PROJECT = ("AZURE_RESOURCE_GROUP", "AZUREML_WORKSPACE_NAME")


@app.command()
def start() -> None:
    """Start the emulator in the background, unless it runs."""
    running = start_emulator(settings_from(os.environ))
    typer.echo(f"{running.url} (process {running.pid}, state in {running.home})")


@app.command()
def stop() -> None:
    """Stop it and all scoring processes; endpoints are kept, and serve again after `start`."""
    stopped = stop_emulator(settings_from(os.environ))
    typer.echo("stopped" if stopped else "it did not run")


@app.command()
def status(*, as_json: bool = AS_JSON) -> None:
    """Tell whether it runs, and where; exit code 1 when it does not."""
    running = find_emulator(settings_from(os.environ))
    if as_json:
        found: dict[str, object] = {"running": running is not None}
        if running is not None:
            found |= {"url": running.url, "pid": running.pid, "home": str(running.home)}
        typer.echo(json.dumps(found))
    else:
        typer.echo(f"{running.url} (process {running.pid})" if running else "not running")
    if running is None:
        raise typer.Exit(1)


@app.command()
def env() -> None:
    """Print the settings that lead Azure's own tools to it: eval "$(mlflow-phi3 emulator env)".

    A project of the emulator that the environment names stays the one that is meant. The settings
    hold the secret of the emulator's only application, which is good for nothing else.
    """
    settings = settings_from(os.environ)
    running = start_emulator(settings)
    told = settings.environment(running.port)
    if os.environ.get("AZURE_SUBSCRIPTION_ID") == SUBSCRIPTION:
        told |= {name: os.environ[name] for name in _PROJECT if os.environ.get(name)}
    for name, value in told.items():
        typer.echo(f"export {name}={shlex.quote(value)}")
