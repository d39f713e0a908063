"""``mlflow-phi3 sweep repair``: close what a dead machine left of a study."""

import time

import typer

from mlflow_phi3.workflows.entry import quieten_libraries

app = typer.Typer()

_STUDY = typer.Argument(..., help="Name of the study.")
_STORAGE = typer.Option("", "--storage", help="The `storage` that the sweep was given.")


@app.command("repair")
def repair_command(study: str = _STUDY, *, storage: str = _STORAGE) -> None:
    """Release the trials of dead drivers and close their runs; the study can then be continued."""
    quieten_libraries("")
    # torch, Optuna and MLflow take seconds, which no other command shall wait for.
    from mlflow_phi3.evaluation.notation import count_of
    from mlflow_phi3.sweep.repair import open_storage_of, repair_study
    from mlflow_phi3.sweep.storage import find_storage
    from mlflow_phi3.tracking.tracker import open_tracker

    tracker = open_tracker()
    kept = open_storage_of(study, find_storage(storage, tracker.uri))
    done = repair_study(kept, study, tracker=tracker, now=time.time())
    released, closed = count_of(len(done.released), "trial"), count_of(len(done.closed), "run")
    typer.echo(f"{released} released to wait again, {closed} closed.")
