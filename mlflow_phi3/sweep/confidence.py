"""Is the winner better, or lucky? A paired bootstrap over the validation examples."""

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mlflow_phi3.data.messages import Example
from mlflow_phi3.evaluation.compare import compare
from mlflow_phi3.evaluation.losses import ExampleLoss
from mlflow_phi3.sweep.results import TrialResult
from mlflow_phi3.sweep.trial_run import PER_EXAMPLE
from mlflow_phi3.tracking.runs import Tracker

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
) -> tuple[Rival, ...]:
    """The winner against the complete trials that came nearest, nearest first.

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
    rivals: list[Rival] = []
    for trial in others[:_COMPARED]:
        found = compare(_losses(trial, validation, tracker), mine, seed=seed)
        rivals.append(Rival(trial.number, found.difference, found.low, found.high))
    return tuple(rivals)


def tell_confidence(winner: TrialResult, rivals: Sequence[Rival] | None) -> str:
    """One sentence for people; None where the losses by example are not known."""
    if rivals is None:
        return f"{winner.name} has the lowest loss; whether by chance cannot be told from here."
    tied = [rival for rival in rivals if rival.tied]
    if not rivals:
        return f"{winner.name} is the only complete trial."
    if not tied:
        return f"{winner.name} is better than every other trial beyond chance (95 %)."
    names = ", ".join(f"trial {rival.number}" for rival in tied)
    return f"{winner.name} has the lowest loss, but is not distinguishable from {names} (95 %)."


def _losses(
    trial: TrialResult, validation: Sequence[Example], tracker: Tracker
) -> list[ExampleLoss]:
    """The trial's losses at its best evaluation, from its run."""
    with tempfile.TemporaryDirectory() as folder:
        path = tracker.get(trial.run_id).download(PER_EXAMPLE, Path(folder))
        losses = json.loads(path.read_text(encoding="utf-8"))
    return [
        ExampleLoss(example.place, loss, _targets(example), 0)
        for example, loss in zip(validation, losses, strict=True)
    ]


def _targets(example: Example) -> int:
    """What the example weighs: its supervised tokens, or one class."""
    return 1 if example.label is not None else int(np.count_nonzero(example.supervised))
