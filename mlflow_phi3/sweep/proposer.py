"""Proposals: what a sampler would try next, asked of a copy of the study in memory.

Asking Optuna's study itself writes a trial piece by piece, first the trial and then each parameter:
a driver that is killed in between leaves half a trial, and a study of a thousand trials is read
again for every parameter. Here the sampler sees a copy that follows the study, and what it proposes
is then written in one transaction.
"""

from collections.abc import Callable, Mapping, Sequence

import optuna
from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, QMCSampler, TPESampler
from optuna.search_space import IntersectionSearchSpace
from optuna.storages import BaseStorage, InMemoryStorage
from optuna.trial import FrozenTrial, TrialState

# ruff: noqa: SLF001 - Optuna's storages know trials and studies by no other name

_TPE_PARAMETERS = "tpe:relative_params"


class Proposer:
    """Asks samplers.

    Args:
        study: The study that the copy follows.
        storage: Where it is kept.
        distributions: What is searched.
        sampler: Makes the sampler for the trial of a number.
    """

    def __init__(
        self,
        study: Study,
        storage: BaseStorage,
        distributions: Mapping[str, BaseDistribution],
        sampler: Callable[[int], BaseSampler],
    ) -> None:
        self._study = study
        self._storage = storage
        self._distributions = dict(distributions)
        self._sampler = sampler
        self._copy = _begin_copy(study, storage)
        self._common = IntersectionSearchSpace(include_pruned=True)
        # How much of the study the copy has, and which of it was not finished then.
        self._followed, self._open = 0, list[int]()

    def propose(self, known: Sequence[FrozenTrial]) -> FrozenTrial:
        """A new trial, RUNNING, with every parameter; it is not yet in the storage.

        Args:
            known: All trials of the study by number, also those that do not count.
        """
        self._follow(known)
        self._copy.sampler = self._sampler(len(known))
        before = self._refresh_notes()
        if isinstance(self._copy.sampler, TPESampler):
            # A new one would look through all trials for what they have in common: half its time.
            self._copy.sampler._search_space = self._common
        asked = self._copy.ask(self._distributions)
        for name, value in self._notes().items():
            if before.get(name) != value:
                self._storage.set_study_system_attr(self._study._study_id, name, value)
        proposed = self._copy._storage.get_trial(asked._trial_id)
        return optuna.create_trial(
            state=TrialState.RUNNING,
            params=proposed.params,
            distributions=proposed.distributions,
            # What TPE tells others of a trial whose parameters are being written one by one.
            system_attrs={
                name: value
                for name, value in proposed.system_attrs.items()
                if not name.startswith(_TPE_PARAMETERS)
            },
        )

    def _follow(self, known: Sequence[FrozenTrial]) -> None:
        """Make the copy what the study is now; what had ended there stays as it is."""
        mine = self._trials()
        unsure = [*self._open, *range(self._followed, len(mine))]
        if len(mine) > len(known) or any(mine[n].params != known[n].params for n in unsure):
            # A proposal that came to nothing: another driver's trial took its number.
            self._copy, mine, unsure = _begin_copy(self._study, self._storage), [], []
            self._common = IntersectionSearchSpace(include_pruned=True)
        for number in unsure:
            if known[number].state.is_finished():
                _finish(self._copy._storage, mine[number], known[number])
        for trial in known[len(mine) :]:
            trial_id = self._copy._storage.create_new_trial(self._copy._study_id, trial)
            if trial.state is TrialState.WAITING:
                # To a sampler it is as good as running; and it is not to be asked for here.
                self._copy._storage.set_trial_state_values(trial_id, TrialState.RUNNING)
        unsure += range(len(mine), len(known))
        self._followed = len(known)
        self._open = [number for number in unsure if not known[number].state.is_finished()]

    def _trials(self) -> list[FrozenTrial]:
        return list(self._copy._storage.get_all_trials(self._copy._study_id, deepcopy=False))

    def _notes(self) -> dict[str, object]:
        """What is kept with the copy: a quasi-random sequence keeps how far it has come."""
        return dict(self._copy._storage.get_study_system_attrs(self._copy._study_id))

    def _refresh_notes(self) -> dict[str, object]:
        """The study's own notes, where the sampler takes any: other drivers go on with them too."""
        if isinstance(self._copy.sampler, QMCSampler):  # no other reads any
            kept = self._storage.get_study_system_attrs(self._study._study_id)
            for name, value in kept.items():
                self._copy._storage.set_study_system_attr(self._copy._study_id, name, value)
        return self._notes()


def _begin_copy(study: Study, storage: BaseStorage) -> Study:
    copy = optuna.create_study(
        storage=InMemoryStorage(), study_name=study.study_name, directions=study.directions
    )
    for name, value in storage.get_study_system_attrs(study._study_id).items():
        copy._storage.set_study_system_attr(copy._study_id, name, value)
    return copy


def _finish(storage: BaseStorage, own: FrozenTrial, trial: FrozenTrial) -> None:
    """Bring an unfinished trial of the copy to its end."""
    for step, value in trial.intermediate_values.items():
        storage.set_trial_intermediate_value(own._trial_id, step, value)
    storage.set_trial_state_values(own._trial_id, trial.state, trial.values)
