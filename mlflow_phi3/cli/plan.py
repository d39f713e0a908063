"""``mlflow-phi3 plan``: what a sweep will take, before anything is spent."""

import typer
from rich.console import Console
from rich.table import Table

from mlflow_phi3.cli.reference import parameters
from mlflow_phi3.config.parse import parse_arguments
from mlflow_phi3.config.plan import PlanWord
from mlflow_phi3.workflows.entry import settle

app = typer.Typer(name="plan", help="Tokens, steps, memory, disk, hours, money.")

# As the feature words: our own schemas parse, with the same messages.
_PASS_THROUGH = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


@app.command("plan", context_settings=_PASS_THROUGH)
def plan_command(context: typer.Context) -> None:
    """Tell tokens, steps, memory, disk, hours and money before anything is spent.

    Takes every parameter of `sweep`, so that a sweep is planned by its own words.
    """
    if "--help" in context.args:
        _show_parameters()
        return
    arguments = ["--output=json" if word == "--json" else word for word in context.args]
    config = parse_arguments(PlanWord, arguments)
    settle(config.model)
    from mlflow_phi3.workflows.plan import run

    run(config)


def _show_parameters() -> None:
    console = Console()
    console.print("[bold]mlflow-phi3 plan[/] --name value ...\nParameters of sweep, and:")
    table = Table("parameter", "default", "meaning", show_lines=True)
    for parameter in parameters(PlanWord):
        table.add_row(parameter.name, parameter.default, parameter.meaning)
    console.print(table)
