"""Is the winner better, or lucky? A paired bootstrap over the validation examples."""

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from mlflow_phi3.data.messages import Example
from mlflow_phi3.evaluation.compare import Comparison, compare
from mlflow_phi3.sweep.results import TrialResult
from mlflow_phi3.sweep.trial_run import PER_EXAMPLE
from mlflow_phi3.tracking.missing import unless_missing
from mlflow_phi3.tracking.tracker import Tracker
from mlflow_phi3.training.scoring import ExampleScore

# Trials far behind need no test.
_COMPARED = 20


def compare_with_winner(
    winner: TrialResult,
    trials: Sequence[TrialResult],
    *,
    validation: Sequence[Example],
    tracker: Tracker,
    seed: int = 0,
) -> dict[int, Comparison]:
    """The complete trials that came nearest beside the winner, nearest first, by their number.

    Trials whose losses by example are gone are left out; all are where the winner's are gone.

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
        return {}
    rivals: dict[int, Comparison] = {}
    for trial in others[:_COMPARED]:
        theirs = _losses(trial, validation, tracker)
        if theirs is not None:
            rivals[trial.number] = compare(theirs, mine, seed=seed)
    return rivals


def tell_confidence(
    winner: TrialResult, rivals: Mapping[int, Comparison], trials: Sequence[TrialResult]
) -> str:
    """What may be said of the winner, for people.

    Args:
        winner: The trial with the lowest loss.
        rivals: Those that it was compared with, by number.
        trials: All trials.
    """
    others = sum(trial.state == "complete" for trial in trials) - 1
    if not others:
        return f"{winner.name} is the only complete trial."
    if not rivals:
        return f"{winner.name} has the lowest loss; whether by chance cannot be told from here."
    tied = [number for number, rival in rivals.items() if not rival.significant]
    some = f"the {len(rivals)}" if len(rivals) > 1 else "the one"
    whom = "every other trial" if len(rivals) == others else f"{some} compared with it"
    if not tied:
        return f"{winner.name} is better than {whom} beyond chance (95 %)."
    names = ", ".join(f"trial {number}" for number in tied)
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
