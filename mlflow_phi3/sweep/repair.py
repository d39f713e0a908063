"""Close what a dead machine left behind."""

from dataclasses import dataclass, replace

import optuna
from optuna import Study
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from mlflow_phi3.errors import UsageError
from mlflow_phi3.sweep.drivers import is_alive
from mlflow_phi3.sweep.storage import is_missing, open_storage
from mlflow_phi3.sweep.study import find_experiment
from mlflow_phi3.sweep.tickets import RUN_ID, owner_of, signature
from mlflow_phi3.sweep.trial_run import DRIVER, NUMBER, REASON, STATE, STUDY
from mlflow_phi3.sweep.writer import build_writer
from mlflow_phi3.tracking.tracker import Tracker
from mlflow_phi3.tracking.uris import hide_password

_WHY = "its driver died; continue the study to go on"


@dataclass(frozen=True, slots=True)
class Repair:
    """What was put right.

    Args:
        released: Trials that wait again, by number.
        closed: MLflow runs that were RUNNING with nobody behind them.
    """

    released: tuple[int, ...]
    closed: tuple[str, ...]


def open_storage_of(study_name: str, url: str) -> BaseStorage:
    """Connect to the storage that keeps a study; none is made where none is.

    Raises:
        UsageError: It does not have the study, or is no storage.
        PreflightError: It does not answer, or cannot be read.
    """
    unknown = UsageError(
        "PHI3-U090",
        f"no study {study_name!r}",
        where=hide_password(url),
        fix="look at the tags phi3.study and phi3.storage of a run",
    )
    if is_missing(url):  # a file that there is not would be made
        raise unknown
    storage = open_storage(url)
    try:
        storage.get_study_id_from_name(study_name)
    except KeyError:
        raise unknown from None
    return storage


def repair_study(storage: BaseStorage, study_name: str, *, tracker: Tracker, now: float) -> Repair:
    """Release the trials of dead drivers, and close the runs that they left RUNNING.

    Nothing is lost: a released trial goes on from its last checkpoint, in its own run, when the
    study is continued. Trials of living drivers are left alone.

    Args:
        storage: Where the study is kept.
        study_name: Which study.
        tracker: The store of its runs; another experiment is looked into where they are there.
        now: Seconds since 1970.

    Raises:
        KeyError: There is no such study.
    """
    study = optuna.load_study(study_name=study_name, storage=storage)
    tracker = replace(
        tracker, experiment_id=find_experiment(study, tracker) or tracker.experiment_id
    )
    # Before trials and drivers are read: who begins meanwhile has those before a run.
    running = tracker.find({STUDY: study_name}, status="RUNNING")
    trials = study.get_trials(deepcopy=False)
    attrs = study.user_attrs  # later than the trials, for the same reason
    busy = {trial.number for trial in trials if _is_driven(trial, attrs, now)}
    writer = build_writer(storage)
    released = tuple(
        trial.number
        for trial in trials
        if trial.state is TrialState.RUNNING
        and trial.number not in busy
        and writer.release(trial._trial_id, signature(trial))  # noqa: SLF001 - Optuna's storages know no other name
    )
    closed = [
        run.info.run_id
        for run in running
        if NUMBER in run.data.tags and int(run.data.tags[NUMBER]) not in busy
    ]
    states = {str(trial.user_attrs.get(RUN_ID, "")): trial.state for trial in trials}
    for run_id in closed:
        _close(tracker, run_id, states.get(run_id, TrialState.WAITING))
    closed += close_sweeps(study, tracker=tracker, now=now)
    return Repair(released, tuple(closed))


def close_sweeps(study: Study, *, tracker: Tracker, now: float) -> list[str]:
    """Close the runs of sweeps whose drivers died, and the runs around them; their ids.

    Nobody takes up such a run again: who continues the study has one of their own.
    """
    running = tracker.find({STUDY: study.study_name}, status="RUNNING")
    attrs = study.user_attrs  # later than the runs: a driver is told of before its run begins
    closed: list[str] = []
    for found in running:
        driver = found.data.tags.get(DRIVER)
        if driver is None or is_alive(driver, attrs, now=now):
            continue
        closed += tracker.close_outwards(found.info.run_id, {REASON: _WHY})
    return closed


def _is_driven(trial: FrozenTrial, attrs: dict[str, str], now: float) -> bool:
    return trial.state is TrialState.RUNNING and is_alive(owner_of(trial), attrs, now=now)


def _close(tracker: Tracker, run_id: str, state: TrialState) -> None:
    """Give a run the end of its trial: the driver may have died between telling the two."""
    run = tracker.get(run_id)
    if state is TrialState.COMPLETE:
        run.set_tags({STATE: "COMPLETE"})
        run.end("FINISHED")
    elif state is TrialState.FAIL:
        run.set_tags({STATE: "FAIL"})
        run.end("FAILED")
    else:
        pruned = state is TrialState.PRUNED
        run.set_tags({STATE: "PRUNED" if pruned else "WAITING", REASON: _WHY * (not pruned)})
        run.end("KILLED")
