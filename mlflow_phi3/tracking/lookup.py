"""What a person named by a run's id: found, and of the kind that was meant."""

from pathlib import Path

from mlflow.entities import Run as MlflowRun
from mlflow.exceptions import MlflowException

from mlflow_phi3.errors import UsageError
from mlflow_phi3.tracking.missing import is_missing
from mlflow_phi3.tracking.run import Run
from mlflow_phi3.tracking.tracker import STAGE, Tracker


def find_run(tracker: Tracker, run_id: str, *, where: str) -> Run:
    """Return the run ``run_id``.

    Args:
        tracker: Where runs are kept.
        run_id: As the person gave it.
        where: The parameter that named it, for messages.

    Raises:
        UsageError: There is no such run.
        MlflowException: The store could not say.
    """
    return tracker.handle(_read(tracker, run_id, where=where))


def find_finished(tracker: Tracker, run_id: str, *, stage: str, tag: str, where: str) -> Run:
    """Return the run of a stage that went to its end here.

    Args:
        tracker: Where runs are kept.
        run_id: As the person gave it, or as what they gave leads to it.
        stage: What made it: ``sweep``, ``evaluate``.
        tag: What such runs carry.
        where: The parameter that named it, for messages.

    Raises:
        UsageError: There is no such run, or it is another one than was meant.
    """
    run = _read(tracker, run_id, where=where)
    tags, status = run.data.tags, run.info.status
    if tag not in tags or tags.get(STAGE) != stage or status != "FINISHED":
        kind = tags.get(STAGE, "not ours")
        raise UsageError(
            "PHI3-U022",
            f"the run {run_id} ({kind}, {status}) is no {stage} that was finished on this side",
            where=where,
            fix=f"name a finished {stage} run, or leave it out to take the newest",
        )
    return tracker.handle(run)


def fetch(run: Run, path: str, into: Path, *, where: str) -> Path:
    """Copy an artifact of a run out of the store; where it lies then.

    Raises:
        UsageError: The run has no such artifact.
        MlflowException: The store could not say.
    """
    try:
        return run.download(path, into)
    except MlflowException as missing:
        if not is_missing(missing):
            raise
        raise UsageError(
            "PHI3-U023",
            f"the run {run.run_id} ({run.name}) has no artifact {path}",
            where=where,
            fix="name a run that was trained up to an evaluation, on this side",
        ) from missing


def _read(tracker: Tracker, run_id: str, *, where: str) -> MlflowRun:
    try:
        return tracker.client.get_run(run_id)
    except MlflowException as missing:
        if not is_missing(missing):
            raise
        raise UsageError(
            "PHI3-U021",
            f"no run {run_id!r} in this tracking store",
            where=where,
            fix="copy the id from the MLflow UI; MLFLOW_TRACKING_URI names the store",
        ) from missing
