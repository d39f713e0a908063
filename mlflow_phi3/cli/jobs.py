"""``mlflow-phi3 list | show | delete | cancel``: the jobs and tuned models of a project."""

import json
import shlex
import sys
from dataclasses import asdict
from typing import Any

import typer

from mlflow_phi3.azure.finetuning import base_name
from mlflow_phi3.azure.target import SCHEME
from mlflow_phi3.cli.options import AS_JSON, TARGET
from mlflow_phi3.errors import UsageError
from mlflow_phi3.foundry.project import open_project
from mlflow_phi3.foundry.tuned import Inventory, Removal
from mlflow_phi3.workflows.jobs import describe, find_removal, remove
from mlflow_phi3.workflows.screen import Screen

app = typer.Typer()

_NAME = typer.Argument(..., help="A job, or a tuned model as name:version.")
_JOB = typer.Argument(..., help="A job, as `mlflow-phi3 list` names it.")
_CASCADE = typer.Option(False, "--cascade", help="Delete what serves the model first.")
_DRY_RUN = typer.Option(False, "--dry-run", help="Only show what would be deleted.")
_YES = typer.Option(False, "--yes", "-y", help="Do not ask.")
_TIMEOUT_S = typer.Option(1800.0, "--timeout-s", min=1, help="How long to wait in all, seconds.")


@app.command("list")
def list_command(*, target: str = TARGET, as_json: bool = AS_JSON) -> None:
    """List the fine-tuning jobs and the models that they made, newest first."""
    inventory = Inventory(open_project(target))
    jobs, models = inventory.service.list_jobs(), inventory.service.tuned_models()
    served = {model.id: [str(place) for place in inventory.deployed(model)] for model in models}
    if as_json:
        rows = [{**asdict(model), "served_by": served[model.id]} for model in models]
        typer.echo(json.dumps({"jobs": [asdict(job) for job in jobs], "models": rows}, indent=2))
        return
    screen = Screen()
    _list(
        screen,
        "Fine-tuning jobs",
        ["job", "status", "base model", "makes", "created"],
        [[j.name, j.status, base_name(j.base), j.output, j.created[:19]] for j in jobs],
    )
    _list(
        screen,
        "Tuned models",
        ["model", "base model", "job", "served by"],
        [
            [
                f"{m.name}:{m.version}",
                base_name(m.base),
                m.job,
                ", ".join(served[m.id]) or "nothing",
            ]
            for m in models
        ],
    )
    if not jobs and not models:
        more = "" if target == SCHEME else f" --azure_target {shlex.quote(target)}"
        screen.say(f"  Begin    mlflow-phi3 train --backend foundry{more}")


@app.command("show")
def show_command(name: str = _NAME, *, target: str = TARGET, as_json: bool = AS_JSON) -> None:
    """Show all that is known of a job or a tuned model."""
    facts = describe(Inventory(open_project(target)), name)
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
        return
    rows = [[key, _text(value)] for key, value in facts.items() if value]
    Screen().table(name, ["fact", "value"], rows)


@app.command("delete")
def delete_command(
    name: str = _NAME,
    *,
    cascade: bool = _CASCADE,
    dry_run: bool = _DRY_RUN,
    yes: bool = _YES,
    target: str = TARGET,
    timeout_s: float = _TIMEOUT_S,
) -> None:
    """Delete a job or a tuned model; --cascade deletes what serves the model first."""
    inventory = Inventory(open_project(target), timeout_s=timeout_s)
    removal = find_removal(inventory, name, cascade=cascade)
    typer.echo("\n".join(removal.lines()))
    if dry_run:
        return
    if removal.model is not None and not yes:
        _ask(removal)
    remove(inventory, removal, lambda line: typer.echo(line, err=True))


@app.command("cancel")
def cancel_command(name: str = _JOB, *, target: str = TARGET) -> None:
    """Ask Azure to stop a job; what it trained so far is lost."""
    inventory = Inventory(open_project(target))
    inventory.service.require(name)
    inventory.service.cancel(name)
    state = inventory.service.get(name)
    typer.echo(f"{name}: {state.status if state else 'gone'}")


def _list(screen: Screen, title: str, columns: list[str], rows: list[list[str]]) -> None:
    if rows:
        screen.table(title, columns, rows)
    else:
        screen.say(f"{title}: none")


def _ask(removal: Removal) -> None:
    """Let the person say whether a tuned model may go.

    Raises:
        UsageError: Nobody is there to say so.
        typer.Abort: It may not.
    """
    if not sys.stdin.isatty():
        raise UsageError(
            "PHI3-U791",
            "a tuned model is deleted only when somebody says so, and there is no terminal to ask",
            where="delete",
            fix="add --yes if that is what you want",
        )
    requests = "Requests to these endpoints will fail. " if removal.deployments else ""
    question = f"{requests}A deleted model has to be trained, and paid for, anew. Go on?"
    typer.confirm(question, abort=True)


def _text(value: Any) -> str:
    return ", ".join(value) if isinstance(value, list) else str(value)
