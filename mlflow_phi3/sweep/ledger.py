"""The ledger: everything that is asked of, and told to, a study in Optuna's storage."""

import copy
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import optuna
from optuna import Study
from optuna.exceptions import UpdateFinishedTrialError
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, Trial, TrialState

from mlflow_phi3.sweep.drivers import GRACE_S, Driver, heard_until, is_alive, spent_by_others
from mlflow_phi3.sweep.gain import bound_gain
from mlflow_phi3.sweep.proposer import Proposer
from mlflow_phi3.sweep.pruners import find_hopeless
from mlflow_phi3.sweep.space import Space
from mlflow_phi3.sweep.tickets import LEASE, OWNER, RUN_ID, Standing, Ticket, owner_of, signature
from mlflow_phi3.sweep.untried import Untried
from mlflow_phi3.sweep.writer import build_writer
from mlflow_phi3.training.spec import TrialSpec

# ruff: noqa: SLF001 - Optuna's storages know trials and studies by no other name

logger = logging.getLogger(__name__)

_ROUND = "round"
_SURPLUS = "surplus"
_ROUND_SIZE = "round_size"


class Ledger:
    """A study, seen by one driver.

    Args:
        study: Optuna's.
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
        self.untried = Untried(space, n_trials, grid=grid, share_epochs=share_epochs)
        # Optuna's cache before the database: what is finished is read once.
        self._storage: BaseStorage = study._storage
        self._writer = build_writer(self._storage)
        self.driver = driver
        self._grid = grid
        self._distributions = space.distributions()
        self.proposer = Proposer(study, self._storage, self._distributions, sampler)
        self._known: list[FrozenTrial] = []
        self._standing = Standing()
        self._gain_of, self._gain = 0, math.inf

    # -- reading -----------------------------------------------------------------------------

    def trials(self) -> list[FrozenTrial]:
        """All trials that count, by number."""
        return _counted(self.study.get_trials(deepcopy=False))

    def finished(self) -> list[tuple[TrialSpec, bool]]:
        """What each trial that is over was to train, and whether it failed."""
        over = [trial for trial in self.trials() if trial.state.is_finished()]
        whole = [trial for trial in over if self.space.is_whole(trial.params)]
        return [(self.space.spec(t.params), t.state is TrialState.FAIL) for t in whole]

    def standing(self) -> Standing:
        """How far the study is, as this driver knows: others' trials count from the next round."""
        return self._standing

    def best(self) -> FrozenTrial | None:
        """The complete trial with the lowest loss; of equals the cheaper, shorter, earlier."""
        return self._best_of(self.trials())

    def front(self) -> frozenset[int]:
        """Numbers of the complete trials that no other beats in one aim and equals in the rest."""
        return frozenset(trial.number for trial in self.study.best_trials)

    def open_trials(self) -> list[FrozenTrial]:
        """Those that wait or run, here or elsewhere."""
        return [trial for trial in self.trials() if not trial.state.is_finished()]

    def spent_by_others(self) -> float:
        """Seconds that other drivers have worked on the study, earlier or meanwhile."""
        return spent_by_others(self.study.user_attrs, self.driver.name)

    def gain_is_below(self, least: float) -> bool:
        """Whether the lowest loss can hardly fall by ``least`` any more; never for 0."""
        if not least:
            return False
        complete = tuple(t for t in self.trials() if t.state is TrialState.COMPLETE)
        if len(complete) != self._gain_of:  # while others train, nothing is to be learnt
            self._gain_of, self._gain = len(complete), bound_gain(complete)
        return self._gain < least

    # -- asking ------------------------------------------------------------------------------

    def take(self, trainings: int, *, propose: bool = True) -> list[Ticket]:
        """The next trials for this driver: first what was left behind, then new proposals.

        A round that was interrupted is filled up with what is missing of it and nothing more, so
        that the proposals are those of a study that was never interrupted.

        Args:
            trainings: How many trainings they may need; trials that share one count once.
            propose: Whether there may be new ones.

        Returns:
            Tickets by number; none when nothing is left to propose.
        """
        self.reclaim()
        tickets: list[Ticket] = []
        trunks: set[TrialSpec] = set()
        first: int | None = None
        while True:
            waiting = next((t for t in self._counted() if t.state is TrialState.WAITING), None)
            full = len(trunks) >= trainings or self._left() <= 0 or not propose
            if waiting is None and full:
                break
            if waiting is not None and self._overflows(waiting, tickets, trainings):
                break
            trial = self._propose(first) if waiting is None else self._pop(waiting)
            if trial is None:  # another driver was faster, or it is a wish that cannot be
                self._look()
                continue
            ticket = self._ticket(trial, waiting)
            tickets.append(ticket)
            if first is None:
                first = int(trial.user_attrs[LEASE][_ROUND])
                trunks = self._trunks(first)
            trunks.add(ticket.spec.trunk)
            if waiting is None or ticket.taken_over:
                self._enqueue_siblings(trial, first)
        self._standing = self._stand()
        return sorted(tickets, key=lambda ticket: ticket.number)

    def reclaim(self) -> list[int]:
        """Let trials of dead drivers wait again; their numbers."""
        self._look()
        attrs = self.study.user_attrs  # later: a driver is told of before it has a trial
        now = heard_until(self.driver.name, attrs)
        found: list[int] = []
        for trial in self._counted():
            if trial.state is not TrialState.RUNNING:
                continue
            owner = owner_of(trial)
            began = trial.datetime_start.timestamp() if trial.datetime_start else 0.0
            # Between rounds this driver has no trial: it lost sight of it when a write failed. A
            # very young one may just have been popped by another, who has not signed it yet.
            forgotten = owner in (self.driver.name, "")
            if forgotten and time.time() - began < GRACE_S:
                continue
            if not forgotten and is_alive(owner, attrs, now=now):
                continue
            if self._writer.release(trial._trial_id, signature(trial)):
                found.append(trial.number)
        if found:
            self._look()
        return found

    def remember_round(self, trainings: int) -> int:
        """How many trainings a round of this study has: what its first driver could do at once.

        Proposals depend on it, so a driver with less memory takes as many and trains them in more
        groups.
        """
        known = self.study.user_attrs.get(_ROUND_SIZE)
        if known is None:
            self.study.set_user_attr(_ROUND_SIZE, trainings)
        return trainings if known is None else int(known)

    # -- telling -----------------------------------------------------------------------------

    def report(self, ticket: Ticket, number: int, loss: float) -> bool:
        """Tell the validation loss of an evaluation; what is known already stays.

        Returns:
            False when another driver, which thought this one dead, has finished the trial.
        """
        if number not in ticket.known:
            try:
                self._writer.report(ticket.trial_id, number, loss)
            except UpdateFinishedTrialError:
                return False
            ticket.known[number] = loss
            self._remember(ticket, TrialState.RUNNING, None)
        return True

    def hopeless(self, tickets: Sequence[Ticket]) -> list[Ticket]:
        """Those of the trials that the pruner gives up; all have reported the same evaluation.

        They are judged by what this driver knows: others' trials count from the next round.
        """
        return find_hopeless(self.study, self._known, tickets)

    def note_runs(self, runs: Sequence[tuple[Ticket, str]]) -> None:
        """Keep which MLflow run each trial of a round has, where that is not known yet."""
        new = {t.trial_id: {RUN_ID: run_id} for t, run_id in runs if run_id != t.run_id}
        try:
            self._writer.note(new)
        except UpdateFinishedTrialError:  # of one that another driver has finished
            for trial_id, facts in new.items():
                with suppress(UpdateFinishedTrialError):
                    self._writer.note({trial_id: facts})

    def complete(
        self,
        ticket: Ticket,
        loss: float,
        costs: Sequence[float] = (),
        facts: Mapping[str, object] | None = None,
    ) -> None:
        """The trial is over with this loss, and these costs where the study has several aims.

        Its last ``facts`` are written with its end, here as in the two other ends.
        """
        self._tell(ticket, TrialState.COMPLETE, [loss, *costs], facts)
        before = self._standing
        if math.isnan(before.best_loss) or loss < before.best_loss:
            self._standing = replace(before, best=ticket.number, best_loss=loss)

    def prune(self, ticket: Ticket, facts: Mapping[str, object] | None = None) -> None:
        """The trial was given up; it counts with the last loss that it reported, if that is all."""
        alone = len(self.study.directions) == 1
        told = [ticket.known[max(ticket.known)]] if ticket.known and alone else None
        self._tell(ticket, TrialState.PRUNED, told, facts)

    def fail(self, ticket: Ticket, facts: Mapping[str, object] | None = None) -> None:
        """The trial cannot be finished; it is not tried again."""
        self._tell(ticket, TrialState.FAIL, None, facts)

    def release(self, ticket: Ticket) -> None:
        """Leave the trial to whoever continues the study, unless another has it already."""
        self._writer.release(ticket.trial_id, signature(ticket.trial))

    # -- below -------------------------------------------------------------------------------

    def _look(self) -> None:
        self._known = list(self.study.get_trials(deepcopy=False))

    def _counted(self) -> list[FrozenTrial]:
        return _counted(self._known)

    def _left(self) -> int:
        return self.untried.left(self._counted())

    def _best_of(self, known: Sequence[FrozenTrial]) -> FrozenTrial | None:
        complete = [trial for trial in known if trial.state is TrialState.COMPLETE]
        return min(complete, key=self._rank, default=None)

    def _rank(self, trial: FrozenTrial) -> tuple[list[float], int, int]:
        return (list(trial.values), self.space.spec(trial.params).epochs, trial.number)

    def _stand(self) -> Standing:
        known = self._counted()
        best = self._best_of(known)
        finished = sum(trial.state.is_finished() for trial in known)
        if best is None:
            return Standing(finished)
        return Standing(finished, best.number, float(best.values[0]))

    def _overflows(self, waiting: FrozenTrial, tickets: Sequence[Ticket], trainings: int) -> bool:
        """Whether the waiting trial needs one training more than may go on together."""
        mine = {ticket.spec.trunk for ticket in tickets}
        new = not self.space.is_whole(waiting.params)
        return len(mine) >= trainings and (new or self.space.spec(waiting.params).trunk not in mine)

    def _propose(self, first: int | None) -> FrozenTrial | None:
        """A new trial in the storage, or None when another driver had made one meanwhile."""
        number = len(self._known)
        if self._grid:
            proposal = self._whole(self.untried.points(self._counted())[0], TrialState.RUNNING)
        else:
            proposal = self.proposer.propose(self._known)
            if other := self.untried.instead(proposal.params, self._counted()):
                proposal = self._whole(other, TrialState.RUNNING)
        lease = {_ROUND: number if first is None else first, OWNER: self.driver.name}
        return self._create(proposal, lease)

    def _whole(self, params: Mapping[str, Any], state: TrialState) -> FrozenTrial:
        return optuna.create_trial(
            state=state, params=dict(params), distributions=self._distributions
        )

    def _create(self, trial: FrozenTrial, lease: Mapping[str, object]) -> FrozenTrial | None:
        """Write a trial at once; None, and it does not count, when its number went to another.

        What was proposed did not know of that other trial: it might be the same one again, or one
        too many.
        """
        trial.user_attrs = {LEASE: dict(lease)}
        study_id, number = self.study._study_id, len(self._known)
        trial_id, given = self._writer.create(study_id, trial)
        trial.number, trial._trial_id = number, trial_id
        if given != number:
            self._writer.finish(trial_id, TrialState.FAIL, None, {_SURPLUS: True})
            return None
        self._known.append(trial)
        return trial

    def _pop(self, waiting: FrozenTrial) -> FrozenTrial | None:
        """A trial that waited, now this driver's; None when another took it."""
        trial_id = waiting._trial_id
        given = waiting.user_attrs.get(LEASE, {})
        lease = {_ROUND: waiting.number, **given, OWNER: self.driver.name}
        if not self._writer.take(trial_id, {LEASE: lease}):
            return None
        if not self.space.is_whole(waiting.params) and not self._fill_in(waiting):
            return None
        trial = self._known[waiting.number] = self._storage.get_trial(trial_id)
        return trial

    def _fill_in(self, wish: FrozenTrial) -> bool:
        """Give somebody's wish, by Optuna's means, all its parameters; False where it has none."""
        asked = Trial(self.study, wish._trial_id)
        try:
            for name, distribution in self._distributions.items():
                asked._suggest(name, distribution)
        except ValueError as error:  # of a value that the parameter does not take
            logger.warning("trial %d, a wish, is left out: %s", wish.number, error)
            self._writer.finish(wish._trial_id, TrialState.FAIL, None, {_SURPLUS: True})
            return False
        return True

    def _ticket(self, trial: FrozenTrial, waiting: FrozenTrial | None) -> Ticket:
        return Ticket(
            trial,
            self.space.spec(trial.params),
            dict(trial.intermediate_values),
            # One that was only enqueued has never begun.
            taken_over=waiting is not None and waiting.datetime_start is not None,
        )

    def _enqueue_siblings(self, trial: FrozenTrial, first: int) -> None:
        """Enqueue what shares this trial's training and was not asked yet."""
        lease = {_ROUND: first, OWNER: self.driver.name}
        siblings = self.untried.siblings(trial.params, self._counted())
        while siblings and self._left() > 0:
            if self._create(self._whole(siblings.pop(0), TrialState.WAITING), lease) is None:
                self._look()  # another driver was faster
                siblings = self.untried.siblings(trial.params, self._counted())

    def _trunks(self, first: int) -> set[TrialSpec]:
        """The trainings of a round, finished ones included."""
        members = [t for t in self._counted() if t.user_attrs.get(LEASE, {}).get(_ROUND) == first]
        return {self.space.spec(t.params).trunk for t in members if self.space.is_whole(t.params)}

    def _tell(
        self,
        ticket: Ticket,
        state: TrialState,
        values: Sequence[float] | None,
        facts: Mapping[str, object] | None,
    ) -> None:
        # Otherwise a driver that was thought dead has finished it.
        with suppress(UpdateFinishedTrialError):
            self._writer.finish(ticket.trial_id, state, values, facts or {})
        self._remember(ticket, state, values)
        self._standing = replace(self._standing, finished=self._standing.finished + 1)

    def _remember(self, ticket: Ticket, state: TrialState, values: Sequence[float] | None) -> None:
        """Know of a trial of this driver what the study was just told, without asking it."""
        trial = copy.copy(ticket.trial)
        trial.intermediate_values = dict(ticket.known)
        trial.state, trial.values = state, values
        self._known[ticket.number] = trial


def _counted(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    return [trial for trial in trials if _SURPLUS not in trial.user_attrs]
