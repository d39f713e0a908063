"""The ledger: everything that is asked of, and told to, a study in Optuna's storage."""

import itertools
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna import Study
from optuna.exceptions import UpdateFinishedTrialError
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, Trial, TrialState

from mlflow_phi3.errors import UsageError
from mlflow_phi3.sweep.drivers import Driver, is_alive
from mlflow_phi3.sweep.results import trial_name
from mlflow_phi3.sweep.space import EPOCHS, Space
from mlflow_phi3.training.spec import TrialSpec

OWNER = "owner"
RUN_ID = "run_id"
REASON = "reason"
_ROUND = "round"
_SURPLUS = "surplus"
_FACTS = "made_of"


@dataclass(slots=True)
class Ticket:
    """A trial that this driver has to train.

    Args:
        trial: Optuna's live trial.
        spec: What it trains with.
        known: Validation losses that the study knows already, by epoch; empty for a new trial.
        taken_over: Whether another attempt at it was made before.
    """

    trial: Trial
    spec: TrialSpec
    known: dict[int, float] = field(default_factory=dict)
    taken_over: bool = False

    @property
    def name(self) -> str:
        """``trial-007``."""
        return trial_name(self.trial.number)

    @property
    def run_id(self) -> str:
        """The MLflow run that an earlier attempt began, or empty."""
        return str(self.trial.user_attrs.get(RUN_ID, ""))


class Ledger:
    """A study, seen by one driver.

    Args:
        study: Optuna's.
        storage: Where it is kept.
        space: What is searched.
        driver: Who asks.
        sampler: Makes the sampler for the trial of a number.
        n_trials: Trials of the study in total.
        grid: Whether to walk every combination instead of asking the sampler.
        share_epochs: Whether each proposal is tried with every number of epochs.
    """

    def __init__(
        self,
        study: Study,
        storage: BaseStorage,
        space: Space,
        driver: Driver,
        *,
        sampler: Callable[[int], BaseSampler],
        n_trials: int,
        grid: bool = False,
        share_epochs: bool = True,
    ) -> None:
        self.study = study
        self.space = space
        self.n_trials = n_trials
        self._storage = storage
        self.driver = driver
        self._sampler = sampler
        self._grid = list(space.grid()) if grid else None
        self._companions = space.epochs_to_share() if share_epochs and not grid else ()
        self._distributions = space.distributions()
        self._standing: tuple[int, FrozenTrial | None] = (0, None)
        self._refresh()

    # -- reading -----------------------------------------------------------------------------

    def trials(self) -> list[FrozenTrial]:
        """All trials that count, by number."""
        found = self.study.get_trials(deepcopy=False)
        return [trial for trial in found if _SURPLUS not in trial.user_attrs]

    def standing(self) -> tuple[int, FrozenTrial | None]:
        """How many trials are over, and the best complete one, as this driver knows."""
        return self._standing

    def best(self) -> FrozenTrial | None:
        """The complete trial with the lowest loss; of equals the shorter, then the earlier."""
        complete = [trial for trial in self.trials() if trial.state is TrialState.COMPLETE]
        return min(complete, key=self._rank, default=None)

    def open_trials(self) -> list[FrozenTrial]:
        """Those that wait or run, here or elsewhere."""
        return [trial for trial in self.trials() if not trial.state.is_finished()]

    @property
    def asked(self) -> int:
        """How many trials were ever proposed."""
        return len(self.trials())

    @property
    def exhausted(self) -> bool:
        """Whether nothing is left to propose."""
        asked = len(self.trials())
        return asked >= self.n_trials or (self._grid is not None and asked >= len(self._grid))

    # -- asking ------------------------------------------------------------------------------

    def take(self, trainings: int) -> list[Ticket]:
        """The next trials for this driver: first what was left behind, then new proposals.

        A round that was interrupted is filled up with what is missing of it and nothing more, so
        that the proposals are those of a study that was never interrupted.

        Args:
            trainings: How many trainings they may need; trials that share one count once.

        Returns:
            Tickets by number; none when nothing is left to propose.
        """
        self.reclaim()
        self._refresh()
        tickets: list[Ticket] = []
        trunks: set[TrialSpec] = set()
        first: int | None = None
        while True:
            waiting = self._next_waiting()
            if waiting is None and (len(trunks) >= trainings or self.exhausted):
                break
            if waiting is not None and self._overflows(waiting, tickets, trainings):
                break
            ticket = self._ask(waiting, first)
            if ticket is None:
                continue
            tickets.append(ticket)
            if first is None:
                first = int(ticket.trial.user_attrs[_ROUND])
                trunks = self._trunks(first)
            trunks.add(ticket.spec.trunk)
            self._enqueue_siblings(ticket, first)
        return sorted(tickets, key=lambda ticket: ticket.trial.number)

    def reclaim(self) -> list[int]:
        """Let trials of dead drivers wait again; their numbers."""
        attrs = self.study.user_attrs
        found: list[int] = []
        for trial in self.trials():
            owner = str(trial.user_attrs.get(OWNER, ""))
            mine = owner == self.driver.name
            if trial.state is not TrialState.RUNNING or mine:
                continue
            if is_alive(owner, attrs, now=time.time()):
                continue
            self._set_waiting(trial._trial_id)  # noqa: SLF001 - Optuna's storages know no other name
            found.append(trial.number)
        return found

    # -- telling -----------------------------------------------------------------------------

    def report(self, ticket: Ticket, epoch: int, loss: float) -> None:
        """Tell a validation loss after so many epochs; what is known already stays."""
        if epoch not in ticket.known:
            ticket.trial.report(loss, epoch)
            ticket.known[epoch] = loss

    def should_prune(self, ticket: Ticket) -> bool:
        """Whether the pruner gives the trial up."""
        return bool(ticket.trial.should_prune())

    def note(self, ticket: Ticket, name: str, value: object) -> None:
        """Keep a fact about a trial."""
        ticket.trial.set_user_attr(name, value)

    def complete(self, ticket: Ticket, loss: float) -> None:
        """The trial is over with this loss."""
        self.study.tell(ticket.trial.number, loss, skip_if_finished=True)
        self._refresh()

    def prune(self, ticket: Ticket) -> None:
        """The trial was given up."""
        self.study.tell(ticket.trial.number, state=TrialState.PRUNED, skip_if_finished=True)
        self._refresh()

    def fail(self, ticket: Ticket, reason: str) -> None:
        """The trial cannot be finished; it is not tried again."""
        self.note(ticket, REASON, reason)
        self.study.tell(ticket.trial.number, state=TrialState.FAIL, skip_if_finished=True)
        self._refresh()

    def release(self, ticket: Ticket) -> None:
        """Leave the trial to whoever continues the study."""
        self._set_waiting(ticket.trial._trial_id)  # noqa: SLF001 - Optuna's storages know no other name

    # -- below -------------------------------------------------------------------------------

    def _refresh(self) -> None:
        over = sum(trial.state.is_finished() for trial in self.trials())
        self._standing = (over, self.best())

    def _rank(self, trial: FrozenTrial) -> tuple[float, int, int]:
        return (float(trial.value), self.space.spec(trial.params).epochs, trial.number)

    def _next_waiting(self) -> FrozenTrial | None:
        """The waiting trial that Optuna would hand out next."""
        found = (trial for trial in self.trials() if trial.state is TrialState.WAITING)
        return next(found, None)

    def _overflows(self, waiting: FrozenTrial, tickets: Sequence[Ticket], trainings: int) -> bool:
        """Whether the waiting trial needs one training more than may go on together."""
        mine = {ticket.spec.trunk for ticket in tickets}
        params = _params(waiting)
        new = set(params) != set(self._distributions)
        return len(mine) >= trainings and (new or self.space.spec(params).trunk not in mine)

    def _ask(self, waiting: FrozenTrial | None, first: int | None) -> Ticket | None:
        """The next trial, or None when another driver had already asked for the last one."""
        number = waiting.number if waiting else len(self.study.get_trials(deepcopy=False))
        if waiting is None and self._grid is not None:
            self.study.enqueue_trial(self._grid[len(self.trials())])
        self.study.sampler = self._sampler(number)
        trial = self.study.ask(self._distributions)
        taken_over = OWNER in trial.user_attrs
        trial.set_user_attr(OWNER, self.driver.name)
        if _ROUND not in trial.user_attrs:
            trial.set_user_attr(_ROUND, trial.number if first is None else first)
        before = [other for other in self.trials() if other.number < trial.number]
        if len(before) >= self.n_trials:
            trial.set_user_attr(_SURPLUS, value=True)
            self.study.tell(trial.number, state=TrialState.FAIL)
            return None
        known = self._storage.get_trial(trial._trial_id).intermediate_values  # noqa: SLF001 - as above
        return Ticket(trial, self.space.spec(trial.params), dict(known), taken_over)

    def _enqueue_siblings(self, ticket: Ticket, first: int) -> None:
        """Enqueue what shares this ticket's training and was not asked yet."""
        for params in self._siblings(ticket):
            if self.exhausted:
                return
            self.study.enqueue_trial(dict(params), user_attrs={_ROUND: first})

    def _siblings(self, ticket: Ticket) -> Iterable[Mapping[str, Any]]:
        if self._grid is not None:
            rest = self._grid[len(self.trials()) :]
            trunk = ticket.spec.trunk
            return list(
                itertools.takewhile(lambda params: self.space.spec(params).trunk == trunk, rest)
            )
        asked = [_params(trial) for trial in self.trials()] if self._companions else []
        wanted = ({**ticket.trial.params, EPOCHS: epochs} for epochs in self._companions)
        return [params for params in wanted if params not in asked]

    def _trunks(self, first: int) -> set[TrialSpec]:
        """The trainings of a round, finished ones included."""
        members = [trial for trial in self.trials() if trial.user_attrs.get(_ROUND) == first]
        complete = [_params(trial) for trial in members]
        names = set(self._distributions)
        return {self.space.spec(params).trunk for params in complete if set(params) == names}

    def _set_waiting(self, trial_id: int) -> None:
        try:
            self._storage.set_trial_state_values(trial_id, state=TrialState.WAITING)
        except UpdateFinishedTrialError:  # someone else finished it meanwhile
            return


def open_study(
    storage: BaseStorage, name: str, *, pruner: BasePruner, facts: Mapping[str, str]
) -> Study:
    """Begin the study called ``name``, or take it up where it was left.

    Args:
        storage: Where it is kept.
        name: Of the study.
        pruner: Judges its trials.
        facts: What makes its trials comparable: the space, the seed, the data, the base.

    Raises:
        UsageError: The study exists and was made of something else.
    """
    study = optuna.create_study(
        storage=storage, study_name=name, direction="minimize", pruner=pruner, load_if_exists=True
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


def _params(trial: FrozenTrial) -> dict[str, Any]:
    """What a trial has, or will have, as its parameters."""
    return {**trial.system_attrs.get("fixed_params", {}), **trial.params}
