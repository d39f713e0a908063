"""``mlflow-phi3 promote | rollback | reap``: what MLflow's own command line has no word for."""

import datetime as dt
from functools import partial
from typing import TYPE_CHECKING

import typer

from mlflow_phi3.cli.options import TARGET
from mlflow_phi3.config.deploy import DeployConfig
from mlflow_phi3.deployment.names import names_of
from mlflow_phi3.deployment.promote import Moved, promote, rollback

if TYPE_CHECKING:
    from mlflow_phi3.deployment.deployer import Deployer

app = typer.Typer()

_TIMEOUT_S = typer.Option(3600.0, "--timeout-s", min=1, help="How long to wait in all, seconds.")
_NAME = typer.Argument(..., help="The endpoint.")


@app.command("promote")
def promote_command(
    name: str = _NAME,
    *,
    deployment: str = typer.Option(
        "", help="Which deployment; by default the one that does not have all traffic."
    ),
    golden: str = typer.Option("", help="Golden queries that it has to answer first, JSONL."),
    verify: bool = typer.Option(True, help="Check its answers before traffic moves."),
    parity: bool = typer.Option(
        True, help="Compare them with those of the version's certificate too."
    ),
    target: str = TARGET,
    timeout_s: float = _TIMEOUT_S,
) -> None:
    """Give a deployment all traffic and make its model version the champion."""
    deployer, endpoint = _deployer(target), names_of(None, name).endpoint
    service = deployer.movable(endpoint, timeout_s)
    config = DeployConfig(golden=golden, verify=verify, parity=parity)
    check = partial(deployer.managed.examine, endpoint, config)
    _show(promote(service, deployer.registry, endpoint, deployment, check=check, told=_tell))


@app.command("rollback")
def rollback_command(
    name: str = _NAME, *, target: str = TARGET, timeout_s: float = _TIMEOUT_S
) -> None:
    """Take the last move of traffic back, and the champion with it."""
    deployer, endpoint = _deployer(target), names_of(None, name).endpoint
    service = deployer.movable(endpoint, timeout_s)
    _show(rollback(service, deployer.registry, endpoint, target=target, told=_tell))


@app.command("reap")
def reap_command(
    *,
    target: str = TARGET,
    timeout_s: float = _TIMEOUT_S,
    dry_run: bool = typer.Option(False, "--dry-run", help="Only tell what would be deleted."),
) -> None:
    """Delete the endpoints whose ttl_hours are over."""
    deployer = _deployer(target)
    names = deployer.reap(dt.datetime.now(dt.UTC), dry_run=dry_run, timeout_s=timeout_s)
    verb = "would delete" if dry_run else "deleted"
    typer.echo(f"{verb}: {', '.join(names)}" if names else "nothing has expired")


def _deployer(target: str) -> "Deployer":
    from mlflow_phi3.deployment.deployer import Deployer

    return Deployer(target, told=_tell)


def _show(moved: Moved) -> None:
    if moved.before == moved.after:
        typer.echo(f"traffic: {moved.after}, as before")
    else:
        typer.echo(f"traffic: {moved.before or 'nobody'} -> {moved.after}")
    if moved.model:
        typer.echo(f"champion of {moved.model}: version {moved.version}")


def _tell(line: str) -> None:
    typer.echo(line, err=True)
