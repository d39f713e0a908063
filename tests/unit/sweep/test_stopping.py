"""When the conductor stops by itself: a budget is spent, or nothing is left to gain."""

import itertools
import json
import math

import optuna
import pytest

from mlflow_phi3.errors import UsageError
from mlflow_phi3.sweep.budget import Budget
from mlflow_phi3.sweep.gain import bound_gain


def test_a_spent_budget_stops_what_runs_and_begins_nothing(conduct, tracker, parent):
    now = [0.0]

    def clock():
        now[0] += 1.0
        return now[0]

    ledger = conduct(budget=Budget(50.0), clock=clock, n_trials="100")
    assert ledger.why == "budget_hours"
    states = [t.state.name for t in ledger.trials()]
    assert len(states) < 100
    assert set(states) == {"COMPLETE", "PRUNED"}
    last = tracker.children(parent.run_id)[-1]
    assert last.data.tags["phi3.reason"] == "budget_hours is spent"


def test_a_hopeless_trial_ends_within_its_first_epoch(sweep, tracker):
    often = {"evaluations_per_epoch": "2", "per_device_batch_size": "4", "epochs": "1"}
    result = sweep(pruner="halving", concurrency="4", **often)
    pruned = [trial for trial in result.trials if trial.state == "pruned"]
    assert len(pruned) == 2
    for trial in pruned:
        assert trial.reason == f"pruned after epoch 0.5 at loss {trial.loss:.4f}"
        assert [*tracker.get(trial.run_id).history("train/loss")] == [1, 2]  # of 4 steps
    run = tracker.get(result.winner.run_id)
    assert [*run.history("eval/loss")] == [2, 4]
    assert result.winner.loss == min(run.history("eval/loss").values())


def test_a_trial_too_short_for_its_evaluations_is_refused_before_any_begins(sweep, tracker):
    told = r"PHI3-U073 .* 4 evaluations an epoch, which has steps for 2\."
    with pytest.raises(UsageError, match=told):
        sweep(evaluations_per_epoch="4", batch_size_multiplier="1,2", per_device_batch_size="4")
    assert not tracker.find({"phi3.stage": "trial"})


def test_a_budget_that_the_first_training_spends_leaves_a_result(conduct):
    now = itertools.count()
    ledger = conduct(budget=Budget(5.0), clock=lambda: float(next(now)), n_trials="100")
    assert ledger.why == "budget_hours"
    assert ledger.best() is not None


def test_a_budget_counts_what_earlier_commands_spent(conduct):
    ledger = conduct(n_trials="2")
    key = f"driver:{ledger.driver.name}"
    told = json.loads(ledger.study.user_attrs[key])
    long = {**told, "began_at": told["beat_at"] - 100.0}
    ledger.study.set_user_attr(key, json.dumps(long))
    again = conduct(n_trials="100", budget=Budget(60.0))
    assert again.why == "budget_hours"
    assert len(again.trials()) == 2
    assert conduct(n_trials="4", budget=Budget(6000.0)).why == "n_trials"


def test_ten_complete_trials_say_what_may_still_be_gained():
    space = {"rate": optuna.distributions.FloatDistribution(0.0, 1.0)}
    trials = [
        optuna.create_trial(params={"rate": at / 10}, distributions=space, value=at / 10)
        for at in range(10)
    ]
    assert math.isfinite(bound_gain(trials))
    assert math.isinf(bound_gain(trials[1:]))


def test_a_study_that_can_hardly_gain_stops_and_stays_so(conduct):
    ledger = conduct(n_trials="60", min_gain="0.05", epochs="1")
    assert ledger.why == "min_gain"
    numbers = len(ledger.trials())
    assert 10 <= numbers < 60
    # The bowl has its lowest loss, 1.51, at a rate of 2e-3.
    assert ledger.best().value < 1.51 + 0.05
    assert len(conduct(n_trials="60", min_gain="0.05", epochs="1").trials()) == numbers
    assert conduct(n_trials=str(numbers + 2), epochs="1").why == "n_trials"


@pytest.mark.parametrize("objective", ["eval/loss", "eval/loss,cost/epochs"])
def test_a_budget_counts_what_others_spend_while_a_round_is_trained(conduct, scripted, objective):
    now = [0.0]

    def clock():
        now[0] += 10.0
        return now[0]

    def another(trial, step):
        if (trial, step) == ("trial-002", 2):
            study = optuna.load_study(study_name="study", storage=conduct.url)
            facts = {"host": "elsewhere", "processes": "", "pid": 1, "started": 0.0}
            facts |= {"began_at": 0.0, "beat_at": 2e6}
            study.set_user_attr("driver:other", json.dumps(facts))

    scripted.before_step = another
    ledger = conduct(budget=Budget(1e6), clock=clock, n_trials="100", objective=objective)
    assert ledger.why == "budget_hours"
    assert [t.state.name for t in ledger.trials()] == ["COMPLETE"] * 2 + ["PRUNED"] * 2
    counts = {t.values is not None for t in ledger.trials()[2:]}
    assert counts == {objective == "eval/loss"}  # what it would have cost is not known
