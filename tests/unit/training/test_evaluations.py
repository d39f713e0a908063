"""Evaluations within an epoch: when they come, and that they change nothing but what is known."""

from dataclasses import replace

import pytest

from mlflow_phi3.errors import UsageError
from mlflow_phi3.training.reports import EvaluationReport
from mlflow_phi3.training.schedule import Schedule, check_evaluations
from tests.unit.training.sessions import SPEC, adapter, collect, is_step, losses, same, stop_at

OFTEN = replace(SPEC, evaluations_per_epoch=2)  # of 5 steps each


def evaluations(reports):
    return [report for report in reports if isinstance(report, EvaluationReport)]


@pytest.mark.parametrize(
    ("steps", "times", "after"),
    [
        (4, 1, [4, 8]),
        (4, 2, [2, 4, 6, 8]),
        (5, 2, [3, 5, 8, 10]),
        (5, 3, [2, 4, 5, 7, 9, 10]),
        (3, 3, [1, 2, 3, 4, 5, 6]),
        (1, 1, [1, 2]),
    ],
)
def test_evaluations_are_spread_over_an_epoch_and_end_with_it(steps, times, after):
    spec = replace(SPEC, evaluations_per_epoch=times)
    schedule = Schedule(spec, n_examples=steps * spec.batch_size)
    found = [step for step in range(1, 2 * steps + 1) if schedule.evaluation_follows(step)]
    assert found == after
    assert [schedule.evaluations_due(step) for step in found] == [*range(1, spec.evaluations + 1)]


def test_more_evaluations_than_steps_are_refused(session):
    told = "PHI3-U073 evaluations_per_epoch: 6 evaluations an epoch, which has steps for 5"
    with pytest.raises(UsageError, match=f"{told}.*at most 5, .*smaller batch than 2 examples"):
        session().add("a", replace(SPEC, evaluations_per_epoch=6))
    check_evaluations(replace(SPEC, evaluations_per_epoch=5), 10)


def test_who_is_evaluated_more_often_learns_the_same_and_tells_more(session, tmp_path):
    one = session("often")
    one.add("a", OFTEN)
    often = collect(one)["a"]
    other = session("seldom")
    other.add("a", SPEC)
    seldom = collect(other)["a"]

    assert losses(often) == losses(seldom)
    assert same(adapter(tmp_path / "often/a/last"), adapter(tmp_path / "seldom/a/last"))
    told = evaluations(often)
    assert [(report.number, report.step, report.epoch) for report in told] == [
        (1, 3, 0.6),
        (2, 5, 1.0),
        (3, 8, 1.6),
        (4, 10, 2.0),
    ]
    assert [told[1].loss, told[3].loss] == losses(seldom, EvaluationReport)
    assert often[-1].best_loss == min(report.loss for report in told)
    steps = [report for report in often if is_step(report)]
    assert [report.step for report in steps if report.evaluation_follows] == [3, 5, 8, 10]


@pytest.mark.parametrize("stop", range(2, 9))
def test_resumed_between_evaluations_is_undisturbed(session, tmp_path, stop):
    whole = session("whole")
    whole.add("a", OFTEN)
    expected = collect(whole)["a"]
    first = session("torn")
    first.add("a", OFTEN)
    told = stop_at(first, stop)
    heard = len(evaluations(told))
    second = session("torn")
    second.add("a", OFTEN, resume=True, evaluated=heard)
    told += collect(second)["a"]
    assert losses(told) == losses(expected)
    assert losses(told, EvaluationReport) == losses(expected, EvaluationReport)
    assert [r.number for r in evaluations(told)] == [1, 2, 3, 4]
    for name in ("last", "best"):
        assert same(adapter(tmp_path / "torn/a" / name), adapter(tmp_path / "whole/a" / name))


def test_a_trial_reads_all_its_evaluations_off_a_shared_training(session):
    shared, late = session("shared"), replace(OFTEN, epochs=1)
    shared.add("long", OFTEN)
    told = {"late": []}
    for report in shared.reports():
        if report.trial == "long" and is_step(report) and report.step == 4:
            shared.add("late", late)  # after the first evaluation, before the second
        told.setdefault(report.trial, []).append(report)
    alone = session("alone")
    alone.add("late", late)
    expected = collect(alone)["late"]
    assert told["late"][-1].shared_with == "long"
    assert losses(told["late"]) == losses(expected)
    assert [r.number for r in evaluations(told["late"])] == [1, 2]
    assert losses(told["late"], EvaluationReport) == losses(expected, EvaluationReport)
