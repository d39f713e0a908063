"""``mlflow-phi3 monitor``: how a deployment fares, as an MLflow run that can be scheduled."""

import datetime as dt
import math
from dataclasses import asdict
from typing import TYPE_CHECKING

import typer

from mlflow_phi3.azure.target import flag
from mlflow_phi3.cli.options import AS_JSON, TARGET
from mlflow_phi3.cli.stopping import told_to_stop
from mlflow_phi3.config.monitor import MonitorConfig
from mlflow_phi3.config.parse import parse_values
from mlflow_phi3.errors import GateError
from mlflow_phi3.evaluation.notation import count_of, show_short
from mlflow_phi3.workflows.entry import quieten_libraries
from mlflow_phi3.workflows.screen import Screen

if TYPE_CHECKING:
    from mlflow_phi3.workflows.monitor import Outcome

app = typer.Typer()

_NAME = typer.Argument(..., help="The endpoint.")
_LIMIT = typer.Option(
    [], "--limit", help="Largest value allowed: monitor/error_rate=0.05. May be repeated."
)


@app.command("monitor")
def monitor_command(  # noqa: PLR0913 - one option each
    name: str = _NAME,
    *,
    deployment: str = typer.Option("", help="Only this deployment of it."),
    hours: float = typer.Option(24.0, help="How many hours to look back."),
    log: str = typer.Option("", help="JSONL file of an application's calls (docs/monitor.md)."),
    train_data: str = typer.Option("", help="Training data to measure drift against."),
    limit: list[str] = _LIMIT,
    price_model: str = typer.Option(
        "", help="Model whose price per token the cost is reckoned at."
    ),
    usd_per_hour: float = typer.Option(
        0.0, help="What an hour of the whole endpoint costs, US dollars."
    ),
    target: str = TARGET,
    as_json: bool = AS_JSON,
) -> None:
    """Log requests, latency, errors, tokens, refusals, cost and drift of a deployment as a run.

    Exit code 6 when a figure is beyond its `--limit`: let cron or a pipeline call it.
    """
    quieten_libraries("demo")
    values = {
        "endpoint": name,
        "deployment": deployment,
        "target": target,
        "hours": hours,
        "log": log,
        "train_data": train_data,
        "limits": tuple(limit),
        "price_model": price_model,
        "usd_per_hour": usd_per_hour,
    }
    config = parse_values(MonitorConfig, values)
    from mlflow_phi3.workflows.monitor import run, to_json

    with told_to_stop():
        outcome = run(config, dt.datetime.now(dt.UTC))
    if as_json:
        typer.echo(to_json(outcome))
    else:
        _show(outcome, f"{name}, the last {hours:g} h")
    if outcome.exceeded:
        raise GateError(
            "PHI3-G762",
            "; ".join(outcome.exceeded),
            where=f"endpoint {name}",
            fix=f"look at run {outcome.run_id}; mlflow-phi3 rollback {name}{flag(target)} takes "
            "the last move of a managed endpoint back, train --continue_from takes newer data in",
        )


def _show(outcome: "Outcome", title: str) -> None:
    """The figures as tables, where they are from, and the run that holds them."""
    screen = Screen()
    traffic = asdict(outcome.measured.traffic)
    rows = [[f"monitor/{key}", _short(value)] for key, value in traffic.items()]
    screen.table(title, ["figure", "value"], rows)
    if outcome.measured.drifts:
        screen.table(
            f"Drift of {count_of(outcome.measured.prompts, 'prompt')}",
            ["figure", "value", "usual", "reading", "note"],
            [
                [f"drift/{d.name}", _short(d.value), _short(d.usual), d.reading, d.note]
                for d in outcome.measured.drifts
            ],
        )
    for source in outcome.sources:
        typer.echo(source)
    typer.echo(f"run {outcome.run_id}")


def _short(value: float) -> str:
    return "not known" if math.isnan(value) else show_short(value)
