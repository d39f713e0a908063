"""Close what a dead machine left behind."""

from dataclasses import dataclass

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from mlflow_phi3.sweep.drivers import is_alive
from mlflow_phi3.sweep.tickets import LEASE, OWNER, RUN_ID
from mlflow_phi3.sweep.trial_run import NUMBER, REASON, STATE, STUDY
from mlflow_phi3.tracking.runs import Tracker

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


def repair_study(storage: BaseStorage, study_name: str, *, tracker: Tracker, now: float) -> Repair:
    """Release the trials of dead drivers, and close the runs that they left RUNNING.

    Nothing is lost: a released trial goes on from its last checkpoint, in its own run, when the
    study is continued. Trials of living drivers are left alone.

    Args:
        storage: Where the study is kept.
        study_name: Which study.
        tracker: The store and experiment of its runs.
        now: Seconds since 1970.

    Raises:
        KeyError: There is no such study.
    """
    study = optuna.load_study(study_name=study_name, storage=storage)
    attrs = study.user_attrs
    trials = study.get_trials(deepcopy=False)
    busy = {trial.number for trial in trials if _is_driven(trial, attrs, now)}
    released: list[int] = []
    for trial in trials:
        if trial.state is TrialState.RUNNING and trial.number not in busy:
            storage.set_trial_state_values(trial._trial_id, state=TrialState.WAITING)  # noqa: SLF001 - Optuna's storages know no other name
            released.append(trial.number)
    closed = [
        run.info.run_id
        for run in tracker.find({STUDY: study_name})
        if run.info.status == "RUNNING"
        and NUMBER in run.data.tags
        and int(run.data.tags[NUMBER]) not in busy
    ]
    states = {str(trial.user_attrs.get(RUN_ID, "")): trial.state for trial in trials}
    for run_id in closed:
        _close(tracker, run_id, states.get(run_id, TrialState.WAITING))
    return Repair(tuple(released), tuple(closed))


def _is_driven(trial: FrozenTrial, attrs: dict[str, str], now: float) -> bool:
    owner = str(trial.user_attrs.get(LEASE, {}).get(OWNER, ""))
    return trial.state is TrialState.RUNNING and is_alive(owner, attrs, now=now)


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
