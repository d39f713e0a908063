"""``watch``: take a job of Foundry up again, wherever it was submitted."""

from dataclasses import dataclass

from mlflow_phi3.azure.finetuning import ENDED, JobService
from mlflow_phi3.config.foundry import FoundryConfig
from mlflow_phi3.errors import UsageError
from mlflow_phi3.foundry.project import open_project
from mlflow_phi3.tracking.tags import JOB_STATUS_TAG, JOB_TAG, TARGET_TAG
from mlflow_phi3.tracking.tracker import STAGE, close_orphan
from mlflow_phi3.workflows.context import Context, stamp
from mlflow_phi3.workflows.following import follow_job


def watch(name: str, config: FoundryConfig, context: Context) -> None:
    """Take a job up again, wherever it was submitted, and follow it to its end.

    Args:
        name: Of the job, or the id of its run; empty takes the newest that is not over.
        config: How long to follow, and what Ctrl-C does; its target is that of the run, if known.
        context: The surroundings.

    Raises:
        UsageError: There is no such job.
    """
    found = _find(context, name)
    target = found.target or config.azure_target
    service = JobService(open_project(target))
    state = service.require(found.name)
    settings = config.model_copy(update={"tuned_model": state.output})
    title, tags = f"train-{stamp()}", {JOB_TAG: found.name, TARGET_TAG: target}
    run_id = found.runs[-1] if found.runs else None
    with context.tracker.stage(title, stage=found.stage, run_id=run_id, tags=tags) as run:
        follow_job(context, service, run, found.name, settings)
    for other in found.runs[:-1]:  # the same training, asked for more than once
        close_orphan(other, "FINISHED")


@dataclass(frozen=True, slots=True)
class _Found:
    """What the store knows of a job.

    Args:
        name: The job.
        runs: Runs that it has, oldest first; none for a job that was submitted elsewhere.
        target: Its project, where known.
        stage: What its newest run is: a training, or a trial of a sweep.
    """

    name: str
    runs: tuple[str, ...] = ()
    target: str = ""
    stage: str = "train"


def _find(context: Context, name: str) -> _Found:
    """Look a job up by its name or one of its runs; an empty name means the newest that goes on.

    Raises:
        UsageError: None goes on.
    """
    runs = context.tracker.find_tagged(JOB_TAG)
    if not name:
        open_ones = [r for r in runs if r.data.tags.get(JOB_STATUS_TAG) not in ENDED]
        if not open_ones:
            raise UsageError(
                "PHI3-U775",
                "no job is being followed in this experiment",
                where="job",
                fix="name one: mlflow-phi3 list",
            )
        name = open_ones[-1].info.run_id
    meant = [r for r in runs if name in {r.info.run_id, r.data.tags[JOB_TAG]}]
    if not meant:
        return _Found(name)
    tags = meant[-1].data.tags
    same = [r.info.run_id for r in runs if r.data.tags[JOB_TAG] == tags[JOB_TAG] and r not in meant]
    own = [r.info.run_id for r in meant]
    return _Found(tags[JOB_TAG], (*same, *own), tags.get(TARGET_TAG, ""), tags.get(STAGE, "train"))
