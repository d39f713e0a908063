"""``backend=foundry``: one fine-tuning job of Azure AI Foundry, as a run like any local one."""

import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from mlflow_phi3.azure.assets import check_asset_name
from mlflow_phi3.azure.finetuning import (
    FineTuning,
    JobService,
    JobState,
    to_yaml,
)
from mlflow_phi3.azure.hyperparameters import check_expressible, check_range
from mlflow_phi3.backends.foundry import Limits
from mlflow_phi3.config.swept import Swept, values_of
from mlflow_phi3.config.words import SweepWord, TrainWord
from mlflow_phi3.data.prepared import PreparedData
from mlflow_phi3.errors import AzureError, UsageError
from mlflow_phi3.foundry.project import Place, find_place
from mlflow_phi3.foundry.submission import (
    JobTemplate,
    check_demo,
    choose_base,
    find_base_version,
    plan_job,
    send_data,
    submit_once,
)
from mlflow_phi3.modeling.catalog import PhiModel, training_price
from mlflow_phi3.sweep.space import flat_params, pinned_spec
from mlflow_phi3.sweep.storage import check_storage
from mlflow_phi3.tracking.datasets import log_datasets
from mlflow_phi3.tracking.run import Run
from mlflow_phi3.tracking.tags import (
    DATASET_TAG,
    JOB_STATUS_TAG,
    JOB_TAG,
    JOB_URL_TAG,
    PROJECT_TAG,
    TARGET_TAG,
)
from mlflow_phi3.workflows.context import Context, greet, open_context
from mlflow_phi3.workflows.following import follow_job, watch_command
from mlflow_phi3.workflows.prepare import dataset_facts, prepare_as_child

_TOLD = ("epochs", "learning_rate", "batch_size_multiplier", "per_device_batch_size")


@dataclass(frozen=True, slots=True)
class Destination:
    """Where jobs go.

    Args:
        place: The project.
        base: What they tune.
    """

    place: Place
    base: PhiModel


def run(config: TrainWord) -> None:
    """Prepare, send the data, submit a job, follow it and register its model."""
    destination = check(config)
    context = open_context(config)
    greet(context, config)
    with context.root("train", config) as root:
        data = prepare_as_child(context, config, root)
        service, template = send(context, config, data, root, destination)
        wanted = _write_down(config, data, template, root)
        state = _submit(context, config, service, wanted, root)
        if not config.detach:
            follow_job(context, service, root, state.name, config)
    if config.detach:
        context.tracker.resume(root.run_id)  # it goes on as long as the job does
        context.screen.say(
            f"It trains in Azure. Take it up again: {watch_command(state.name, config)}"
        )


def check(config: TrainWord | SweepWord) -> Destination:
    """Return where the jobs go; refuse what Foundry cannot do, before anything is read or sent.

    Raises:
        UsageError: A setting, a task or a model that Foundry does not know.
        PreflightError: A model that it does not tune, or a target that does not tell enough.
    """
    check_expressible(config.model_fields_set)
    most, times = _most(config.per_device_batch_size), _most(config.batch_size_multiplier)
    check_range(epochs=_most(config.epochs), batch_size=most * times)
    if isinstance(config, SweepWord) and config.storage:
        check_storage(config.storage)
    check_asset_name(config.tuned_model, "tuned_model")
    base = choose_base(config.model)
    if config.task != "chat-completion":
        raise UsageError(
            "PHI3-U774",
            f"Foundry does not tune Phi for {config.task}",
            where="task",
            fix="task=chat-completion, or backend=local",
        )
    for name, value, fix in (
        ("overlength", "truncate", "overlength=drop, or shorten the rows"),
        ("train_on", "last", "leave train_on out"),
    ):
        if getattr(config, name) == value:
            raise UsageError(
                "PHI3-U790",
                "Foundry gets whole conversations, and trains on every answer of them",
                where=f"{name}={value}",
                fix=f"{fix}, or backend=local",
            )
    place = find_place(config.azure_target)
    check_demo(config.model, emulated=place.emulated)
    return Destination(place, base)


def _most(counts: Swept) -> int:
    """The greatest number that is asked for."""
    return max(int(count) for count in values_of(counts) or (1,))


def send(
    context: Context,
    config: TrainWord | SweepWord,
    data: PreparedData,
    run: Run,
    destination: Destination,
) -> tuple[JobService, JobTemplate]:
    """Bring the data to Azure; what all jobs share is told on ``run``."""
    base = destination.base
    with context.screen.stage("upload") as update, tempfile.TemporaryDirectory() as folder:
        update("signing in")
        workspace = destination.place.open()
        service = JobService(workspace)
        version = find_base_version(workspace, base)
        update("sending the data")
        splits = {name: data.conversations(name) for name in ("train", "validation")}
        addresses, sent = send_data(workspace, service, config.tuned_model, splits, Path(folder))
    how = "sent to" if sent else "the same data was already in"
    context.screen.say(f"  {how} {workspace.target.project}")
    run.set_tags(
        {
            "phi3.base_model": base.name,
            DATASET_TAG: data.manifest.sha256,
            PROJECT_TAG: workspace.target.path,
            TARGET_TAG: config.azure_target,
        }
    )
    log_datasets(run, dataset_facts(data, ("train", "validation")))
    template = JobTemplate(
        base.name, version, addresses["train"], addresses["validation"], config.tuned_model
    )
    return service, template


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


def _write_down(
    config: TrainWord, data: PreparedData, template: JobTemplate, run: Run
) -> FineTuning:
    """The job that is wanted, written into the run before it is submitted.

    Raises:
        UsageError: It would cost more than it may.
    """
    spec = pinned_spec(config, model=config.model, seed=config.seed)
    limits = limits_of(config, data)
    cost_usd = limits.cost_usd(spec)
    limits.check_cost(cost_usd)
    wanted = plan_job(template, spec)
    known = flat_params(spec)
    run.log_params({f"resolved.{name}": known[name] for name in _TOLD})
    run.log_metrics({"cost/estimated_usd": cost_usd})
    run.log_text(to_yaml(wanted), "azure/job.yaml")
    run.log_json(asdict(wanted), "azure/request.json")
    # Before it is submitted: it can be found, whatever happens.
    run.set_tags({JOB_TAG: wanted.name})
    return wanted


def _submit(
    context: Context, config: TrainWord, service: JobService, wanted: FineTuning, run: Run
) -> JobState:
    try:
        state, new = submit_once(service, wanted)
    except AzureError as error:
        error.add_note("Running the same command again submits nothing twice.")
        raise
    run.set_tags({JOB_TAG: state.name, JOB_STATUS_TAG: state.status, JOB_URL_TAG: state.url})
    what = "submitted" if new else f"was submitted before and is {state.status}"
    context.screen.say(
        f"  job [bold]{state.name}[/] {what}; it makes the model {config.tuned_model}"
    )
    return state
