"""Pruners by name, and one that judges a whole group at once."""

import copy
import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from optuna import Study, pruners
from optuna.exceptions import UpdateFinishedTrialError
from optuna.pruners import BasePruner
from optuna.trial import FrozenTrial

from mlflow_phi3.sweep.options import build_by_name, parse_options
from mlflow_phi3.sweep.tickets import Ticket

# With fewer finished trials a median is chance.
_MEDIAN_STARTUP = 4
# They keep with each trial how far it was promoted.
_WRITING = (pruners.SuccessiveHalvingPruner, pruners.HyperbandPruner)


class HalvingPruner(BasePruner):  # type: ignore[misc]  # optuna's types are not followed
    """Keep the best share of trials at every evaluation (Jamieson, Talwalkar, arXiv:1502.07943).

    Optuna's own successive halving is asynchronous: the first trial to arrive always goes on. Here
    the trials of a group have all reported before the first is judged, so each is compared with
    every trial that was ever measured as often.

    Args:
        reduction_factor: One in so many goes on, more than 1.
        min_resource: Evaluations before the first judgement, at least 1.
    """

    def __init__(self, reduction_factor: float = 2.0, min_resource: int = 1) -> None:
        if not 1 < reduction_factor < math.inf or min_resource < 1:
            raise ValueError("reduction_factor must be above 1 and min_resource at least 1")
        self._factor = reduction_factor
        self._least = min_resource

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        """Whether ``trial`` is among the worse at its latest evaluation."""
        number = trial.last_step
        if number is None or number < self._least:
            return False
        rivals = sorted(
            # Trials that share a training have one value, and count once.
            {
                other.intermediate_values[number]
                for other in study.get_trials(deepcopy=False)
                if number in other.intermediate_values
            }
        )
        kept = math.ceil(len(rivals) / self._factor)
        return bool(trial.intermediate_values[number] > rivals[kept - 1])


def find_hopeless(
    study: Study, known: Sequence[FrozenTrial], tickets: Sequence[Ticket]
) -> list[Ticket]:
    """Those of a group's trials that the study's pruner gives up.

    Args:
        study: Optuna's, with its pruner.
        known: All its trials by number, with what the group has reported.
        tickets: Trials that have all reported the same evaluation.
    """
    pruner, found = study.pruner, []
    if isinstance(pruner, pruners.NopPruner):
        return []
    for ticket in tickets:
        if isinstance(pruner, _WRITING):
            known = study.get_trials(deepcopy=False)
        # Of one that another driver has finished nothing is kept; its next report tells that.
        with suppress(UpdateFinishedTrialError):
            if pruner.prune(_with_trials(study, known), known[ticket.number]):
                found.append(ticket)
    return found


def _with_trials(study: Study, known: Sequence[FrozenTrial]) -> Study:
    """The study as a pruner sees it, with trials that need not be read."""

    def get_trials(*, deepcopy: bool = False, states: Any = None) -> list[FrozenTrial]:
        del deepcopy  # pruners change none
        return [trial for trial in known if states is None or trial.state in states]

    seen = copy.copy(study)
    seen.get_trials = get_trials
    return seen


def build_pruner(name: str, options: str, *, longest: int) -> BasePruner:
    """The pruner called ``name``.

    Args:
        name: As ``pruner`` of :class:`mlflow_phi3.config.sweep.SweepConfig`.
        options: ``name=value`` pairs of the pruner's own, joined by commas.
        longest: Evaluations of the longest trial that there can be.

    Raises:
        UsageError: An option that the pruner does not know.
    """
    where = "pruner_options"
    given = parse_options(options, where)
    makes: dict[str, tuple[Callable[..., BasePruner], dict[str, Any]]] = {
        "none": (pruners.NopPruner, {}),
        "median": (pruners.MedianPruner, {"n_startup_trials": _MEDIAN_STARTUP}),
        "halving": (HalvingPruner, {}),
        "asha": (pruners.SuccessiveHalvingPruner, {"reduction_factor": 2}),
        # Optuna's own "auto" is what the first complete trial had, were it the shortest, and
        # something else when the study is continued.
        "hyperband": (pruners.HyperbandPruner, {"reduction_factor": 2, "max_resource": longest}),
        "patient": (pruners.PatientPruner, {"wrapped_pruner": None, "patience": 1}),
    }
    make, defaults = makes[name]
    made: BasePruner = build_by_name(make, defaults, given, where)
    if name == "hyperband":
        # Its brackets are halvings, whose options Optuna checks when it is first asked.
        rungs = {name: given[name] for name in given if name != "max_resource"}
        build_by_name(pruners.SuccessiveHalvingPruner, {"min_resource": 1}, rungs, where)
    return made
