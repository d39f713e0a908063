"""Is the winner better, or lucky? A paired bootstrap over the validation examples."""

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mlflow_phi3.data.messages import Example
from mlflow_phi3.evaluation.compare import compare
from mlflow_phi3.sweep.results import TrialResult
from mlflow_phi3.sweep.trial_run import PER_EXAMPLE
from mlflow_phi3.tracking.missing import unless_missing
from mlflow_phi3.tracking.tracker import Tracker
from mlflow_phi3.training.scoring import ExampleScore

# Trials far behind need no test.
_COMPARED = 20


@dataclass(frozen=True, slots=True)
class Rival:
    """A complete trial beside the winner.

    Args:
        number: Of the trial.
        difference: Its loss minus the winner's, in nats per supervised token.
        low: Lower end of the 95 % interval of that difference.
        high: Upper end.
    """

    number: int
    difference: float
    low: float
    high: float

    @property
    def tied(self) -> bool:
        """Whether it cannot be told from the winner."""
        return self.low <= 0 <= self.high


def compare_with_winner(
    winner: TrialResult,
    trials: Sequence[TrialResult],
    *,
    validation: Sequence[Example],
    tracker: Tracker,
    seed: int = 0,
) -> tuple[Rival, ...] | None:
    """The winner against the complete trials that came nearest, nearest first.

    Trials whose losses by example are gone are left out; None where the winner's are.

    Args:
        winner: The trial with the lowest loss.
        trials: All trials.
        validation: The examples on which they were compared.
        tracker: Where each trial's losses by example are kept.
        seed: Of the bootstrap.
    """
    others = [t for t in trials if t.state == "complete" and t.number != winner.number]
    others.sort(key=lambda trial: (trial.loss, trial.number))
    mine = _losses(winner, validation, tracker)
    if mine is None:
        return None
    rivals: list[Rival] = []
    for trial in others[:_COMPARED]:
        theirs = _losses(trial, validation, tracker)
        if theirs is not None:
            found = compare(theirs, mine, seed=seed)
            rivals.append(Rival(trial.number, found.difference, found.low, found.high))
    return tuple(rivals)


def tell_confidence(
    winner: TrialResult, rivals: Sequence[Rival] | None, trials: Sequence[TrialResult]
) -> str:
    """What may be said of the winner, for people.

    Args:
        winner: The trial with the lowest loss.
        rivals: Those that it was compared with; None where losses by example are not known.
        trials: All trials.
    """
    if rivals is None:
        return f"{winner.name} has the lowest loss; whether by chance cannot be told from here."
    tied = [rival for rival in rivals if rival.tied]
    others = sum(trial.state == "complete" for trial in trials) - 1
    if not others:
        return f"{winner.name} is the only complete trial."
    whom = "every other trial" if len(rivals) == others else f"the {len(rivals)} compared with it"
    if not tied:
        return f"{winner.name} is better than {whom} beyond chance (95 %)."
    names = ", ".join(f"trial {rival.number}" for rival in tied)
    left = others - len(rivals)
    rest = f" {left} more {'was' if left == 1 else 'were'} not compared with it." if left else ""
    return (
        f"{winner.name} has the lowest loss, but is not distinguishable from {names} (95 %).{rest}"
    )


def _losses(
    trial: TrialResult, validation: Sequence[Example], tracker: Tracker
) -> list[ExampleScore] | None:
    """The trial's losses at its best evaluation, from its run; None where that is gone."""
    losses = None
    with tempfile.TemporaryDirectory() as folder, unless_missing():
        path = tracker.get(trial.run_id).download(PER_EXAMPLE, Path(folder))
        losses = json.loads(path.read_text(encoding="utf-8"))
    if losses is None:
        return None
    return [
        ExampleScore(example.place, loss * (targets := _targets(example)), targets, 0)
        for example, loss in zip(validation, losses, strict=True)
    ]


def _targets(example: Example) -> int:
    """What the example weighs: its supervised tokens, or one class."""
    return 1 if example.label is not None else int(np.count_nonzero(example.supervised))
