"""``sweep`` with ``backend=foundry``: every trial is a fine-tuning job, the winner is in Azure."""

import math
from collections.abc import Callable

from mlflow_phi3.azure.finetuning import JobState
from mlflow_phi3.backends.jobs import FoundryBackend
from mlflow_phi3.config.parse import narrow
from mlflow_phi3.config.sweep import SweepConfig
from mlflow_phi3.config.words import SweepWord
from mlflow_phi3.errors import TrainingError
from mlflow_phi3.sweep.budget import Budget
from mlflow_phi3.sweep.conductor import Conductor
from mlflow_phi3.sweep.drivers import beating
from mlflow_phi3.sweep.ledger import Ledger
from mlflow_phi3.sweep.results import trial_name
from mlflow_phi3.sweep.run import open_ledger
from mlflow_phi3.sweep.space import build_space
from mlflow_phi3.sweep.storage import default_storage
from mlflow_phi3.sweep.trial_run import NUMBER, STUDY
from mlflow_phi3.tracking.runs import Run
from mlflow_phi3.workflows.following import JOB, STATUS, register
from mlflow_phi3.workflows.foundry import check, limits_of, send
from mlflow_phi3.workflows.job import Job, greet, open_job
from mlflow_phi3.workflows.prepare import prepare_as_child
from mlflow_phi3.workflows.sweep import teller


def run(config: SweepWord) -> None:
    """Prepare, send the data, search with one job a trial, register the winner's model.

    Raises:
        TrainingError: No trial was completed.
    """
    check(config)
    job = open_job(config)
    greet(job, config)
    with job.root("sweep", config) as root:
        data = prepare_as_child(job, config, root)
        service, lesson = send(job, config, data, root)
        study = config.study or root.run_id[:12]
        backend = FoundryBackend(
            service,
            lesson,
            limits_of(config, data),
            cancel=config.on_interrupt == "cancel",
            on_job=_tagger(job, study),
        )
        ledger = _open_ledger(job, config, study, root)
        why = _conduct(job, config, ledger, backend, root)
        best = ledger.best()
        if best is None:
            raise TrainingError(
                "PHI3-T081",
                f"no trial was completed ({why})",
                where=study,
                fix="look at the reasons in the failed runs",
            )
        name = trial_name(best.number)
        root.set_tags({"phi3.winner": name, "phi3.stopped_because": why})
        root.log_metrics({"eval/loss": float(best.value or 0.0)})
        register(job, root, backend.model(ledger.space.spec(best.params)), config.tuned_model)
    _show(job, ledger, study)


def _open_ledger(job: Job, config: SweepWord, study: str, root: Run) -> Ledger:
    # A job leaves one model, that of its last epoch: trials cannot be read off each other's way.
    settings = narrow(config, SweepConfig).model_copy(update={"share_epochs": False})
    space = build_space(settings, model=config.model, seed=config.seed)
    url = config.storage or default_storage(job.tracker.uri)
    root.set_tags({STUDY: study})
    return open_ledger(settings, space, name=study, url=url, tags=root.tags())


def _conduct(
    job: Job, config: SweepWord, ledger: Ledger, backend: FoundryBackend, root: Run
) -> str:
    """Search; why it ended."""
    known = root.tags()
    kept = ("phi3.base_model", "phi3.dataset_sha256", "azure.target")
    tags = {name: known[name] for name in kept}
    with job.screen.stage("sweep") as update, beating(ledger.study, ledger.driver):
        return Conductor(
            ledger,
            backend,
            job.tracker,
            root,
            tags,
            teller(update),
            round_size=backend.slots,
            budget=Budget(config.budget_hours * 3600),
        ).conduct()


def _tagger(job: Job, study: str) -> Callable[[str, JobState], None]:
    """Tells each trial's run which job it is, and how that stands."""
    runs: dict[str, str] = {}

    def tag(trial: str, state: JobState) -> None:
        if trial not in runs:
            number = int(trial.rpartition("-")[2])
            found = job.tracker.find({STUDY: study, NUMBER: number})
            runs[trial] = found[-1].info.run_id
        told = {JOB: state.name, STATUS: state.status, "azure.job_url": state.url}
        job.tracker.get(runs[trial]).set_tags(told)

    return tag


def _show(job: Job, ledger: Ledger, study: str) -> None:
    """Print the trials."""
    names = list(ledger.space.swept)
    rows: list[list[str]] = []
    for trial in ledger.trials():
        values = [trial.params.get(name, "") for name in names]
        loss = min(trial.intermediate_values.values(), default=math.nan)
        shown = [f"{value:.3g}" if isinstance(value, float) else str(value) for value in values]
        rows.append([trial_name(trial.number), *shown, f"{loss:.4f}", trial.state.name.lower()])
    columns = ["trial", *names, "val loss", "state"]
    job.screen.table(f"Study {study}: {len(rows)} jobs", columns, rows)
