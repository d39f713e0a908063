"""Opening a study: where it is kept, how it is searched, and the run that works on it."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import optuna

from mlflow_phi3.config.hyperparameters import Hyperparameters
from mlflow_phi3.config.sweep import SweepConfig
from mlflow_phi3.sweep.budget import Budget, plan_budget
from mlflow_phi3.sweep.drivers import this_driver
from mlflow_phi3.sweep.ledger import Ledger
from mlflow_phi3.sweep.pruners import build_pruner
from mlflow_phi3.sweep.samplers import build_sampler
from mlflow_phi3.sweep.space import Space
from mlflow_phi3.sweep.storage import find_storage, open_storage
from mlflow_phi3.sweep.study import check_runs, open_study
from mlflow_phi3.sweep.trial_run import STORAGE, STUDY
from mlflow_phi3.tracking.run import Run
from mlflow_phi3.tracking.tags import DATASET_TAG, TEMPLATE_TAG
from mlflow_phi3.tracking.tracker import Tracker
from mlflow_phi3.tracking.uris import hide_password

EXAMPLES = "phi3.examples_sha256"
"""Tokens and mask of what is trained on and measured: equal data may be cut differently."""

# Tags of a run, and that, by which its numbers are comparable.
_COMPARABLE = (
    DATASET_TAG,
    EXAMPLES,
    TEMPLATE_TAG,
    "phi3.base_revision",
    "phi3.base_precision",
    "phi3.base_quantization",
)


@dataclass(frozen=True, slots=True)
class OpenStudy:
    """A study that is open, and the run that works on it.

    Args:
        ledger: The study.
        url: Of its storage.
        config: What to search and how.
        budget: How long it may take.
        tracker: Where runs go.
        parent: The sweep's run, whose children the trials are.
    """

    ledger: Ledger
    url: str
    config: SweepConfig
    budget: Budget
    tracker: Tracker
    parent: Run

    @property
    def name(self) -> str:
        """Of the study."""
        return str(self.ledger.study.study_name)


def begin_study(
    config: SweepConfig, space: Space, *, tracker: Tracker, parent: Run, facts: Mapping[str, str]
) -> OpenStudy:
    """Open the study that a sweep works on, and say on its run which one that is.

    Args:
        config: What to search and how; names the study, or else its run does.
        space: What is searched.
        tracker: Where runs go.
        parent: The sweep's run.
        facts: Tags of the run, and those by which its numbers are comparable.

    Raises:
        UsageError: An option that is not known, a study that was made of something else, or one
            whose runs are in another store or experiment.
    """
    budget, url = plan_budget(config), find_storage(config.storage, tracker.uri)
    name = config.study or parent.run_id[:12]
    ledger = open_ledger(config, space, name=name, url=url, tags=facts)
    check_runs(ledger.study, tracker)
    parent.set_tags({STUDY: name, STORAGE: hide_password(url)})
    return OpenStudy(ledger, url, config, budget, tracker, parent)


def open_ledger(
    config: SweepConfig, space: Space, *, name: str, url: str, tags: Mapping[str, str]
) -> Ledger:
    """The study called ``name`` in the storage at ``url``.

    Raises:
        UsageError: An option that is not known, or a study that was made of something else.
    """
    # Optuna tells every trial on the terminal; the progress line is ours.
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = partial(
        build_sampler,
        config.sampler,
        config.sampler_options,
        seed=config.seed,
        n_trials=config.n_trials,
    )
    sampler(number=0)  # refuse a wrong option before anything is written
    pruner = build_pruner(config.pruner, config.pruner_options, longest=space.most_evaluations)
    study = open_study(
        open_storage(url),
        name,
        pruner=pruner,
        facts=_facts(config, tags),
        objectives=len(config.objectives),
    )
    return Ledger(
        study,
        space,
        this_driver(),
        sampler=lambda number: sampler(number=number),
        n_trials=config.n_trials,
        grid=config.sampler == "grid",
        share_epochs=config.share_epochs,
    )


def _facts(config: SweepConfig, tags: Mapping[str, str]) -> dict[str, str]:
    """What a study's trials have in common."""
    names = [*Hyperparameters.model_fields, "model", "seed"]
    if len(config.objectives) > 1:
        names.append("objective")
    told = {name: str(getattr(config, name)) for name in names}
    return told | {name: tags[name] for name in _COMPARABLE if name in tags}
