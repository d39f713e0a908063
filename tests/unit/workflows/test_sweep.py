"""What a sweep prints at its end."""

import math
from pathlib import Path

from mlflow_phi3.sweep.results import SweepResult, TrialResult, trial_name
from mlflow_phi3.training.spec import TrialSpec
from mlflow_phi3.workflows.context import Context
from mlflow_phi3.workflows.screen import Screen
from mlflow_phi3.workflows.sweep import show_trials


def trial(number, loss, state):
    rate = {"learning_rate": 1e-4}
    return TrialResult(number, "", state, rate, TrialSpec(1e-4), loss, math.nan, math.nan, 1.0)


def test_trials_are_shown_best_first_also_where_some_have_no_loss(capsys):
    none = math.nan
    trials = [trial(0, 3.0, "complete"), trial(1, none, "failed"), trial(2, 1.0, "pruned")]
    trials += [trial(3, none, "failed"), trial(4, 2.0, "complete"), trial(5, 0.5, "pruned")]
    result = SweepResult("s", tuple(trials), trials[4], "n_trials")
    show_trials(Context(None, Screen("plain"), Path(), None), result)
    shown = capsys.readouterr().out
    order = sorted(range(6), key=lambda number: shown.index(trial_name(number)))
    assert order == [4, 0, 5, 2, 1, 3]
