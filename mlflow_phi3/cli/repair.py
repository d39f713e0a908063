"""``mlflow-phi3 sweep repair``: close what a dead machine left of a study."""

import time

import typer

from mlflow_phi3.errors import UsageError
from mlflow_phi3.workflows.entry import quieten_libraries

app = typer.Typer()

_STUDY = typer.Argument(..., help="Name of the study.")
_STORAGE = typer.Option("", "--storage", help="As the parameter `storage` of a sweep.")


@app.command("repair")
def repair_command(study: str = _STUDY, *, storage: str = _STORAGE) -> None:
    """Release the trials of dead drivers and close their runs; the study can then be continued."""
    quieten_libraries("")
    # torch, Optuna and MLflow take seconds, which no other command shall wait for.
    from mlflow_phi3.sweep.repair import repair_study
    from mlflow_phi3.sweep.storage import default_storage, is_missing, open_storage
    from mlflow_phi3.tracking.tracker import open_tracker
    from mlflow_phi3.tracking.uris import hide_password

    tracker = open_tracker()
    url = storage or default_storage(tracker.uri)
    unknown = UsageError(
        "PHI3-U090",
        f"no study {study!r}",
        where=hide_password(url),
        fix="look at the tags phi3.study and phi3.storage of a run",
    )
    if is_missing(url):  # a file that there is not would be made
        raise unknown
    kept = open_storage(url)
    try:
        kept.get_study_id_from_name(study)
    except KeyError:
        raise unknown from None
    done = repair_study(kept, study, tracker=tracker, now=time.time())
    typer.echo(f"{len(done.released)} trials wait again, {len(done.closed)} runs were closed.")
