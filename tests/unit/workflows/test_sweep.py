"""What a sweep prints at its end, and what goes on from it."""

import dataclasses
import json
import math
import re
from pathlib import Path

import pytest

from mlflow_phi3.config.words import SweepWord
from mlflow_phi3.errors import DataError
from mlflow_phi3.evaluation.notation import NONE
from mlflow_phi3.sweep.results import TrialResult, trial_name
from mlflow_phi3.tracking.tags import DATASET_TAG
from mlflow_phi3.training.spec import TrialSpec
from mlflow_phi3.workflows.context import Context
from mlflow_phi3.workflows.prepare import prepare
from mlflow_phi3.workflows.screen import Screen
from mlflow_phi3.workflows.sweep import Winner, prepare_as_swept, show_trials
from tests.unit.sweep.made import make_result


def trial(number, loss, state):
    rate = {"learning_rate": 1e-4}
    return TrialResult(number, "", state, rate, TrialSpec(1e-4), loss, math.nan, math.nan, 1.0)


def test_trials_are_shown_best_first_also_where_some_have_no_loss(capsys):
    none = math.nan
    trials = [trial(0, 3.0, "complete"), trial(1, none, "failed"), trial(2, 1.0, "pruned")]
    trials += [trial(3, none, "failed"), trial(4, 2.0, "complete"), trial(5, 0.5, "pruned")]
    result = make_result(trials, trials[4])
    show_trials(Context(None, Screen("plain"), Path(), None), result)
    shown = capsys.readouterr().out
    order = sorted(range(6), key=lambda number: shown.index(trial_name(number)))
    assert order == [4, 0, 5, 2, 1, 3]


def test_each_objective_has_its_column_and_the_front_is_marked(capsys):
    costs = {"cost/seconds": 12.5, "cost/epochs": 3.0}
    trials = [trial(0, 3.0, "complete"), trial(1, 1e6, "complete"), trial(2, math.nan, "failed")]
    trials[:2] = [dataclasses.replace(one, costs=costs) for one in trials[:2]]
    result = make_result(
        trials,
        trials[0],
        costs=("cost/seconds", "cost/epochs"),
        front=frozenset({0, 1}),
    )
    show_trials(Context(None, Screen("plain"), Path(), None), result)
    shown = capsys.readouterr().out
    lines = [[cell.strip() for cell in re.split("[│┃]", line)] for line in shown.splitlines()]
    rows = {cells[1]: cells[2:-1] for cells in lines if len(cells) > 2}
    assert "3 trials; + on the Pareto front" in shown
    assert rows["trial"][1:4] == ["val loss", "cost/seconds", "cost/epochs"]
    assert rows["* trial-000"][1:4] == ["3.0000", "12.5", "3"]
    assert rows["+ trial-001"][1] == "1.00e+06"
    assert rows["trial-002"][1:6] == [NONE] * 5


def test_one_trial_is_no_plural(capsys):
    only = trial(0, 3.0, "complete")
    result = make_result([only], only)
    show_trials(Context(None, Screen("plain"), Path(), None), result)
    assert capsys.readouterr().out.split("\n")[0].strip() == "Study s: 1 trial"


def test_why_it_stopped_early_and_what_other_seeds_gave_are_told(capsys):
    only = trial(0, 3.0, "complete")
    result = make_result([only], only, stopped_because="budget_hours", reseeded=(3.25,))
    show_trials(Context(None, Screen("plain"), Path(), None), result)
    assert capsys.readouterr().out.splitlines()[-2:] == [
        "The winner is trial-000. Trained again with other seeds, its loss was 3.2500.",
        "Stopped because of budget_hours.",
    ]


def test_what_follows_a_sweep_takes_no_other_rows_than_its_trials_saw(tracker, tmp_path):
    data = tmp_path / "chats.jsonl"

    def write(count):
        rows = [{"question": f"What is {n} plus one?", "answer": str(n + 1)} for n in range(count)]
        data.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")

    write(30)
    context = Context(tracker, Screen("plain"), tmp_path / "work", None)
    config = SweepWord(train_data=str(data), clean_near_duplicates=False)
    with tracker.stage("sweep", stage="sweep") as run:
        sha256 = prepare(context, config, run).manifest.sha256
    winner = Winner(run.run_id, "", "trial-000", tmp_path, config)
    assert (
        prepare_as_swept(context, winner, run).manifest.sha256 == run.tags()[DATASET_TAG] == sha256
    )
    write(31)
    with pytest.raises(DataError, match=r"PHI3-D079 chats\.jsonl: the rows are not those of the"):
        prepare_as_swept(context, winner, run)
