"""A study in Optuna's storage: begun, or taken up where it was left."""

from collections.abc import Mapping

import optuna
from optuna import Study
from optuna.pruners import BasePruner
from optuna.storages import BaseStorage

from mlflow_phi3.errors import UsageError
from mlflow_phi3.sweep.tickets import RUN_ID
from mlflow_phi3.tracking.tracker import Tracker
from mlflow_phi3.tracking.uris import hide_password

_FACTS = "made_of"


def open_study(
    storage: BaseStorage,
    name: str,
    *,
    pruner: BasePruner,
    facts: Mapping[str, str],
    objectives: int = 1,
) -> Study:
    """Begin the study called ``name``, or take it up where it was left.

    Args:
        storage: Where it is kept.
        name: Of the study.
        pruner: Judges its trials.
        facts: What makes its trials comparable: the space, the seed, the data, the base.
        objectives: How many numbers it makes small.

    Raises:
        UsageError: The study exists and was made of something else.
    """
    study = optuna.create_study(
        storage=storage,
        study_name=name,
        directions=["minimize"] * objectives,
        pruner=pruner,
        load_if_exists=True,
    )
    before = study.user_attrs.get(_FACTS)
    if before is None:
        study.set_user_attr(_FACTS, dict(facts))
        return study
    for key in sorted(set(before) | set(facts)):
        if before.get(key) != facts.get(key):
            raise UsageError(
                "PHI3-U088",
                f"study {name!r} has {key} {before.get(key)}, not {facts.get(key)}",
                where="study",
                fix="continue it with what it was begun with, or begin another",
            )
    return study


def check_runs(study: Study, tracker: Tracker) -> None:
    """Refuse a tracking store, or an experiment, that has none of the runs of the study's trials.

    Raises:
        UsageError: They are in another one.
    """
    place = find_experiment(study, tracker)
    if place is None:
        raise UsageError(
            "PHI3-U091",
            f"the runs of study {study.study_name!r} are not in {hide_password(tracker.uri)}",
            where="study",
            fix="let MLFLOW_TRACKING_URI name the store that has them, or begin another study",
        )
    if place not in {"", tracker.experiment_id}:
        name = tracker.experiment_name(place)
        raise UsageError(
            "PHI3-U092",
            f"the runs of study {study.study_name!r} are in the experiment {name!r}",
            where="study",
            fix="set MLFLOW_EXPERIMENT_NAME to it, or begin another study",
        )


def find_experiment(study: Study, tracker: Tracker) -> str | None:
    """The id of the experiment that has the runs of the study's trials.

    Returns:
        Empty where there is none yet, or all were deleted, as with their experiment; None where the
        store does not know of any of them.
    """
    known = [trial.user_attrs.get(RUN_ID) for trial in study.get_trials(deepcopy=False)]
    run_ids = [str(run_id) for run_id in known if run_id]
    return tracker.locate(reversed(run_ids)) if run_ids else ""
