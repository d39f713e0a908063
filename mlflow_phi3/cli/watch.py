"""``mlflow-phi3 watch``: take a fine-tuning job up again."""

from typing import Literal

import typer

from mlflow_phi3.cli.options import TARGET
from mlflow_phi3.cli.stopping import told_to_stop
from mlflow_phi3.config.context import ContextConfig
from mlflow_phi3.config.foundry import FoundryConfig
from mlflow_phi3.config.parse import parse_values
from mlflow_phi3.workflows.context import open_context
from mlflow_phi3.workflows.entry import quieten_libraries
from mlflow_phi3.workflows.watch import watch

app = typer.Typer()

_JOB = typer.Argument("", help="The job, or its run; empty takes the newest that has not ended.")
_ON_INTERRUPT = typer.Option("leave", help="What Ctrl-C does to the job: leave or cancel.")
_HOURS = typer.Option(24.0, help="Hours to follow it; the job goes on after that.")


@app.command("watch")
def watch_command(
    job: str = _JOB,
    *,
    target: str = TARGET,
    on_interrupt: str = _ON_INTERRUPT,
    job_timeout_hours: float = _HOURS,
    output: Literal["auto", "plain", "json"] = typer.Option(
        "auto", help="How progress is shown: auto, plain or json."
    ),
) -> None:
    """Follow a job to its end: its status and metrics go to its run, its model to the registry."""
    quieten_libraries("demo")
    values = {
        "azure_target": target,
        "on_interrupt": on_interrupt,
        "job_timeout_hours": job_timeout_hours,
    }
    config = parse_values(FoundryConfig, values)
    with told_to_stop():
        watch(job, config, open_context(ContextConfig(output=output)))
