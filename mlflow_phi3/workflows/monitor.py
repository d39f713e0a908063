"""``monitor``: look at a deployment, log a run, say whether a limit is exceeded."""

import datetime as dt
import json
import math
from dataclasses import dataclass
from pathlib import Path

from mlflow_phi3.azure.client import Workspace
from mlflow_phi3.azure.collected import read_collected
from mlflow_phi3.azure.metrics import Minute, get_minutes
from mlflow_phi3.azure.online import OnlineService
from mlflow_phi3.azure.operation import READ_TIMEOUT_S, Deadline
from mlflow_phi3.azure.resource_manager import ResourceManager
from mlflow_phi3.azure.serverless import ServerlessService
from mlflow_phi3.config.context import ContextConfig
from mlflow_phi3.config.monitor import MonitorConfig
from mlflow_phi3.config.prepare import PrepareConfig
from mlflow_phi3.data import pipeline
from mlflow_phi3.data.jsonl import read_lines
from mlflow_phi3.errors import UsageError
from mlflow_phi3.evaluation.notation import count_of
from mlflow_phi3.foundry.project import open_project
from mlflow_phi3.modeling.base import DEMO, load_tokenizer
from mlflow_phi3.modeling.catalog import describe as describe_model
from mlflow_phi3.monitoring.calls import Call, read_calls
from mlflow_phi3.monitoring.limits import find_exceeded, parse_limits
from mlflow_phi3.monitoring.measure import Measured, describe, figure_names, measure
from mlflow_phi3.monitoring.traffic import Tariff
from mlflow_phi3.tracking.tracker import Tracker, open_tracker
from mlflow_phi3.workflows.context import stamp

REPORT = "monitor/report.json"
_NO_HOSTING = "price: hosting by the hour not given (--usd-per-hour): cost is of tokens alone"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a look brought.

    Args:
        measured: The figures.
        exceeded: In words, the limits that are exceeded.
        run_id: The MLflow run.
        sources: Where the figures and prices are from.
    """

    measured: Measured
    exceeded: tuple[str, ...]
    run_id: str
    sources: tuple[str, ...]


def run(config: MonitorConfig, now: dt.datetime, *, tracker: Tracker | None = None) -> Outcome:
    """Look at a deployment and log what was found as a run.

    Args:
        config: What to look at.
        now: End of the window.
        tracker: Where the run goes; None opens MLflow's own.

    Raises:
        UsageError: No such endpoint, or a limit of an unknown figure.
        AzureError: A service refuses or does not answer.
    """
    limits = parse_limits(config.limits, figure_names())
    start = now - dt.timedelta(hours=config.hours)
    tracker = tracker or open_tracker()
    facts = {"phi3.endpoint": config.endpoint, "phi3.deployment": config.deployment}
    with tracker.stage(f"monitor-{stamp()}", stage="monitor", tags=facts) as log:
        log.log_params(config.model_dump(mode="json"))
        seen = _look(config, start, now)
        tariff, prices = _tariff(config)
        trained = _trained(config) if config.train_data else None
        measured = measure(seen.minutes, seen.calls, trained, tariff, hours=config.hours)
        exceeded = tuple(find_exceeded(limits, measured.figures()))
        outcome = Outcome(measured, exceeded, log.run_id, (*seen.sources, *prices))
        log.log_metrics(measured.figures())
        log.log_json(_report(outcome), REPORT)
        log.set_tags({"phi3.limits": "exceeded" if exceeded else "kept"})
        return outcome


@dataclass(frozen=True, slots=True)
class _Seen:
    minutes: list[Minute] | None
    calls: list[Call]
    sources: tuple[str, ...]


def _look(config: MonitorConfig, start: dt.datetime, now: dt.datetime) -> _Seen:
    workspace = open_project(config.target)
    managed = _is_managed(workspace, config.endpoint)
    minutes, sources = None, []
    if managed:
        manager = ResourceManager(workspace)
        minutes = get_minutes(manager, config.endpoint, config.deployment, start, now)
        if not minutes:
            _check_deployment(workspace, config)
        sources.append(f"Azure Monitor: {count_of(len(minutes), 'minute')} with requests")
    if config.log:
        lines = list(read_lines(Path(config.log), code="PHI3-D093", fix="check --log"))
        sources.append(f"log {config.log}: {count_of(len(lines), 'line')}")
    elif managed:
        lines = list(read_collected(workspace, config.endpoint, config.deployment, start))
        sources.append(f"data collector: {count_of(len(lines), 'event')}")
    else:
        raise UsageError(
            "PHI3-U766",
            "Azure collects nothing of a serverless endpoint",
            where=f"endpoint {config.endpoint}",
            fix="let your application write its calls down (docs/monitor.md), and give --log FILE",
        )
    found = read_calls(lines)
    calls = [call for call in found if start <= call.at < now]
    if len(found) > len(calls):
        apart = count_of(len(found) - len(calls), "call")
        sources[-1] += f", {apart} before or after the window"
    return _Seen(minutes, calls, tuple(sources))


def _check_deployment(workspace: Workspace, config: MonitorConfig) -> None:
    """One that was deleted since has counts; one that has none may be mistyped."""
    service = OnlineService(workspace, Deadline(READ_TIMEOUT_S))
    known = sorted(one.name for one in service.list_deployments(config.endpoint))
    if config.deployment and config.deployment not in known:
        raise UsageError(
            "PHI3-U735",
            "there is no such deployment",
            where=f"{config.endpoint}/{config.deployment}",
            fix=f"one of {', '.join(known)}, or leave it out" if known else "leave it out",
        )


def _is_managed(workspace: Workspace, endpoint: str) -> bool:
    deadline = Deadline(READ_TIMEOUT_S)
    if OnlineService(workspace, deadline).get_endpoint(endpoint) is not None:
        return True
    if ServerlessService(workspace, deadline).get(endpoint) is not None:
        return False
    raise UsageError(
        "PHI3-U767",
        "there is no such endpoint",
        where=f"endpoint {endpoint}",
        fix="list them by mlflow deployments list -t azure-foundry",
    )


def _tariff(config: MonitorConfig) -> tuple[Tariff, tuple[str, ...]]:
    """What things cost, and the date and source of each price."""
    told: list[str] = []
    hourly, read, written = config.usd_per_hour or math.nan, math.nan, math.nan
    if config.usd_per_hour:
        told.append(f"price: {config.usd_per_hour:g} USD an hour, as given")
    if config.price_model:
        price = describe_model(config.price_model, where="price_model").price
        if price is None:
            told.append(f"price: none is known of {config.price_model}")
        else:
            read, written = price.input, price.output
            told.append(
                f"price: {read:g}/{written:g} USD per 1M in/out, {price.as_of}, {price.source}"
            )
            if not config.usd_per_hour:
                told.append(_NO_HOSTING)
    return Tariff(hourly, read, written), tuple(told)


def _trained(config: MonitorConfig) -> list[str]:
    """User messages of the training split; read by the pipeline, and found again next time.

    Rows that cannot be trained on are left out: whoever trained has been told of them.
    """
    folder = Path(ContextConfig().workspace).resolve() / "prepared"
    settings = PrepareConfig(train_data=config.train_data, on_error="reject")
    prepared = pipeline.prepare(settings, load_tokenizer(DEMO), folder=folder)
    return [
        message.content
        for conversation in prepared.conversations("train")
        for message in conversation.messages
        if message.role == "user"
    ]


def to_json(outcome: Outcome) -> str:
    """An outcome for machines."""
    facts = {"run_id": outcome.run_id, **_report(outcome)}
    return json.dumps(facts, indent=2, ensure_ascii=False)


def _report(outcome: Outcome) -> dict[str, object]:
    told = {"sources": outcome.sources, "exceeded": outcome.exceeded}
    return {**told, **describe(outcome.measured)}
