"""``mlflow-phi3 plan``: what a sweep will take, before anything is spent."""

import typer

from mlflow_phi3.cli.lazy import HELP_OPTIONS, PASS_THROUGH
from mlflow_phi3.cli.parameter_help import show_help
from mlflow_phi3.config.parse import parse_arguments
from mlflow_phi3.config.plan import PlanWord
from mlflow_phi3.workflows.entry import quieten_libraries, sources_of

app = typer.Typer()


@app.command("plan", context_settings=PASS_THROUGH)
def plan_command(context: typer.Context) -> None:
    """Tell tokens, steps, memory, disk, hours and money before anything is spent.

    Takes every parameter of `sweep`, so that a sweep is planned by its own words.
    """
    if HELP_OPTIONS & set(context.args):
        summary = "Tokens, steps, memory, disk, hours and money of a sweep."
        show_help("plan", summary, PlanWord, "As JSON, for programs: mlflow-phi3 plan --json")
        return
    arguments = ["--output=json" if word == "--json" else word for word in context.args]
    config = parse_arguments(PlanWord, arguments)
    quieten_libraries(config.model, sources_of(config))
    from mlflow_phi3.workflows.plan import run

    run(config)
