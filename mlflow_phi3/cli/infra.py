"""``mlflow-phi3 infra``: a project to tune in, and the hub it needs."""

import dataclasses
import json
from dataclasses import replace

import typer
from rich.markup import escape

from mlflow_phi3.azure.infra_wanted import CREATE, SKIP, WantedInfra
from mlflow_phi3.azure.target import shell_settings
from mlflow_phi3.cli.options import AS_JSON, TARGET
from mlflow_phi3.foundry.project import find_place
from mlflow_phi3.workflows.infra import build_project
from mlflow_phi3.workflows.screen import Screen

app = typer.Typer()


@app.command("infra")
def infra_command(  # noqa: PLR0913 - one option each
    *,
    target: str = TARGET,
    project: str = typer.Option("", help="Name of the project; by default the target's."),
    group: str = typer.Option("", help="Resource group; by default the target's."),
    hub: str = typer.Option(
        "",
        help="Name of the hub; by default the project's, or a new one named after it with `-hub`.",
    ),
    location: str = typer.Option("", help="Azure region; by default that of what exists."),
    ai_services: str = typer.Option(
        CREATE, help="AI Services: `create`, `skip`, or the resource id of an account."
    ),
    search: str = typer.Option(SKIP, help="AI Search: `skip`, or the address of a service."),
    timeout_s: float = typer.Option(1800.0, min=1, help="How long to wait in all, seconds."),
    dry_run: bool = typer.Option(False, "--dry-run", help="Only tell what would be created."),
    as_json: bool = AS_JSON,
) -> None:
    """Create resource group, AI Services, hub, connections and project, where they are missing.

    What exists is left as it is, and what Azure is still creating is waited for: the command can
    be run again, also after a failure.
    """
    place = find_place(target)
    found = replace(
        place.target,
        group=group or place.target.group,
        project=project or place.target.project,
    )
    screen = Screen("json" if as_json else "auto")
    steps = build_project(
        replace(place, target=found),
        WantedInfra(found, hub, location, ai_services, search),
        timeout_s=timeout_s,
        dry_run=dry_run,
        tell=screen.say,
    )
    if as_json:
        told = [dataclasses.asdict(step) for step in steps]
        typer.echo(json.dumps({"dry_run": dry_run, "target": found.path, "steps": told}))
        return
    if dry_run:
        for step in steps:
            screen.say(f"would {step}\n  {step.path}")
    if not steps:
        screen.say("Nothing to do: hub and project are there.")
    if not dry_run:
        settings = escape(shell_settings(found, emulated=place.emulated))
        screen.say(f"\n# For the commands that follow, in this shell and others:\n{settings}")
