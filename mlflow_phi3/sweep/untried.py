"""Which points of the search space a study has yet to try: none is tried twice."""

import math
from collections.abc import Sequence
from typing import Any

from optuna.trial import FrozenTrial

from mlflow_phi3.sweep.space import EPOCHS, Space

Point = dict[str, Any]
"""A value for each parameter that is searched."""


class Untried:
    """What a study has yet to try.

    Args:
        space: What is searched.
        n_trials: Trials of the study in total.
        grid: Whether every combination is walked in order.
        share_epochs: Whether each proposal is tried with every number of epochs.
    """

    def __init__(self, space: Space, n_trials: int, *, grid: bool, share_epochs: bool) -> None:
        self.total = int(min(n_trials, space.size))
        """Trials that the study will have."""
        self._space = space
        self._n_trials = n_trials
        self._grid = grid
        self._companions = space.epochs_to_share() if share_epochs and not grid else ()

    def left(self, known: Sequence[FrozenTrial]) -> int:
        """How many trials may still be proposed beside the ``known`` ones."""
        left = self._n_trials - len(known)
        if self.total == self._n_trials:
            return left
        return min(left, self.total - len(self._tried(known)))

    def points(self, known: Sequence[FrozenTrial]) -> list[Point]:
        """Points of a space that has an end which no known trial has, in their order."""
        tried = self._tried(known)
        return [point for point in self._space.grid() if frozenset(point.items()) not in tried]

    def instead(self, point: Point, known: Sequence[FrozenTrial]) -> Point | None:
        """What to try in place of a point that would give known numbers again, else None.

        It is the untried point that has most values in common with it. Samplers repeat themselves
        where values can be counted.
        """
        wanted = frozenset(point.items())
        if math.isinf(self._space.size) or wanted not in self._tried(known):
            return None
        return max(self.points(known), key=lambda other: len(wanted & other.items()))

    def siblings(self, point: Point, known: Sequence[FrozenTrial]) -> list[Point]:
        """Points that share the training of ``point`` and that no known trial has."""
        if self._grid:
            trunk = self._space.spec(point).trunk
            return [p for p in self.points(known) if self._space.spec(p).trunk == trunk]
        wanted = ({**point, EPOCHS: epochs} for epochs in self._companions)
        asked = [trial.params for trial in known] if self._companions else []
        return [params for params in wanted if params not in asked]

    def _tried(self, known: Sequence[FrozenTrial]) -> set[frozenset[tuple[str, Any]]]:
        whole = (trial.params for trial in known if self._space.is_whole(trial.params))
        return {frozenset(params.items()) for params in whole}
