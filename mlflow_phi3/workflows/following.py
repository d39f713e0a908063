"""A job of Foundry as a run shows it: its status, its metrics, and the model that comes of it."""

import json
import shlex
import tempfile
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from mlflow_phi3.azure.finetuning import JobService, TunedModel, base_name
from mlflow_phi3.azure.names import endpoint_for
from mlflow_phi3.azure.target import flag
from mlflow_phi3.config.foundry import FoundryConfig
from mlflow_phi3.errors import Interrupted
from mlflow_phi3.foundry.follower import METRICS, News, follow
from mlflow_phi3.foundry.submission import model_of
from mlflow_phi3.tracking.run import Run
from mlflow_phi3.tracking.tags import JOB_STATUS_TAG, JOB_TAG, TARGET_TAG
from mlflow_phi3.tracking.tuned import register_tuned
from mlflow_phi3.training.reports import perplexity
from mlflow_phi3.workflows.context import Context

EVENTS = "azure/events.jsonl"


def follow_job(
    context: Context, service: JobService, run: Run, name: str, config: FoundryConfig
) -> None:
    """Follow a job to its end and register what it made.

    Raises:
        AzureError: It failed.
        Interrupted: It was cancelled, or we were told to stop.
    """
    log = _Log(run)
    try:
        with context.screen.stage("foundry") as update:
            for news in follow(service, name, timeout_s=config.job_timeout_hours * 3600):
                log.write(news)
                update(log.line())
    except KeyboardInterrupt as stop:
        if config.on_interrupt == "cancel":
            service.cancel(name)
            stop.add_note(f"The job {name} is being cancelled.")
        else:
            stop.add_note(f"The job {name} trains on in Azure: {watch_command(name, config)}")
        raise
    state = news.job
    if state.status == "Canceled":
        raise Interrupted("PHI3-T009", f"the job {name} was cancelled in Azure")
    register_tuned_model(context, run, model_of(service, state), config.tuned_model)


def register_tuned_model(context: Context, run: Run, model: TunedModel, name: str) -> None:
    """Make a model in Azure a version of the registered model ``name``, and say how to serve it."""
    run.log_json(asdict(model), "azure/model.json")
    version = register_tuned(
        run,
        name=name,
        model_id=model.id,
        tags={JOB_TAG: model.job, "phi3.base_model": base_name(model.base)},
        description=f"{model.name}:{model.version} in Azure, made by the job {model.job}",
    )
    uri = f"models:/{version.name}/{version.version}"
    context.screen.say(f"[bold green]{uri}[/] is {model.name}:{model.version} in Azure")
    target = run.tags().get(TARGET_TAG, "")
    create = (
        f"mlflow deployments create -t {shlex.quote(target)} --name {endpoint_for(name)} -m {uri}"
    )
    context.screen.say(f"  Deploy   {create}")


def watch_command(name: str, config: FoundryConfig) -> str:
    """The command that takes a job up again."""
    return f"mlflow-phi3 watch {name}{flag(config.azure_target)}"


class _Log:
    """Writes what is told of a job into its run; what an earlier look wrote is not written again.

    Args:
        run: The run.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._last: dict[str, int] = {}
        self._events = _read_events(run)
        self._status = self._events[-1]["status"] if self._events else ""
        self._told: dict[str, float] = {}
        self._untold = ""

    def write(self, news: News) -> None:
        """Log new metrics and a new status."""
        if news.untold != self._untold:
            self._untold = news.untold
            self._run.set_tags({"azure.metrics_error": self._untold[:5000]})
        for point in news.points:
            key = METRICS.get(point.key, f"azure/{point.key}")
            if key not in self._last:
                self._last[key] = self._run.last_step(key)
            self._told[key] = point.value
            if point.step <= self._last[key]:
                continue
            values = {key: point.value}
            if key == "eval/loss":
                values["eval/perplexity"] = perplexity(point.value)
            self._run.log_metrics(values, step=point.step)
        if news.job.status != self._status:
            self._status = news.job.status
            now = datetime.now(UTC).isoformat(timespec="seconds")
            self._events.append({"at": now, "status": self._status})
            lines = "".join(json.dumps(event) + "\n" for event in self._events)
            self._run.log_text(lines, EVENTS)
            self._run.set_tags({JOB_STATUS_TAG: self._status})
        self._run.flush()

    def line(self) -> str:
        """How it stands, in a line."""
        shown = [
            f"{key} {self._told[key]:.3f}"
            for key in ("train/loss", "eval/loss")
            if key in self._told
        ]
        return " ".join([self._status, *shown])


def _read_events(run: Run) -> list[dict[str, str]]:
    if not run.has_artifact(EVENTS):
        return []
    with tempfile.TemporaryDirectory() as folder:
        text = run.download(EVENTS, Path(folder)).read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]
