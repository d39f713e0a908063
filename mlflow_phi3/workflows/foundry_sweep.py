"""``sweep`` with ``backend=foundry``: every trial is a fine-tuning job, the winner is in Azure."""

from collections.abc import Callable

from mlflow_phi3.azure.finetuning import JobState, TunedModel
from mlflow_phi3.backends.foundry import FoundryBackend
from mlflow_phi3.config.parse import narrow
from mlflow_phi3.config.sweep import SweepConfig
from mlflow_phi3.config.words import SweepWord
from mlflow_phi3.data.prepared import PreparedData
from mlflow_phi3.foundry.submission import was_submitted
from mlflow_phi3.sweep.conductor import Conductor
from mlflow_phi3.sweep.driving import driving
from mlflow_phi3.sweep.opening import begin_study
from mlflow_phi3.sweep.results import SweepResult
from mlflow_phi3.sweep.run import log_result, work_through
from mlflow_phi3.sweep.space import build_space
from mlflow_phi3.sweep.trial_run import NUMBER, STUDY
from mlflow_phi3.tracking.run import Run
from mlflow_phi3.tracking.tags import (
    DATASET_TAG,
    JOB_STATUS_TAG,
    JOB_TAG,
    JOB_URL_TAG,
    PROJECT_TAG,
)
from mlflow_phi3.workflows.context import Context, greet, open_context
from mlflow_phi3.workflows.following import register_tuned_model
from mlflow_phi3.workflows.foundry import Destination, check, limits_of, send
from mlflow_phi3.workflows.prepare import prepare_as_child
from mlflow_phi3.workflows.sweep import show_trials, teller

# Tags of the sweep's run that every trial's has too.
_TOLD = ("phi3.base_model", DATASET_TAG, PROJECT_TAG)


def run(config: SweepWord) -> None:
    """Prepare, send the data, search with one job a trial, register the winner's model.

    Raises:
        TrainingError: No trial was completed.
    """
    destination = check(config)
    context = open_context(config)
    greet(context, config)
    with context.root("sweep", config) as root:
        data = prepare_as_child(context, config, root)
        result, model = search(context, config, data, root, destination)
        register_tuned_model(context, root, model, config.tuned_model)
    show_trials(context, result)


def search(
    context: Context, config: SweepWord, data: PreparedData, run: Run, destination: Destination
) -> tuple[SweepResult, TunedModel]:
    """Send the data and search; what came of it, and the winner's model in Azure.

    Raises:
        TrainingError: No trial was completed.
    """
    service, template = send(context, config, data, run, destination)
    # A job leaves one model, that of its last epoch: trials cannot be read off each other's way.
    settings = narrow(config, SweepConfig).model_copy(update={"share_epochs": False})
    space = build_space(settings, model=config.model, seed=config.seed)
    facts = run.tags()
    study = begin_study(settings, space, tracker=context.tracker, parent=run, facts=facts)
    # A trial that failed may have a job all the same, such as one that outlasted the wait for it.
    known = [
        spec
        for spec, failed in study.ledger.finished()
        if not failed or was_submitted(service, template, spec)
    ]
    backend = FoundryBackend(
        service,
        template,
        limits_of(config, data),
        cancel=config.on_interrupt == "cancel",
        on_job=_tagger(context, study.name),
        known=known,
    )
    tags = {name: facts[name] for name in _TOLD}
    with context.screen.stage("sweep") as update, driving(study, context.workspace):
        conductor = Conductor(study, backend, tags, teller(update))
        result = work_through(conductor)
        # The service tells no losses by example: no trial can be told from another by them.
        log_result(conductor, result, {})
    return result, backend.model(result.winner.spec)


def _tagger(context: Context, study: str) -> Callable[[str, JobState], None]:
    """Tells each trial's run which job it is, and how that stands."""
    runs: dict[str, str] = {}

    def tag(trial: str, state: JobState) -> None:
        if trial not in runs:
            number = int(trial.rpartition("-")[2])
            found = context.tracker.find({STUDY: study, NUMBER: number})
            runs[trial] = found[-1].info.run_id
        told = {JOB_TAG: state.name, JOB_STATUS_TAG: state.status, JOB_URL_TAG: state.url}
        context.tracker.get(runs[trial]).set_tags(told)

    return tag
