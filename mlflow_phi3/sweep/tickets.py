"""A trial that a driver holds, how a study stands, and the names under which it keeps facts."""

import math
from dataclasses import dataclass, field

from optuna.trial import FrozenTrial

from mlflow_phi3.sweep.results import trial_name
from mlflow_phi3.training.spec import TrialSpec

RUN_ID = "run_id"
OUTCOME = "outcome"
# One attribute for what is always written together: each costs a round trip to the storage.
LEASE = "lease"
OWNER = "driver"


def owner_of(trial: FrozenTrial) -> str:
    """The driver that a trial was last signed by; empty when none has."""
    return str(trial.user_attrs.get(LEASE, {}).get(OWNER, ""))


def signature(trial: FrozenTrial) -> dict[str, object]:
    """The fact by which a trial is known to be still whose it was."""
    return {LEASE: trial.user_attrs[LEASE]} if LEASE in trial.user_attrs else {}


@dataclass(slots=True)
class Ticket:
    """A trial that this driver has to train.

    Args:
        trial: As the study had it when it was taken.
        spec: What it trains with.
        known: Validation losses that the study knows already, by the number of their
            evaluation, from 1; empty for a new trial.
        taken_over: Whether another attempt at it was made before.
    """

    trial: FrozenTrial
    spec: TrialSpec
    known: dict[int, float] = field(default_factory=dict)
    taken_over: bool = False

    @property
    def number(self) -> int:
        """Optuna's number of it."""
        return int(self.trial.number)

    @property
    def trial_id(self) -> int:
        """What its storage calls it."""
        return int(self.trial._trial_id)  # noqa: SLF001 - storages know no other name

    @property
    def run_id(self) -> str:
        """The MLflow run that an earlier attempt began, or empty."""
        return str(self.trial.user_attrs.get(RUN_ID, ""))

    @property
    def name(self) -> str:
        """``trial-007``."""
        return trial_name(self.number)


@dataclass(frozen=True, slots=True)
class Standing:
    """How far a study is.

    Args:
        finished: Trials that are complete, pruned or failed.
        best: Number of the best complete trial; None before there is one.
        best_loss: Its loss, else NaN.
    """

    finished: int = 0
    best: int | None = None
    best_loss: float = math.nan
