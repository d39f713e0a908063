"""The ledger: everything that is asked of, and told to, a study in Optuna's storage."""

import itertools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from optuna import Study
from optuna.exceptions import UpdateFinishedTrialError
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, Trial, TrialState

from mlflow_phi3.sweep.drivers import GRACE_S, Driver, is_alive
from mlflow_phi3.sweep.results import trial_name
from mlflow_phi3.sweep.space import EPOCHS, Space
from mlflow_phi3.training.spec import TrialSpec

RUN_ID = "run_id"
REASON = "reason"
OUTCOME = "outcome"
# One attribute for what is always written together: each costs a round trip to the storage.
LEASE = "lease"
OWNER = "driver"
_ROUND = "round"
_SURPLUS = "surplus"


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
        self._standing = Standing()

    # -- reading -----------------------------------------------------------------------------

    def trials(self) -> list[FrozenTrial]:
        """All trials that count, by number."""
        found = self.study.get_trials(deepcopy=False)
        return [trial for trial in found if _SURPLUS not in trial.user_attrs]

    def standing(self) -> Standing:
        """How far the study is, as this driver knows: others' trials count from the next round."""
        return self._standing

    def best(self) -> FrozenTrial | None:
        """The complete trial with the lowest loss; of equals the shorter, then the earlier."""
        return self._best_of(self.trials())

    def open_trials(self) -> list[FrozenTrial]:
        """Those that wait or run, here or elsewhere."""
        return [trial for trial in self.trials() if not trial.state.is_finished()]

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
        tickets: list[Ticket] = []
        trunks: set[TrialSpec] = set()
        first: int | None = None
        while True:
            # The storage is read once a proposal: with a thousand trials that is what costs.
            known = self.trials()
            waiting = next((trial for trial in known if trial.state is TrialState.WAITING), None)
            if waiting is None and (len(trunks) >= trainings or self._left(known) <= 0):
                break
            if waiting is not None and self._overflows(waiting, tickets, trainings):
                break
            ticket = self._ask(waiting, known, first)
            if ticket is None:
                continue
            tickets.append(ticket)
            if first is None:
                first = int(ticket.trial.user_attrs[LEASE][_ROUND])
                trunks = self._trunks(first, known)
            trunks.add(ticket.spec.trunk)
            if waiting is None or ticket.taken_over:
                self._enqueue_siblings(ticket, known, first)
        self._standing = self._stand(known)
        return sorted(tickets, key=lambda ticket: ticket.trial.number)

    def reclaim(self) -> list[int]:
        """Let trials of dead drivers wait again; their numbers."""
        attrs = self.study.user_attrs
        found: list[int] = []
        for trial in self.trials():
            owner = str(trial.user_attrs.get(LEASE, {}).get(OWNER, ""))
            if trial.state is not TrialState.RUNNING or owner == self.driver.name:
                continue
            began = trial.datetime_start.timestamp() if trial.datetime_start else 0.0
            just_asked = not owner and time.time() - began < GRACE_S
            if just_asked or is_alive(owner, attrs, now=time.time()):
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
        before = self._standing
        better = math.isnan(before.best_loss) or loss < before.best_loss
        self._standing = Standing(
            before.finished + 1,
            ticket.trial.number if better else before.best,
            loss if better else before.best_loss,
        )

    def prune(self, ticket: Ticket, reason: str) -> None:
        """The trial was given up."""
        self.note(ticket, REASON, reason)
        self.study.tell(ticket.trial.number, state=TrialState.PRUNED, skip_if_finished=True)
        self._standing = replace(self._standing, finished=self._standing.finished + 1)

    def fail(self, ticket: Ticket, reason: str) -> None:
        """The trial cannot be finished; it is not tried again."""
        self.note(ticket, REASON, reason)
        self.study.tell(ticket.trial.number, state=TrialState.FAIL, skip_if_finished=True)
        self._standing = replace(self._standing, finished=self._standing.finished + 1)

    def release(self, ticket: Ticket) -> None:
        """Leave the trial to whoever continues the study."""
        self._set_waiting(ticket.trial._trial_id)  # noqa: SLF001 - Optuna's storages know no other name

    # -- below -------------------------------------------------------------------------------

    def _left(self, known: Sequence[FrozenTrial]) -> int:
        """How many trials may still be proposed."""
        total = self.n_trials if self._grid is None else min(self.n_trials, len(self._grid))
        return total - len(known)

    def _best_of(self, known: Sequence[FrozenTrial]) -> FrozenTrial | None:
        complete = [trial for trial in known if trial.state is TrialState.COMPLETE]
        return min(complete, key=self._rank, default=None)

    def _rank(self, trial: FrozenTrial) -> tuple[float, int, int]:
        return (float(trial.value), self.space.spec(trial.params).epochs, trial.number)

    def _stand(self, known: Sequence[FrozenTrial]) -> Standing:
        best = self._best_of(known)
        finished = sum(trial.state.is_finished() for trial in known)
        if best is None:
            return Standing(finished)
        return Standing(finished, best.number, float(best.value))

    def _overflows(self, waiting: FrozenTrial, tickets: Sequence[Ticket], trainings: int) -> bool:
        """Whether the waiting trial needs one training more than may go on together."""
        mine = {ticket.spec.trunk for ticket in tickets}
        params = _params(waiting)
        new = set(params) != set(self._distributions)
        return len(mine) >= trainings and (new or self.space.spec(params).trunk not in mine)

    def _ask(
        self, waiting: FrozenTrial | None, known: Sequence[FrozenTrial], first: int | None
    ) -> Ticket | None:
        """The next trial, or None when another driver had already asked for the last one."""
        if waiting is not None:
            number = waiting.number
        else:
            number = known[-1].number + 1 if known else 0
            if self._grid is not None:
                self.study.enqueue_trial(self._grid[len(known)])
        self.study.sampler = self._sampler(number)
        trial = self.study.ask(self._distributions)
        lease = trial.user_attrs.get(LEASE, {_ROUND: trial.number if first is None else first})
        taken_over = OWNER in lease
        trial.set_user_attr(LEASE, {**lease, OWNER: self.driver.name})
        if trial.number >= self.n_trials:
            before = sum(other.number < trial.number for other in self.trials())
            if before >= self.n_trials:
                trial.set_user_attr(_SURPLUS, value=True)
                self.study.tell(trial.number, state=TrialState.FAIL)
                return None
        losses = waiting.intermediate_values if waiting is not None else {}
        return Ticket(trial, self.space.spec(trial.params), dict(losses), taken_over)

    def _enqueue_siblings(self, ticket: Ticket, known: Sequence[FrozenTrial], first: int) -> None:
        """Enqueue what shares this ticket's training and was not asked yet."""
        others = [trial for trial in known if trial.number != ticket.trial.number]
        siblings = self._siblings(ticket, others)
        for params in siblings[: max(0, self._left(others) - 1)]:
            self.study.enqueue_trial(params, user_attrs={LEASE: {_ROUND: first}})

    def _siblings(self, ticket: Ticket, others: Sequence[FrozenTrial]) -> list[dict[str, Any]]:
        if self._grid is not None:
            rest = self._grid[len(others) + 1 :]
            trunk = ticket.spec.trunk
            return list(
                itertools.takewhile(lambda point: self.space.spec(point).trunk == trunk, rest)
            )
        wanted = ({**ticket.trial.params, EPOCHS: epochs} for epochs in self._companions)
        asked = [ticket.trial.params, *(_params(trial) for trial in others if self._companions)]
        return [params for params in wanted if params not in asked]

    def _trunks(self, first: int, known: Sequence[FrozenTrial]) -> set[TrialSpec]:
        """The trainings of a round, finished ones included."""
        members = [t for t in known if t.user_attrs.get(LEASE, {}).get(_ROUND) == first]
        names = set(self._distributions)
        complete = [params for params in map(_params, members) if set(params) == names]
        return {self.space.spec(params).trunk for params in complete}

    def _set_waiting(self, trial_id: int) -> None:
        try:
            self._storage.set_trial_state_values(trial_id, state=TrialState.WAITING)
        except UpdateFinishedTrialError:  # someone else finished it meanwhile
            return


def _params(trial: FrozenTrial) -> dict[str, Any]:
    """What a trial has, or will have, as its parameters."""
    return {**trial.system_attrs.get("fixed_params", {}), **trial.params}
