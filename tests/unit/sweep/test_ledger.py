"""Two drivers over one study: whose trial is it?"""

import json
import time
from contextlib import ExitStack
from dataclasses import asdict

import optuna
import pytest

from mlflow_phi3.config.parse import parse_values
from mlflow_phi3.config.sweep import SweepConfig
from mlflow_phi3.processes import Process
from mlflow_phi3.sweep.drivers import GRACE_S, Driver, beating
from mlflow_phi3.sweep.opening import open_ledger
from mlflow_phi3.sweep.pruners import build_pruner
from mlflow_phi3.sweep.space import build_space

VALUES = {"learning_rate": "1e-4..1e-1", "epochs": "3", "pruner": "none", "n_trials": "4"}


@pytest.fixture(params=["SQLite", "journal"])
def open_as(request, storage_url, tmp_path):
    """A driver's view of the study; one with a name is on a machine that is not heard of."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    url = storage_url if request.param == "SQLite" else str(tmp_path / "study.log")
    config = parse_values(SweepConfig, VALUES)
    space = build_space(config, model="demo", seed=0)

    def make(name=None):
        ledger = open_ledger(config, space, name="study", url=url, tags={})
        if name is not None:
            ledger.driver = Driver(name, Process("elsewhere", "", 1, 0.0))
        return ledger

    return make


def names(tickets):
    return [ticket.name for ticket in tickets]


def test_a_slow_look_takes_nothing_from_a_faster_driver(open_as, monkeypatch):
    open_as("dead").take(2)
    fast, slow = open_as(), open_as()
    with beating(fast.study, fast.driver), beating(slow.study, slow.driver):
        look = slow.study.get_trials
        taken = []

        def look_slowly(**options):
            found = look(**options)
            if not taken:
                taken.extend(names(fast.take(2)))
            return found

        monkeypatch.setattr(slow.study, "get_trials", look_slowly)
        others = names(slow.take(2))

    assert taken == ["trial-000", "trial-001"]
    assert others == ["trial-002", "trial-003"]


def test_a_driver_that_begins_during_a_look_keeps_its_trials(open_as, monkeypatch):
    slow, new = open_as(), open_as()
    look = slow.study.get_trials
    with beating(slow.study, slow.driver), ExitStack() as beats:

        def look_slowly(**options):
            if not new.trials():
                beats.enter_context(beating(new.study, new.driver))
                new.take(2)
            return look(**options)

        monkeypatch.setattr(slow.study, "get_trials", look_slowly)
        assert slow.reclaim() == []


def test_who_could_not_tell_that_it_lives_is_not_dead(open_as, monkeypatch):
    far, near = open_as("far"), open_as()
    far.take(1)
    monkeypatch.setattr(time, "time", lambda: now)

    def beat(driver, **times):
        told = {**asdict(driver.process), "began_at": 0.0, **times}
        near.study.set_user_attr(f"driver:{driver.name}", json.dumps(told))

    now = 1e10
    beat(far.driver, beat_at=now - 200)  # then the storage was away
    beat(near.driver, before_at=now - 190, beat_at=now)
    assert near.reclaim() == []
    beat(near.driver, before_at=now, beat_at=now + 15)  # and now it would have told
    assert near.reclaim() == [0]


def test_what_another_has_taken_over_is_not_released(open_as):
    asleep = open_as("asleep")
    facts = {"host": "elsewhere", "processes": "", "pid": 1, "started": 0.0}
    facts |= {"began_at": time.time() - 300, "beat_at": time.time() - 100}
    asleep.study.set_user_attr("driver:asleep", json.dumps(facts))
    (mine,) = asleep.take(1)
    other = open_as()
    with beating(other.study, other.driver):
        (theirs,) = other.take(1)
        asleep.release(mine)
        assert other.trials()[0].state.name == "RUNNING"
        assert asleep.report(mine, 1, 2.0)  # the same loss as the other's: it is the same trial
        assert other.report(theirs, 1, 2.0)
        assert other.report(theirs, 1, 9.0)  # what is known stays
        other.complete(theirs, 2.0)
        assert not asleep.report(mine, 2, 1.5)

    assert other.trials()[0].values == [2.0]
    assert other.trials()[0].intermediate_values == {1: 2.0}


def test_a_round_that_was_cut_is_filled_up_and_no_more(open_as):
    first, again = open_as(), open_as()
    with beating(first.study, first.driver), beating(again.study, again.driver):
        for ticket in first.take(2):
            first.release(ticket)
        (done,) = again.take(1)
        again.complete(done, 2.0)
        assert names(again.take(2)) == ["trial-001"]
        assert names(again.take(2)) == ["trial-002", "trial-003"]


@pytest.mark.parametrize(
    ("pruner", "options", "hopeless"),
    [
        ("asha", "min_resource=1", ["trial-001", "trial-002", "trial-003"]),
        ("halving", "", ["trial-002", "trial-003"]),
        ("median", "", []),  # it asks for complete trials
    ],
)
def test_a_pruner_sees_the_group_as_the_study_does(open_as, pruner, options, hopeless):
    mine = open_as()
    mine.study.pruner = build_pruner(pruner, options, longest=3)
    with beating(mine.study, mine.driver):
        tickets = mine.take(4)
        assert all(mine.report(ticket, 1, 1.0 + ticket.number) for ticket in tickets)
        assert names(mine.hopeless(tickets)) == hopeless


@pytest.mark.parametrize("pruner", ["asha", "hyperband"])
def test_a_pruner_writes_nothing_about_what_another_has_finished(open_as, pruner):
    mine = open_as()
    mine.study.pruner = build_pruner(pruner, "", longest=3)
    with beating(mine.study, mine.driver):
        tickets = mine.take(2)
        assert all(mine.report(ticket, 1, 1.0 + ticket.number) for ticket in tickets)
        open_as("other").study.tell(1, 0.5)
        assert mine.hopeless(tickets) == []
    assert mine.trials()[1].values == [0.5]


def test_a_run_is_noted_beside_a_trial_that_another_has_finished(open_as):
    mine = open_as()
    with beating(mine.study, mine.driver):
        tickets = mine.take(2)
        open_as("other").study.tell(0, 0.5)
        mine.note_runs([(ticket, f"run {ticket.number}") for ticket in tickets])
    assert [trial.user_attrs.get("run_id") for trial in mine.trials()] == [None, "run 1"]


def test_a_pruned_trial_counts_with_its_last_loss(open_as):
    mine = open_as()
    (ticket,) = mine.take(1)
    assert all(mine.report(ticket, epoch, loss) for epoch, loss in ((1, 2.0), (2, 3.0)))
    mine.prune(ticket)
    assert (mine.trials()[0].state.name, mine.trials()[0].values) == ("PRUNED", [3.0])


def test_what_a_driver_lost_sight_of_waits_again_after_a_while(open_as, monkeypatch):
    mine = open_as()
    with beating(mine.study, mine.driver):
        mine.take(1)
        assert mine.reclaim() == []
        later = time.time() + GRACE_S
        monkeypatch.setattr(time, "time", lambda: later)
        assert mine.reclaim() == [0]
