import math
from collections import defaultdict

import optuna
import pytest

from mlflow_phi3.sweep.drivers import beating, this_driver


@pytest.fixture(autouse=True)
def _quiet():
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def told(ledger):
    return [(t.number, t.state.name, t.params, t.value) for t in ledger.trials()]


def test_every_trial_has_its_run(conduct, tracker, parent):
    ledger = conduct()
    assert ledger.why == "n_trials"
    children = tracker.children(parent.run_id)
    assert [run.info.run_name for run in children] == [f"trial-00{n}" for n in range(5)]
    for trial, run in zip(ledger.trials(), children, strict=True):
        assert run.info.status == "FINISHED"
        assert trial.user_attrs["run_id"] == run.info.run_id
        assert run.data.tags["phi3.study"] == "study"
        assert run.data.tags["phi3.trial_number"] == str(trial.number)
        assert run.data.tags["phi3.trial_state"] == "COMPLETE"
        assert run.data.tags["phi3.dataset_sha256"] == "d"
        assert run.data.params["learning_rate"] == str(trial.params["learning_rate"])
        assert run.data.params["epochs"] == "3"
        assert run.data.metrics["eval/loss"] == pytest.approx(trial.value)
        losses = tracker.client.get_metric_history(run.info.run_id, "train/loss")
        assert [point.step for point in losses] == list(range(1, 7))
        artifacts = tracker.client.list_artifacts(run.info.run_id, "checkpoints/best")
        assert [item.path for item in artifacts] == ["checkpoints/best/adapter_config.json"]


def test_it_says_who_works_and_closes_the_sweeps_in_which_nobody_does(conduct, tracker, parent):
    dead = tracker.start(
        "sweep", stage="sweep", tags={"phi3.study": "study", "phi3.driver": "dead"}
    )
    seen = []

    def look(progress):
        seen.append(tracker.client.get_run(dead.run_id).info.status)

    ledger = conduct(n_trials="1", on_progress=look)
    assert parent.tags()["phi3.driver"] == ledger.driver.name
    assert tracker.client.get_run(dead.run_id).info.status == "KILLED"
    assert set(seen) == {"KILLED"}  # before anything is trained


def test_the_same_seed_makes_the_same_study(conduct):
    first = told(conduct("one", seed="3", n_trials="4"))
    assert told(conduct("two", seed="3", n_trials="4")) == first
    assert told(conduct("three", seed="4", n_trials="1")) != first[:1]


def test_a_finished_study_grows_only_when_asked(conduct, tracker, parent, scripted):
    first = told(conduct())
    rounds = len(scripted.rounds)
    assert told(conduct()) == first
    assert len(scripted.rounds) == rounds
    longer = told(conduct(n_trials="6"))
    assert longer[:5] == first
    assert len(longer) == 6
    assert len(tracker.children(parent.run_id)) == 6


def test_another_space_cannot_join_a_study(conduct):
    conduct()
    with pytest.raises(Exception, match="study 'study' has epochs 3, not 2"):
        conduct(epochs="2")


def test_hopeless_trials_are_killed_and_the_others_go_on(conduct, tracker, parent, scripted):
    ledger = conduct(pruner="halving", epochs="4")
    states = {trial.number: trial.state.name for trial in ledger.trials()}
    assert set(states.values()) == {"COMPLETE", "PRUNED"}
    for run in tracker.children(parent.run_id):
        pruned = states[int(run.data.tags["phi3.trial_number"])] == "PRUNED"
        assert run.info.status == ("KILLED" if pruned else "FINISHED")
        assert ("pruned after epoch" in run.data.tags.get("phi3.reason", "")) == pruned
        assert tracker.client.list_artifacts(run.info.run_id, "checkpoints/best")
    best = min(ledger.trials(), key=lambda t: scripted.loss(ledger.space.spec(t.params), 4))
    assert ledger.best().number == best.number


def test_halving_compares_a_group_only_when_all_of_it_has_reported(conduct, scripted):
    scripted.group_size = 4
    ledger = conduct(pruner="halving", epochs="2", n_trials="4")
    losses = {t.number: t.intermediate_values[1] for t in ledger.trials()}
    better = sorted(losses, key=losses.__getitem__)[:2]
    complete = [t.number for t in ledger.trials() if t.state.name == "COMPLETE"]
    assert complete == sorted(better)


def test_a_group_is_judged_without_those_that_train_after_it(conduct, scripted):
    scripted.slots = 2
    ledger = conduct(pruner="halving", epochs="4", n_trials="4")
    assert "PRUNED" in {trial.state.name for trial in ledger.trials()[:2]}


def test_a_group_is_judged_when_the_last_it_waits_for_has_failed(conduct, scripted):
    scripted.group_size = 3
    rates = iter((1.0, 2.0, math.nan))
    loss = defaultdict(lambda: next(rates))
    scripted.loss = lambda spec, epoch: loss[spec.learning_rate]
    trials = conduct(pruner="halving", epochs="4", n_trials="3").trials()
    assert [trial.state.name for trial in trials] == ["COMPLETE", "PRUNED", "FAIL"]
    assert list(trials[1].intermediate_values) == [1]


def test_epochs_ride_along(conduct, scripted):
    ledger = conduct(epochs="1..3", n_trials="9")
    by_rate: dict[float, list[int]] = {}
    for trial in ledger.trials():
        by_rate.setdefault(trial.params["learning_rate"], []).append(trial.params["epochs"])
    assert [sorted(epochs) for epochs in by_rate.values()] == [[1, 2, 3]] * 3
    assert scripted.epochs_trained == 9  # not 18
    assert not any(job.resume for r in scripted.rounds for group in r for job in group)
    assert all(len({job.spec.trunk for job in group}) <= 2 for r in scripted.rounds for group in r)


def test_epochs_that_ride_along_count_as_trials(conduct):
    best = {}

    def look(progress):
        best[progress.finished] = progress.best_loss

    assert len(conduct(n_trials="3", epochs="1..3", on_progress=look).trials()) == 3
    assert list(best) == [0, 1, 2]
    assert best[2] < best[1]
    best.clear()
    assert len(conduct(n_trials="4", epochs="1..3", on_progress=look).trials()) == 4
    assert list(best) == [3]


def test_epochs_do_not_ride_along_when_that_is_not_wanted(conduct):
    ledger = conduct(epochs="1..3", n_trials="4", share_epochs="false")
    assert len({trial.params["learning_rate"] for trial in ledger.trials()}) == 4


@pytest.mark.parametrize("sampler", ["tpe", "random", "qmc"])
def test_no_sampler_tries_a_point_twice(conduct, scripted, sampler):
    space = {"learning_rate": "1e-4,1e-3", "batch_size_multiplier": "1,2", "epochs": "1,2"}
    ledger = conduct(sampler=sampler, n_trials="7", **space)
    assert ledger.why == "n_trials"
    ledger = conduct(sampler=sampler, n_trials="50", **space)
    assert ledger.why == "search_space"
    points = [tuple(trial.params[name] for name in space) for trial in ledger.trials()]
    assert sorted(points) == [(r, b, e) for r in (1e-4, 1e-3) for b in (1, 2) for e in (1, 2)]


def test_where_nothing_is_searched_there_is_one_trial(conduct):
    ledger = conduct(learning_rate="1e-4", epochs="3", batch_size_multiplier="1", n_trials="4")
    assert (ledger.why, len(ledger.trials())) == ("search_space", 1)


def test_a_grid_is_walked_to_its_end(conduct):
    space = {"learning_rate": "1e-4,1e-3,1e-2", "batch_size_multiplier": "1", "epochs": "1,2"}
    ledger = conduct(sampler="grid", n_trials="50", **space)
    assert ledger.why == "search_space"
    found = [(t.params["learning_rate"], t.params["epochs"]) for t in ledger.trials()]
    assert found == [(r, e) for r in (1e-4, 1e-3, 1e-2) for e in (1, 2)]


def test_a_training_that_fails_fails_its_trial_alone(conduct, tracker, parent, scripted):
    scripted.loss = lambda spec, epoch: math.nan if spec.learning_rate > 5e-3 else 1.0 / epoch
    ledger = conduct()
    states = {t.state.name for t in ledger.trials()}
    assert states == {"COMPLETE", "FAIL"}
    for trial, run in zip(ledger.trials(), tracker.children(parent.run_id), strict=True):
        diverged = trial.params["learning_rate"] > 5e-3
        assert run.info.status == ("FAILED" if diverged else "FINISHED")


def test_a_trial_that_another_driver_finished_is_left_to_it(
    conduct, tracker, parent, scripted, tmp_path, monkeypatch
):
    monkeypatch.setattr("mlflow_phi3.tracking.run.FLUSH_AFTER_S", math.inf)

    def meanwhile(trial, step):
        if (trial, step) == ("trial-001", 3):
            study = optuna.load_study(study_name="study", storage=conduct.url)
            study.tell(1, 0.25)

    scripted.before_step = meanwhile
    ledger = conduct(folder=tmp_path)

    assert [trial.state.name for trial in ledger.trials()] == ["COMPLETE"] * 5
    assert ledger.trials()[1].value == 0.25
    assert ledger.why == "n_trials"
    monkeypatch.setattr("mlflow_phi3.tracking.run.FLUSH_AFTER_S", -1.0)
    parent.log_metrics({"written": 1.0})  # with it, whatever waits to be
    run_id = ledger.trials()[1].user_attrs["run_id"]
    assert tracker.client.get_metric_history(run_id, "train/loss") == []


def test_who_has_nothing_to_do_waits_for_those_who_have(conduct, scripted, monkeypatch):
    ledger = conduct(n_trials="2")
    left = ledger.study.ask(ledger.space.distributions())
    other = this_driver()
    left.set_user_attr("lease", {"driver": other.name, "round": 2})
    waited = []

    def wait(seconds):
        waited.append(seconds)
        ledger.study.tell(left, 0.5)

    with beating(ledger.study, other):
        again = conduct(n_trials="3", sleep=wait)
    assert (len(waited), again.why, again.best().number) == (1, "n_trials", 2)


def test_a_trial_whose_run_is_deleted_fails_alone(
    conduct, tracker, parent, scripted, monkeypatch, caplog
):
    monkeypatch.setattr("mlflow_phi3.tracking.run.FLUSH_AFTER_S", 0.0)

    def delete(trial, step):
        if (trial, step) == ("trial-001", 3):
            (run,) = (r for r in tracker.children(parent.run_id) if r.info.run_name == trial)
            tracker.client.delete_run(run.info.run_id)

    scripted.before_step = delete
    ledger = conduct(n_trials="4")
    states = [trial.state.name for trial in ledger.trials()]
    assert states == ["COMPLETE", "FAIL", "COMPLETE", "COMPLETE"]
    assert ledger.trials()[1].user_attrs["outcome"]["reason"] == "its MLflow run was deleted"
    assert caplog.text.count("trial-001") == 1
    assert {run.info.status for run in tracker.children(parent.run_id)} == {"FINISHED"}


def test_the_sweep_of_who_died_meanwhile_is_closed_at_the_end(conduct, tracker, scripted):
    dead = []

    def begin(trial, step):
        if (trial, step) == ("trial-000", 1):
            tags = {"phi3.study": "study", "phi3.driver": "dead"}
            dead.append(tracker.start("sweep", stage="sweep", tags=tags))

    scripted.before_step = begin
    conduct(n_trials="2")
    assert tracker.client.get_run(dead[0].run_id).info.status == "KILLED"


def test_trials_that_share_a_training_are_done_as_far_as_it_is(conduct):
    seen = []
    conduct(n_trials="3", epochs="1..3", scheduler="constant", on_progress=seen.append)
    longest = [p for p in seen if p.total_steps == max(p.total_steps for p in seen)]
    assert [p.done for p in longest] == pytest.approx([p.step / p.total_steps for p in longest])
    assert [p.done for p in seen] == sorted(p.done for p in seen)


def test_progress_only_grows(conduct):
    seen = []
    conduct(on_progress=seen.append)
    shares = [progress.done for progress in seen]
    assert shares == sorted(shares)
    assert seen[-1].finished >= 4
    assert seen[-1].best_trial.startswith("trial-")


def test_a_grid_goes_on_where_another_sampler_was(conduct):
    space = {"learning_rate": "1e-4,1e-3,1e-2", "batch_size_multiplier": "1,2", "epochs": "1"}
    conduct(sampler="random", n_trials="2", **space)
    ledger = conduct(sampler="grid", n_trials="50", **space)
    assert ledger.why == "search_space"
    found = [tuple(sorted(t.params.items())) for t in ledger.trials()]
    assert len(found) == len(set(found)) == 6
