"""``backend=foundry``: one fine-tuning job of Azure AI Foundry, as a run like any local one."""

import json
import math
import tempfile
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from mlflow_phi3.azure.assets import check_asset_name
from mlflow_phi3.azure.finetuning import (
    ENDED,
    FineTuning,
    JobService,
    JobState,
    TunedModel,
    base_name,
    to_yaml,
)
from mlflow_phi3.azure.hyperparameters import check_expressible
from mlflow_phi3.backends.foundry import (
    METRICS,
    Lesson,
    News,
    choose_base,
    find_version,
    follow,
    model_of,
    plan_job,
    send_data,
    submit_once,
)
from mlflow_phi3.backends.jobs import Limits
from mlflow_phi3.backends.project import is_emulated, open_project
from mlflow_phi3.config.foundry import FoundryConfig
from mlflow_phi3.config.hyperparameters import Hyperparameters
from mlflow_phi3.config.parse import narrow
from mlflow_phi3.config.words import SweepWord, TrainWord
from mlflow_phi3.data.pipeline import PreparedData
from mlflow_phi3.errors import AzureError, Interrupted, UsageError
from mlflow_phi3.modeling.catalog import training_price
from mlflow_phi3.sweep.space import flat_params, pinned_spec
from mlflow_phi3.tracking.datasets import log_datasets
from mlflow_phi3.tracking.runs import Run
from mlflow_phi3.tracking.tuned import register_tuned
from mlflow_phi3.workflows.job import Job, greet, open_job, stamp
from mlflow_phi3.workflows.prepare import dataset_facts, prepare_as_child

JOB = "azure.job_name"
STATUS = "azure.job_status"
TARGET = "azure.target_uri"
EVENTS = "azure/events.jsonl"


def run(config: TrainWord) -> None:
    """Prepare, send the data, submit a job, follow it and register its model."""
    check(config)
    job = open_job(config)
    greet(job, config)
    with job.root("train", config) as root:
        data = prepare_as_child(job, config, root)
        service, lesson = send(job, config, data, root)
        wanted = _write_down(config, data, lesson, root)
        state = _submit(job, config, service, wanted, root)
        if not config.detach:
            _follow(job, service, root, state.name, config)
    if config.detach:
        job.tracker.resume(root.run_id)  # it goes on as long as the job does
        job.screen.say(f"It trains in Azure. Take it up again: mlflow-phi3 watch {state.name}")


def watch(name: str, config: FoundryConfig, job: Job) -> None:
    """Take a job up again, wherever it was submitted, and follow it to its end.

    Args:
        name: Of the job, or the id of its run; empty takes the newest that is not over.
        config: How long to follow, and what Ctrl-C does; its target is that of the run, if known.
        job: The surroundings.

    Raises:
        UsageError: There is no such job.
    """
    run_id, job_name, target = _find_run(job, name)
    service = JobService(open_project(target or config.azure_target))
    state = service.get(job_name)
    if state is None:
        raise UsageError(
            "PHI3-U773", f"no job {job_name!r}", where="job", fix="mlflow-phi3 list names them"
        )
    settings = config.model_copy(update={"tuned_model": state.output})
    tags = {JOB: job_name, TARGET: target or config.azure_target}
    title = f"train-{stamp()}"
    with job.tracker.stage(title, stage="train", run_id=run_id or None, tags=tags) as run:
        _follow(job, service, run, job_name, settings)


def check(config: TrainWord | SweepWord) -> None:
    """Refuse what Foundry cannot do, before anything is read or sent."""
    check_expressible(config.model_fields_set)
    check_asset_name(config.tuned_model, "tuned_model")
    choose_base(config.model, local=is_emulated(config.azure_target))
    if config.task != "chat-completion":
        raise UsageError(
            "PHI3-U774",
            f"Foundry does not tune Phi for {config.task}",
            where="task",
            fix="task=chat-completion, or backend=local",
        )


def send(
    job: Job, config: TrainWord | SweepWord, data: PreparedData, run: Run
) -> tuple[JobService, Lesson]:
    """Bring the data to Azure; what all jobs share is told on ``run``."""
    base = choose_base(config.model, local=is_emulated(config.azure_target))
    with job.screen.stage("upload") as update, tempfile.TemporaryDirectory() as folder:
        update("signing in")
        workspace = open_project(config.azure_target)
        service = JobService(workspace)
        version = find_version(workspace, base)
        update("sending the data")
        splits = {
            name: data.conversations(name) if name in data.manifest.splits else ()
            for name in ("train", "validation")
        }
        addresses, sent = send_data(workspace, service, config.tuned_model, splits, Path(folder))
    how = "sent to" if sent else "the same data was already in"
    job.screen.say(f"  {how} {workspace.target.project}")
    run.set_tags(
        {
            "phi3.base_model": base.name,
            "phi3.dataset_sha256": data.manifest.sha256,
            "azure.target": workspace.target.path,
            TARGET: config.azure_target,
        }
    )
    log_datasets(run, dataset_facts(data, ("train", "validation")))
    lesson = Lesson(
        base.name, version, addresses["train"], addresses["validation"], config.tuned_model
    )
    return service, lesson


def limits_of(config: TrainWord | SweepWord, data: PreparedData) -> Limits:
    """How much may go on in Foundry, and cost."""
    facts = data.manifest.splits["train"]
    price = config.training_usd_per_million or training_price().usd_per_million_from
    return Limits(
        jobs=config.max_jobs,
        budget_usd=config.budget_usd,
        usd_per_million_tokens=price,
        train_tokens=facts.tokens,
        train_rows=facts.rows,
        timeout_s=config.job_timeout_hours * 3600,
    )


def _write_down(config: TrainWord, data: PreparedData, lesson: Lesson, run: Run) -> FineTuning:
    """The job that is wanted, written into the run before it is submitted.

    Raises:
        UsageError: It would cost more than it may.
    """
    spec = pinned_spec(narrow(config, Hyperparameters), model=config.model, seed=config.seed)
    limits = limits_of(config, data)
    cost_usd = limits.cost_usd(spec)
    if 0 < limits.budget_usd < cost_usd:
        raise UsageError(
            "PHI3-U784",
            f"the job is estimated at {cost_usd:.2f} USD or more",
            where=f"budget_usd={limits.budget_usd:g}",
            fix="fewer epochs or rows, or a larger budget",
        )
    wanted = plan_job(lesson, spec)
    known = {f"resolved.{name}": value for name, value in flat_params(spec).items()}
    run.log_params({name: known[name] for name in known if name.split(".")[1] in _TOLD})
    run.log_metrics({"cost/estimated_usd": cost_usd})
    run.log_text(to_yaml(wanted), "azure/job.yaml")
    run.log_json(asdict(wanted), "azure/request.json")
    run.set_tags({JOB: wanted.name})  # before it is submitted: it can be found, whatever happens
    return wanted


def _submit(
    job: Job, config: TrainWord, service: JobService, wanted: FineTuning, run: Run
) -> JobState:
    try:
        state, new = submit_once(service, wanted)
    except AzureError as error:
        error.add_note("Running the same command again submits nothing twice.")
        raise
    run.set_tags({JOB: state.name, STATUS: state.status, "azure.job_url": state.url})
    what = "submitted" if new else f"was submitted before and is {state.status}"
    job.screen.say(f"  job [bold]{state.name}[/] {what}; {config.tuned_model} comes out of it")
    return state


def _follow(job: Job, service: JobService, run: Run, name: str, config: FoundryConfig) -> None:
    """Follow a job to its end and register what it made.

    Raises:
        AzureError: It failed.
        Interrupted: It was cancelled, or we were told to stop.
    """
    log = _Log(run)
    try:
        with job.screen.stage("foundry") as update:
            for news in follow(service, name, timeout_s=config.job_timeout_hours * 3600):
                log.write(news)
                update(log.line())
    except KeyboardInterrupt as stop:
        if config.on_interrupt == "cancel":
            service.cancel(name)
            stop.add_note(f"The job {name} is being cancelled.")
        else:
            stop.add_note(f"The job {name} trains on in Azure: mlflow-phi3 watch {name}")
        raise
    state = news.job
    if state.status == "Canceled":
        raise Interrupted("PHI3-T009", f"the job {name} was cancelled in Azure")
    register(job, run, model_of(service, state), config.tuned_model)


def register(job: Job, run: Run, model: TunedModel, name: str) -> None:
    """Make a model in Azure a version of the registered model ``name``, and say how to serve it."""
    run.log_json(asdict(model), "azure/model.json")
    version = register_tuned(
        run,
        name=name,
        model_id=model.id,
        tags={JOB: model.job, "phi3.base_model": base_name(model.base)},
        description=f"{model.name}:{model.version} in Azure, made by the job {model.job}",
    )
    uri = f"models:/{version.name}/{version.version}"
    job.screen.say(f"[bold green]{uri}[/] is {model.name}:{model.version} in Azure")
    create = f"mlflow deployments create --name chat -m {uri} -t {run.tags().get(TARGET, '')}"
    job.screen.say(f"  Deploy   {create}")


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

    def write(self, news: News) -> None:
        """Log new metrics and a new status."""
        for point in news.points:
            key = METRICS.get(point.key, f"azure/{point.key}")
            if key not in self._last:
                self._last[key] = self._run.last_step(key)
            self._told[key] = point.value
            if point.step <= self._last[key]:
                continue
            values = {key: point.value}
            if key == "eval/loss":
                values["eval/perplexity"] = math.exp(point.value)
            self._run.log_metrics(values, step=point.step)
        if news.job.status != self._status:
            self._status = news.job.status
            now = datetime.now(UTC).isoformat(timespec="seconds")
            self._events.append({"at": now, "status": self._status})
            lines = "".join(json.dumps(event) + "\n" for event in self._events)
            self._run.log_text(lines, EVENTS)
            self._run.set_tags({STATUS: self._status})
        self._run.flush()

    def line(self) -> str:
        """How it stands, in a line."""
        shown = [
            f"{key.split('/')[1]} {self._told[key]:.3f}"
            for key in ("train/loss", "eval/loss")
            if key in self._told
        ]
        return " ".join([self._status, *shown])


def _read_events(run: Run) -> list[dict[str, str]]:
    names = {file.path for file in run.client.list_artifacts(run.run_id, "azure")}
    if EVENTS not in names:
        return []
    with tempfile.TemporaryDirectory() as folder:
        text = run.download(EVENTS, Path(folder)).read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def _find_run(job: Job, name: str) -> tuple[str, str, str]:
    """The run id, job name and target of what is to be watched; the first and last may be empty."""
    runs = job.tracker.client.search_runs(
        [job.tracker.experiment_id], f"tags.`{JOB}` != ''", order_by=["attributes.start_time ASC"]
    )
    if not name:
        open_ones = [r for r in runs if r.data.tags.get(STATUS) not in ENDED]
        if not open_ones:
            raise UsageError(
                "PHI3-U775",
                "no job is being followed in this experiment",
                where="job",
                fix="name one: mlflow-phi3 list",
            )
        found = open_ones[-1]
    else:
        meant = [r for r in runs if name in {r.info.run_id, r.data.tags[JOB]}]
        if not meant:
            return "", name, ""
        found = meant[-1]
    tags = found.data.tags
    return found.info.run_id, tags[JOB], tags.get(TARGET, "")


_TOLD = frozenset({"epochs", "learning_rate", "batch_size_multiplier", "per_device_batch_size"})
