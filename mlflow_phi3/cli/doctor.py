"""``mlflow-phi3 doctor``: what stands in the way, before anything is spent."""

import dataclasses
import datetime as dt
import json
import sys
from importlib import metadata

import typer
from packaging.requirements import Requirement
from rich.markup import escape
from rich.text import Text

from mlflow_phi3.azure.checks import Check, Needs
from mlflow_phi3.azure.client import Workspace
from mlflow_phi3.azure.preflight import Doctor
from mlflow_phi3.azure.registry import look_up_offers
from mlflow_phi3.cli.target import AS_JSON, TARGET
from mlflow_phi3.errors import AzureError, PreflightError
from mlflow_phi3.foundry.offers import Tuning, tuning_of
from mlflow_phi3.foundry.project import find_place
from mlflow_phi3.modeling.catalog import PhiModel, describe
from mlflow_phi3.workflows.screen import Screen

app = typer.Typer()

_PACKAGES = ("azure-ai-ml", "azure-identity", "azure-storage-blob", "mlflow")
_MARKS = {"ok": "[green]✓[/]", "failed": "[red]✗[/]", "fixed": "[green]✓[/]", "skipped": "-"}


@app.command("doctor")
def doctor_command(
    *,
    target: str = TARGET,
    model: str = typer.Option("Phi-4-mini-instruct", help="The model to be tuned by Foundry."),
    instance_type: str = typer.Option(
        "Standard_NC24ads_A100_v4", help="Machine type to be deployed on."
    ),
    instance_count: int = typer.Option(1, min=1, help="How many machines."),
    fix: bool = typer.Option(False, "--fix", help="Register missing resource providers."),
    as_json: bool = AS_JSON,
) -> None:
    """Check subscription, project, region, permissions, providers, quota, storage and clock.

    Each check tells what was found, what is needed, which step it blocks and how to mend it.
    Exit code 4 when one fails. `--fix` registers resource providers, which costs nothing.
    """
    known = describe(model)
    account = find_place(target).open_account()
    tuning = _tuning(account, known)
    needs = Needs(
        model=known.name,
        regions=tuning.regions,
        regions_as_of=f"{tuning.source}, {tuning.as_of}",
        refusal=tuning.why_not,
        instead=tuning.instead,
        instance_type=instance_type,
        instance_count=instance_count,
        versions=installed_versions(),
        wanted_versions=wanted_versions(),
    )
    doctor = Doctor(account, needs, lambda: dt.datetime.now(dt.UTC), fix)
    checks = list(doctor.checks())
    failed = [check for check in checks if check.state == "failed"]
    if as_json:
        typer.echo(json.dumps([dataclasses.asdict(check) for check in checks], indent=2))
        raise typer.Exit(PreflightError.exit_code if failed else 0)
    _show(checks)
    if failed:
        names = ", ".join(check.name for check in failed)
        raise PreflightError(
            "PHI3-P720",
            f"{len(failed)} of {len(checks)} checks failed: {names}",
            where=target,
            fix="see each one's mend above, then run doctor again",
        )


def _tuning(account: Workspace, model: PhiModel) -> Tuning:
    """Whether Foundry tunes a model: by the catalog where the registry does not answer."""
    try:
        return tuning_of(model, look_up_offers(account, (model.name,)))
    except AzureError:  # what is wrong with the account is the checks' to tell
        return tuning_of(model, None)


def wanted_versions() -> dict[str, str]:
    """The versions of the packages that are looked at which this package asks for."""
    asked = map(Requirement, metadata.requires("mlflow-phi3") or ())
    return {one.name: str(one.specifier) for one in asked if one.name in _PACKAGES}


def installed_versions() -> dict[str, str]:
    """Versions of the packages that are looked at; those that are missing are left out."""
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _show(checks: list[Check]) -> None:
    screen = Screen()
    rows: list[list[str | Text]] = [
        [Text.from_markup(f"{_MARKS[c.state]} {escape(c.name)}"), c.found, c.needed] for c in checks
    ]
    screen.table(f"Python {sys.version.split()[0]}", ["check", "found", "needed"], rows)
    for check in checks:
        if check.state == "failed":
            screen.say(
                f"[red]✗[/] [bold]{check.name}[/]: found {escape(check.found)}; "
                f"needed {escape(check.needed)}. Blocks: {', '.join(check.blocks)}. "
                f"Fix: {escape(check.fix)}."
            )
