"""``mlflow-phi3 doctor``: what stands in the way, before anything is spent."""

import dataclasses
import json
import sys

import typer
from rich.markup import escape
from rich.text import Text

from mlflow_phi3.azure.checks import Check
from mlflow_phi3.cli.options import AS_JSON, TARGET
from mlflow_phi3.errors import PreflightError
from mlflow_phi3.foundry.project import find_place
from mlflow_phi3.modeling.catalog import describe
from mlflow_phi3.workflows.doctor import examine
from mlflow_phi3.workflows.screen import Screen

app = typer.Typer()

_MARKS = {"ok": "[green]✓[/]", "failed": "[red]✗[/]", "fixed": "[green]✓[/]", "skipped": "-"}


@app.command("doctor")
def doctor_command(
    *,
    target: str = TARGET,
    model: str = typer.Option("Phi-4-mini-instruct", help="The model that Foundry is to tune."),
    instance_type: str = typer.Option(
        "Standard_NC24ads_A100_v4", help="Machine type of a managed deployment."
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
    checks = examine(
        find_place(target),
        known,
        instance_type=instance_type,
        instance_count=instance_count,
        fix=fix,
    )
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
