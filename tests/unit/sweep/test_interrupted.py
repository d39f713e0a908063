"""What a stop or a death leaves of a study, and how the study goes on from there."""

import itertools
import json
import math

import optuna
import pytest
from mlflow.exceptions import MlflowException

from mlflow_phi3.errors import Interrupted
from mlflow_phi3.sweep.ledger import Ledger
from mlflow_phi3.tracking.run import Run
from tests.unit.sweep.conftest import STEPS_PER_EPOCH


@pytest.fixture(autouse=True)
def _quiet():
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def told(ledger):
    return [(t.number, t.state.name, t.params, t.value) for t in ledger.trials()]


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), Interrupted("PHI3-T001", "stopped")])
def test_a_stop_leaves_a_study_that_goes_on_as_if_nothing_was(
    conduct, tracker, parent, scripted, stop
):
    undisturbed = told(conduct("undisturbed"))

    def interrupt(trial, step):
        if (trial, step) == ("trial-003", 4):
            raise stop

    scripted.before_step = interrupt
    with pytest.raises(type(stop)):
        conduct("stopped")
    runs = [r for r in tracker.children(parent.run_id) if r.data.tags["phi3.study"] == "stopped"]
    assert [run.info.status for run in runs] == ["FINISHED", "FINISHED", "KILLED", "KILLED"]
    assert "RUNNING" not in {run.info.status for run in tracker.children(parent.run_id)}

    scripted.before_step = lambda trial, step: None
    assert told(conduct("stopped")) == undisturbed
    after = [r for r in tracker.children(parent.run_id) if r.data.tags["phi3.study"] == "stopped"]
    assert len(after) == 5
    assert {run.info.run_id for run in runs} < {run.info.run_id for run in after}
    assert {run.info.status for run in after} == {"FINISHED"}
    assert {run.data.tags.get("phi3.reason", "") for run in after} == {""}
    history = tracker.client.get_metric_history(runs[3].info.run_id, "train/loss")
    assert [point.step for point in history] == list(range(1, 7))
    assert [job.resume for job in scripted.rounds[-2][0]] == [True, True]


def test_a_trial_whose_run_cannot_end_is_not_complete(conduct, tracker, parent, monkeypatch):
    def away(*_, **__):
        raise MlflowException("nobody answers")

    asked = {"n_trials": "1", "objective": "eval/loss,cost/epochs"}
    with monkeypatch.context() as patch, pytest.raises(MlflowException):
        patch.setattr(tracker.client, "set_terminated", away)
        conduct(**asked)
    study = optuna.load_study(study_name="study", storage=conduct.url)
    assert [trial.state.name for trial in study.trials] == ["WAITING"]

    assert conduct(**asked).trials()[0].values[1] == 3.0
    (run,) = tracker.children(parent.run_id)
    assert len(tracker.client.get_metric_history(run.info.run_id, "cost/epochs")) == 1


def test_an_error_of_the_backend_leaves_no_run_running(conduct, tracker, parent, scripted):
    def break_down(trial, step):
        if step == 3:
            raise OSError(28, "No space left on device")

    scripted.before_step = break_down
    with pytest.raises(OSError, match="No space left"):
        conduct()
    runs = tracker.children(parent.run_id)
    assert {run.info.status for run in runs} == {"KILLED"}
    assert "No space left" in runs[0].data.tags["phi3.reason"]


@pytest.mark.parametrize("at", [("report", 3), ("report", 4), ("hopeless", 1), ("prune", 1)])
def test_after_a_stop_all_are_judged_as_without_it(conduct, scripted, monkeypatch, at):
    scripted.group_size = 4
    method, number = at
    going, calls = getattr(Ledger, method), itertools.count(1)

    def stop(*given):
        if next(calls) == number:
            raise KeyboardInterrupt
        return going(*given)

    values = {"pruner": "halving", "epochs": "4", "n_trials": "4"}
    undisturbed = told(conduct("a", **values))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Ledger, method, stop)
        conduct("b", **values)

    assert told(conduct("b", **values)) == undisturbed
    assert {state for _, state, *_ in undisturbed} == {"COMPLETE", "PRUNED"}


def test_a_stop_while_a_checkpoint_is_logged_leaves_no_run_running(
    conduct, tracker, parent, monkeypatch
):
    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Run, "log_folder", stop)
        conduct()
    assert {run.info.status for run in tracker.children(parent.run_id)} == {"KILLED"}
    assert {trial.state.name for trial in conduct().trials()} == {"COMPLETE"}
    assert {run.info.status for run in tracker.children(parent.run_id)} == {"FINISHED"}


def test_a_stop_leaves_the_run_of_a_trial_that_another_has_finished(
    conduct, tracker, parent, scripted
):
    def finish_the_other(trial, step):
        if (trial, step) == ("trial-000", 3):
            study = optuna.load_study(study_name="study", storage=conduct.url)
            study.tell(0, 0.25)
            tracker.get(study.trials[0].user_attrs["run_id"]).end("FINISHED")

    def stop(spec, epoch):
        if (epoch, spec.learning_rate) == (2, rates[1]) and next(asked) > STEPS_PER_EPOCH:
            raise KeyboardInterrupt  # the other has just told its evaluation
        return 1.0

    asked = itertools.count(1)
    rates = [trial.params["learning_rate"] for trial in conduct("before").trials()]
    scripted.before_step, scripted.loss = finish_the_other, stop
    with pytest.raises(KeyboardInterrupt):
        conduct()
    runs = tracker.find({"phi3.study": "study"})
    assert [run.info.status for run in runs] == ["FINISHED", "KILLED"]


def test_a_trial_of_a_dead_driver_is_taken_over_with_its_run(
    conduct, tracker, parent, storage_url, tmp_path
):
    conduct(n_trials="2")
    study = optuna.load_study(study_name="study", storage=storage_url)
    dead = study.ask(
        {"learning_rate": optuna.distributions.FloatDistribution(1e-4, 1e-1, log=True)}
    )
    dead.set_user_attr("lease", {"driver": "nobody", "round": 2})
    left = tracker.start(
        "trial-002",
        stage="trial",
        parent=parent,
        tags={"phi3.study": "study", "phi3.trial_number": 2},
    )
    left.log_metrics({"train/loss": 9.0}, step=4)
    left.log_metrics({"eval/loss": 9.0}, step=2)
    left.flush()
    (tmp_path / "trial-002.json").write_text('[["eval/loss", 8.0, 0, 4]]\n')
    ledger = conduct(n_trials="4", folder=tmp_path)
    assert [t.state.name for t in ledger.trials()] == ["COMPLETE"] * 4
    evaluated = tracker.client.get_metric_history(left.run_id, "eval/loss")
    points = sorted((point.step, point.value) for point in evaluated)
    assert points[:2] == [(2, 9.0), (4, 8.0)]
    assert [step for step, _ in points] == [2, 4, 6]
    assert ledger.trials()[2].user_attrs["run_id"] == left.run_id
    assert len(tracker.children(parent.run_id)) == 4


def test_what_a_stop_while_the_store_is_away_could_not_tell_is_kept(
    conduct, tracker, parent, scripted, tmp_path, monkeypatch
):
    def away(*_, **__):
        raise MlflowException("nobody answers")

    def kept(trial, key):
        lines = (tmp_path / f"{trial}.json").read_text().splitlines()
        points = [tuple(point) for line in lines for point in json.loads(line)]
        return {step for name, _, _, step in points if name == key}

    def stop(trial, step):
        if (trial, step) == ("trial-001", 1):  # who dies now has trained an epoch of the other
            assert kept("trial-000", "train/loss") == {1, 2}
        if (trial, step) == ("trial-000", 3):
            assert kept("trial-000", "eval/loss") == {2}
        if (trial, step) == ("trial-001", 4):
            for call in ("log_batch", "set_terminated"):
                monkeypatch.setattr(tracker.client, call, away)
            raise KeyboardInterrupt

    scripted.before_step, scripted.loss = stop, lambda spec, epoch: 1.0 + epoch
    monkeypatch.setattr("mlflow_phi3.tracking.run.FLUSH_AFTER_S", math.inf)
    with pytest.raises(KeyboardInterrupt) as stopped:
        conduct(folder=tmp_path)
    assert ["nobody answers" in note for note in stopped.value.__notes__] == [True, False]
    assert kept("trial-001", "train/loss") == {1, 2, 3}
    study = optuna.load_study(study_name="study", storage=conduct.url)
    assert {trial.state.name for trial in study.trials} == {"WAITING"}

    monkeypatch.undo()
    scripted.before_step = lambda trial, step: None
    monkeypatch.setattr("mlflow_phi3.tracking.run.FLUSH_AFTER_S", math.inf)
    trials = conduct(folder=tmp_path).trials()
    assert {trial.user_attrs["outcome"]["accuracy"] for trial in trials} == {0.5}
    for run in tracker.children(parent.run_id):
        for key, steps in (("train/loss", range(1, 7)), ("eval/loss", (2, 4, 6))):
            points = tracker.client.get_metric_history(run.info.run_id, key)
            assert [point.step for point in points] == list(steps)
