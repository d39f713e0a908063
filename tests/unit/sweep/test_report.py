import csv
import dataclasses
import io
import math
import re

import optuna
import pytest

from mlflow_phi3.evaluation.compare import Comparison
from mlflow_phi3.evaluation.notation import NONE
from mlflow_phi3.sweep.confidence import tell_confidence
from mlflow_phi3.sweep.report import weigh_parameters, write_report
from mlflow_phi3.sweep.results import TrialResult
from mlflow_phi3.training.spec import TrialSpec
from tests.unit.sweep.made import make_result


def trial(number, loss, state="complete", **facts):
    params = {"learning_rate": 10.0 ** -(number + 2), "scheduler": ("constant", "wsd")[number % 2]}
    return TrialResult(
        number,
        f"run{number}",
        state,
        params,
        TrialSpec(1e-3),
        loss,
        math.exp(loss),
        0.5,
        1.0,
        **facts,
    )


@pytest.fixture
def result():
    trials = (
        trial(0, 1.5),
        trial(1, 1.0),
        trial(2, 2.0, "pruned", reason="pruned after epoch 1 <b>"),
        trial(3, math.nan, "failed", reason="NaN"),
        trial(4, 1.01, shared_with=1),
        trial(5, 1.7),
    )
    return make_result(trials, trials[1], study="s<1>")


@pytest.fixture
def study(result):
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study()
    space = {
        "learning_rate": optuna.distributions.FloatDistribution(1e-9, 1.0, log=True),
        "scheduler": optuna.distributions.CategoricalDistribution(("constant", "wsd")),
    }
    states = {"complete": "COMPLETE", "pruned": "PRUNED", "failed": "FAIL"}
    for one in result.trials:
        study.add_trial(
            optuna.trial.create_trial(
                state=optuna.trial.TrialState[states[one.state]],
                value=None if math.isnan(one.loss) else one.loss,
                params=dict(one.params),
                distributions=space,
                intermediate_values={}
                if math.isnan(one.loss)
                else {1: one.loss + 0.2, 2: one.loss},
            )
        )
    return study


def beside(difference, low, high):
    return Comparison(difference, low, high, confidence=0.95, rows=8)


def test_the_page_shows_everything_and_needs_no_network(study, result):
    rivals = {4: beside(0.01, -0.02, 0.04), 0: beside(0.5, 0.3, 0.7)}
    html = write_report(study, result, rivals).html
    for title in (
        "Every trial",
        "How each trial learnt",
        "Which parameter",
        "Where good",
        "One para",
    ):
        assert title in html
    assert "not distinguishable from trial 4 (95 %)" in html
    assert "read off the training of trial 1" in html
    assert "pruned after epoch 1 &lt;b&gt;" in html
    assert "s&lt;1&gt;" in html
    assert "<script src=" not in html
    assert "<link" not in html.split("</head>")[0]


def test_the_table_has_a_line_a_trial(study, result):
    rows = list(csv.DictReader(io.StringIO(write_report(study, result, {}).csv)))
    assert [row["number"] for row in rows] == list("012345")
    assert rows[3]["loss"] == ""
    assert rows[4]["shared_with"] == "1"
    assert float(rows[1]["learning_rate"]) == 1e-3


def test_importance_needs_some_trials(study):
    importance = weigh_parameters(study)
    assert sum(importance.values()) == pytest.approx(1.0)
    assert weigh_parameters(optuna.create_study()) == {}


def test_a_single_trial_has_a_report_too(result):
    only = make_result(result.trials[:1], result.trials[0], stopped_because="search_space")
    assert "is the only complete trial" in write_report(optuna.create_study(), only, {}).html


def test_confidence_in_words(result):
    ahead = {number: beside(0.5, 0.1, 0.9) for number in (4, 0, 5)}
    near = {4: beside(0.01, -0.1, 0.1)}

    def told(rivals):
        return tell_confidence(result.winner, rivals, result.trials)

    assert told(ahead) == "trial-001 is better than every other trial beyond chance (95 %)."
    assert "better than the 2 compared with it beyond chance" in told({4: ahead[4], 0: ahead[0]})
    assert "better than the one compared with it" in told({4: ahead[4]})
    assert told(ahead | near).endswith("is not distinguishable from trial 4 (95 %).")
    assert told(near).endswith("from trial 4 (95 %). 2 more were not compared with it.")
    assert "cannot be told from here" in told({})


def table(html):
    """Heads and rows of the table of trials, without their tags."""
    _, rows = html.rsplit("<table>", 1)
    lines = re.findall(r"<tr.*?</tr>", rows, flags=re.DOTALL)
    cells = [re.findall(r"<t[hd].*?>(.*?)</t[hd]>", line, flags=re.DOTALL) for line in lines]
    return [[" ".join(cell.split()) for cell in line] for line in cells]


def test_the_loss_stands_beside_the_trial(study, result):
    heads, first, *_, last = table(write_report(study, result, {0: beside(0.5, 0.3, 0.7)}).html)
    assert heads[:3] == ["trial", "loss", "behind the winner (95 %)"]
    assert first[:2] == ["trial-001", "1.0000"]
    assert last[:2] == ["trial-003", NONE]


def test_nothing_is_said_of_rivals_that_are_unknown(study, result):
    html = write_report(study, result, {}).html
    assert "behind the winner" not in html
    assert "bootstrap" not in html


def test_several_objectives_have_a_column_each_and_the_front_is_marked(study, result):
    costs = {"cost/seconds": 12.5, "cost/adapter_bytes": 2048.0}
    trials = tuple(
        dataclasses.replace(one, costs=costs if one.state == "complete" else {})
        for one in result.trials
    )
    several = dataclasses.replace(
        result, trials=trials, winner=trials[1], costs=tuple(costs), front=frozenset({1, 4})
    )
    heads, *rows = table(write_report(study, several, {}).html)
    assert heads[2:4] == list(costs)
    assert rows[0][2:4] == ["12.5", "2.05e+03"]
    assert rows[-1][2:4] == [NONE, NONE]
    assert [row[0] for row in rows if "◆" in row[0]] == ["trial-001 ◆", "trial-004 ◆"]


def test_one_trial_is_no_plural(result):
    only = make_result(result.trials[:1], result.trials[0], stopped_because="search_space")
    html = write_report(optuna.create_study(), only, {}).html
    assert "1 trial:" in html
    assert "Every trial, and the best so far" not in html
