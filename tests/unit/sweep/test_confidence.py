"""Which trials are compared with the winner, and by what."""

import math

import numpy as np
import pytest

from mlflow_phi3.data.messages import Example
from mlflow_phi3.sweep.confidence import compare_with_winner
from mlflow_phi3.sweep.results import TrialResult
from mlflow_phi3.training.spec import TrialSpec


@pytest.fixture
def new_trial(tracker):
    """A trial whose run keeps its loss on each of two examples."""

    def make(number, losses, state="complete"):
        run = tracker.start(f"trial-{number}", stage="trial")
        run.log_json(losses, "eval/per_example.json")
        loss = sum(losses)
        return TrialResult(
            number, run.run_id, state, {}, TrialSpec(1e-3), loss, math.exp(loss), 0.5, 1.0
        )

    return make


@pytest.mark.parametrize(("label", "difference"), [(None, 0.75), (1, 0.5)])
def test_the_complete_trials_are_compared_nearest_first(new_trial, tracker, label, difference):
    supervised = ([True, True, True], [True, False, False])
    validation = [
        Example(np.arange(3), np.array(targets), f"row:{at}", label)
        for at, targets in enumerate(supervised)
    ]
    winner = new_trial(2, [1.0, 1.0])
    trials = [
        new_trial(0, [3.0, 3.0]),
        new_trial(1, [2.0, 1.0]),
        winner,
        new_trial(3, [1.0, 1.5], "pruned"),
    ]
    rivals = compare_with_winner(winner, trials, validation=validation, tracker=tracker)
    assert list(rivals) == [1, 0]
    assert rivals[1].difference == pytest.approx(difference)  # a class weighs as much as another
