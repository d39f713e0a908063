"""The sweep with the real engine on a tiny random base."""

import copy
import json
import math
import shutil
import sys
from dataclasses import replace

import optuna
import pytest
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST

from mlflow_phi3.backends.local import LocalBackend, LocalTraining
from mlflow_phi3.config.parse import parse_values
from mlflow_phi3.config.sweep import SweepConfig
from mlflow_phi3.errors import PreflightError, TrainingError, UsageError
from mlflow_phi3.sweep.opening import open_ledger
from mlflow_phi3.sweep.reseed import tell_reseeded
from mlflow_phi3.sweep.space import build_space
from mlflow_phi3.tracking.run import Run
from mlflow_phi3.training.loop import Session
from mlflow_phi3.training.reports import EndReport
from tests.unit.sweep import tiny


def stop_in_the_middle(progress):
    if progress.trial == "trial-002" and progress.step == 3:
        raise KeyboardInterrupt


def test_a_sweep_finds_a_winner_and_says_how(sweep, tracker, parent, tmp_path):
    result = sweep()
    assert result.stopped_because == "n_trials"
    assert [trial.state for trial in result.trials] == ["complete"] * 4
    assert result.winner.loss == min(trial.loss for trial in result.trials)
    assert result.winner.spec.epochs == 2
    assert (result.winner.adapter / "adapter_model.safetensors").is_file()

    first, second = result.trials[0], result.trials[1]
    assert first.params["learning_rate"] == second.params["learning_rate"]
    assert second.shared_with == 0
    assert tracker.get(second.run_id).tags()["phi3.shared_with"] == "trial-000"

    tags = tracker.get(parent.run_id).tags()
    assert tags["phi3.winner"] == result.winner.name
    found = tracker.client.get_run(parent.run_id).data.metrics
    assert found["eval/loss"] == pytest.approx(result.winner.loss)
    names = [item.path for item in tracker.client.list_artifacts(parent.run_id, "sweep")]
    assert sorted(names) == ["sweep/importance.json", "sweep/report.html", "sweep/trials.csv"]
    path = tracker.get(parent.run_id).download("sweep/importance.json", tmp_path)
    assert set(json.loads(path.read_text())) == {"learning_rate", "epochs"}


def test_a_study_stays_in_one_number_format(tiny_base, storage_url):
    config = parse_values(SweepConfig, tiny.SPACE)
    space = build_space(config, model="demo", seed=0)
    open_ledger(config, space, name="s", url=storage_url, tags=tiny_base.tags)
    coarse = replace(tiny_base, model=copy.deepcopy(tiny_base.model).bfloat16())
    told = r"PHI3-U088 .* phi3.base_precision float32, not bfloat16"
    with pytest.raises(UsageError, match=told):
        open_ledger(config, space, name="s", url=storage_url, tags=coarse.tags)


def test_a_study_stays_with_the_examples_that_its_trials_saw(sweep):
    sweep(n_trials="1")
    with pytest.raises(UsageError, match=r"PHI3-U088 .* phi3.examples_sha256"):
        sweep(n_trials="2", rows=15)


def test_what_is_read_off_a_shared_training_is_what_a_training_of_its_own_gives(
    sweep, tiny_base, counting, tmp_path
):
    result = sweep(n_trials="2")
    shared = next(trial for trial in result.trials if trial.shared_with is not None)
    session = Session(tiny_base, counting(16, 0), counting(8, 1), folder=tmp_path / "alone")
    session.add("alone", shared.spec)
    *_, end = session.reports()
    assert end.best_loss == pytest.approx(shared.loss, rel=1e-6)


def test_the_same_seed_gives_the_same_metrics_even_when_it_was_interrupted(sweep, tracker, parent):
    undisturbed = sweep(study="undisturbed")
    with pytest.raises(KeyboardInterrupt) as stopped:
        sweep(on_progress=stop_in_the_middle)
    assert stopped.value.__notes__ == [
        "The study waits; the same command with study=s goes on with it."
    ]
    assert "RUNNING" not in {run.info.status for run in tracker.children(parent.run_id)}
    result = sweep()
    assert result.winner.number == undisturbed.winner.number
    assert [t.params for t in result.trials] == [t.params for t in undisturbed.trials]
    assert [t.loss for t in result.trials] == pytest.approx(
        [t.loss for t in undisturbed.trials], rel=1e-6
    )
    assert [t.accuracy for t in result.trials] == pytest.approx(
        [t.accuracy for t in undisturbed.trials]
    )
    runs = [r for r in tracker.children(parent.run_id) if r.data.tags["phi3.study"] == "s"]
    assert [run.info.status for run in runs] == ["FINISHED"] * 4
    for run in runs:
        points = tracker.client.get_metric_history(run.info.run_id, "train/loss")
        assert [point.step for point in points] == list(range(1, len(points) + 1))


def test_the_winner_is_fetched_from_mlflow_when_its_folder_is_gone(sweep, tmp_path):
    before = sweep(n_trials="2")
    shutil.rmtree(tmp_path / "work")
    after = sweep(n_trials="2")
    assert after.winner == before.winner
    assert (after.winner.adapter / "adapter_model.safetensors").is_file()


def test_a_sweep_in_which_everything_diverges_says_so(sweep, tracker, parent):
    hopeless = {"learning_rate": "0.99", "optimizer": "sgd", "max_grad_norm": "0", "epochs": "1"}
    with pytest.raises(TrainingError, match="none of 1 trial was completed: PHI3-T003"):
        sweep(lora_alpha="1e30", n_trials="1", **hopeless)
    assert [run.info.status for run in tracker.children(parent.run_id)] == ["FAILED"]


@pytest.mark.parametrize("fails", [False, True])
def test_where_trials_trained_is_let_go(sweep, monkeypatch, fails):
    """The workers of a cluster hold its GPUs."""
    told = []
    monkeypatch.setattr(LocalBackend, "close", lambda backend: told.append("closed"))
    if fails:
        with pytest.raises(ZeroDivisionError):
            sweep(n_trials="1", on_progress=lambda progress: 1 // 0)
    else:
        sweep(n_trials="1", winner_seeds="1", on_progress=lambda progress: told.append("trains"))
        assert "trains" in told
    assert told.index("closed") == len(told) - 1


def test_layers_that_the_base_has_not_are_refused_before_anything_is_written(
    sweep, tracker, parent
):
    with pytest.raises(UsageError, match="PHI3-U062 target_modules: no linear layers named q_proj"):
        sweep(model="./mine", target_modules="all-linear,q_proj")
    assert tracker.children(parent.run_id) == []


def test_options_are_checked_before_anything_is_written(sweep, tracker, parent):
    for values in ({"sampler_options": "candidates=3"}, {"pruner_options": "patience=1"}):
        with pytest.raises(UsageError, match="has no option"):
            sweep(**values)
    assert tracker.children(parent.run_id) == []


def test_the_winner_is_trained_again_with_other_seeds_once(sweep, tracker, parent):
    shares = []
    told = {"on_progress": lambda progress: shares.append(progress.done)}
    result = sweep(n_trials="2", winner_seeds="2", **told)
    assert len(result.reseeded) == 2
    assert shares == sorted(shares)
    assert [share for share in shares if share < 0.5]  # the search is half of it
    assert (shares[-1], shares.count(1.0)) == (1.0, 1)
    assert result.winner.loss not in result.reseeded
    assert len(result.trials) == 2
    assert sweep(n_trials="2", winner_seeds="2").reseeded == result.reseeded
    runs = [r for r in tracker.children(parent.run_id) if "phi3.reseeds" in r.data.tags]
    assert [run.data.metrics["eval/loss"] for run in runs] == list(result.reseeded)
    assert {run.info.status for run in runs} == {"FINISHED"}
    shares.clear()
    sweep(n_trials="2", winner_seeds="3", **told)
    assert shares[0] > 0.8


def test_a_budget_in_money_ends_a_sweep_and_its_cost_is_logged(sweep, tracker, parent):
    with pytest.raises(UsageError, match="budget_cost needs machine or usd_per_hour"):
        sweep(budget_cost="1")
    # It buys a second and a half; the best of what ran by then is the winner.
    result = sweep(n_trials="900", budget_cost="0.05", usd_per_hour="120")
    assert result.stopped_because == "budget_cost"
    assert len(result.trials) < 900
    run = tracker.client.get_run(parent.run_id)
    assert run.data.metrics["cost/usd"] > 0.05
    assert run.data.metrics["cost/usd"] == pytest.approx(run.data.metrics["cost/hours"] * 120)
    assert run.data.tags["phi3.price"] == "120 USD an hour, as given"


def test_several_objectives_give_a_pareto_front(sweep, tracker, parent, tmp_path):
    asked = {"objective": "eval/loss,cost/epochs", "epochs": "1,2,3", "n_trials": "6"}
    result = sweep(**asked)
    assert result.costs == ("cost/epochs",)
    by_epochs = {}
    for trial in result.trials:
        epochs = trial.spec.epochs
        assert trial.costs == {"cost/epochs": float(epochs)}
        run = tracker.client.get_run(trial.run_id)
        assert run.data.metrics["cost/epochs"] == epochs
        by_epochs[epochs] = min(by_epochs.get(epochs, trial.loss), trial.loss)
    # On the front: the best of its number of epochs, and better than all that took fewer.
    front = {
        trial.number
        for trial in result.trials
        if all(
            trial.loss <= by_epochs[fewer]
            for fewer in range(1, trial.spec.epochs + 1)
            if fewer == trial.spec.epochs or trial.loss != by_epochs[fewer]
        )
    }
    assert result.front == front
    assert result.winner.number in result.front
    assert result.winner.loss == min(trial.loss for trial in result.trials)
    tagged = tracker.find({"phi3.pareto_front": "true"})
    assert {int(run.data.tags["phi3.trial_number"]) for run in tagged} == front
    folder = tracker.get(parent.run_id).download("sweep", tmp_path / "told")
    assert "What a lower loss costs" in (folder / "report.html").read_text()
    assert "cost/epochs,pareto_front" in (folder / "trials.csv").read_text().splitlines()[0]

    with pytest.raises(UsageError, match="has objective eval/loss,cost/epochs"):
        sweep(**{**asked, "objective": "eval/loss,cost/seconds"})


def test_a_front_changes_as_the_study_goes_on(sweep, tracker):
    asked = {"objective": "eval/loss,cost/epochs", "epochs": "1", "sampler": "random"}
    first = sweep(n_trials="2", **asked)
    then = sweep(n_trials="8", **asked)
    assert first.front == {first.winner.number}
    assert then.front == {then.winner.number}
    tagged = tracker.find({"phi3.pareto_front": "true"})
    assert [run.info.run_id for run in tagged] == [then.winner.run_id]


def test_a_budget_that_buys_no_trial_is_what_is_to_be_raised(sweep):
    with pytest.raises(TrainingError) as nothing:
        sweep(budget_hours="1e-9")
    told = "none of 0 trials was completed: budget_hours is spent. Fix: raise budget_hours, and "
    assert f"PHI3-T080 s: {told}go on with study=s." in str(nothing.value)


def test_a_wish_that_waits_when_the_budget_is_spent_is_no_result(sweep, storage_url):
    before = sweep(n_trials="1", epochs="1")
    optuna.load_study(study_name="s", storage=storage_url).enqueue_trial({})
    after = sweep(n_trials="2", epochs="1", budget_hours="1e-9")
    assert after.stopped_because == "budget_hours"
    assert [trial.name for trial in after.trials] == [before.winner.name] == ["trial-000"]


def test_a_spent_budget_trains_no_winner_again(sweep, tracker, parent, caplog):
    result = sweep(n_trials="900", budget_cost="0.05", usd_per_hour="120", winner_seeds="2")
    assert result.reseeded == ()
    assert "budget_cost is spent: the winner is not trained again" in caplog.text
    assert [r for r in tracker.children(parent.run_id) if "phi3.reseeds" in r.data.tags] == []


def test_a_seed_with_which_the_winner_fails_is_told(sweep, tracker, parent, monkeypatch):
    seen, ended = [], []
    train, end = LocalTraining.reports, Run.end

    def failing(training):
        for report in train(training):
            fails = isinstance(report, EndReport) and report.trial.endswith("-seed-2")
            bad = {"outcome": "failed", "reason": "PHI3-T003 it diverged"} if fails else {}
            yield replace(report, **bad)

    def ending(run, status):
        ended.append((run.name, status))
        end(run, status)

    monkeypatch.setattr(LocalTraining, "reports", failing)
    monkeypatch.setattr(Run, "end", ending)
    result = sweep(n_trials="2", winner_seeds="2", on_progress=seen.append)
    assert math.isfinite(result.reseeded[0])
    assert math.isnan(result.reseeded[1])
    assert "none (it failed)" in tell_reseeded(result.reseeded)
    assert any(progress.trial.endswith("-seed-1") for progress in seen)
    runs = {r.info.run_name: r for r in tracker.children(parent.run_id)}
    failed = runs[f"{result.winner.name}-seed-2"]
    assert failed.info.status == "FAILED"
    assert failed.data.tags["phi3.reason"] == "PHI3-T003 it diverged"
    assert [status for name, status in ended if name == failed.info.run_name] == ["FAILED"]


def test_a_study_goes_on_without_the_runs_that_somebody_deleted(sweep, tracker, parent):
    with pytest.raises(KeyboardInterrupt):
        sweep(on_progress=stop_in_the_middle)
    runs = {run.info.run_name: run.info.run_id for run in tracker.children(parent.run_id)}
    for name in ("trial-000", "trial-002"):
        tracker.client.delete_run(runs[name])
    result = sweep()
    assert [trial.state for trial in result.trials] == ["complete"] * 4
    again = {run.info.run_name: run.info for run in tracker.children(parent.run_id)}
    assert again["trial-002"].status == "FINISHED"
    assert again["trial-002"].run_id not in {*runs.values()}


def test_a_store_without_any_of_the_runs_is_refused(sweep, tracker, monkeypatch):
    sweep(n_trials="2")

    def missing(run_id):
        raise MlflowException(run_id, error_code=RESOURCE_DOES_NOT_EXIST)

    monkeypatch.setattr(tracker.client, "get_run", missing)
    with pytest.raises(UsageError, match="PHI3-U091 study: the runs of study 's' are not in"):
        sweep(n_trials="4")


def test_another_experiment_than_that_of_the_runs_is_refused(sweep, tracker):
    sweep(n_trials="2")
    other = replace(tracker, experiment_id=tracker.client.create_experiment("other"))
    tracker.client.delete_run(tracker.find({"phi3.study": "s"})[-1].info.run_id)
    with pytest.raises(UsageError, match=r"PHI3-U092 .* experiment 'tests/.*set MLFLOW_EXPERI"):
        sweep(n_trials="4", tracker=other)
    tracker.client.delete_experiment(tracker.experiment_id)
    assert len(sweep(n_trials="4", tracker=other).trials) == 4


def test_a_store_that_goes_away_is_told_with_how_to_go_on(sweep, tracker, monkeypatch):
    def away(*_, **__):
        raise MlflowException("nobody answers")

    def leave(progress):
        if progress.finished:
            monkeypatch.setattr(tracker.client, "log_batch", away)

    with pytest.raises(PreflightError, match=r"PHI3-P090 .*nobody answers.* with study=s\.$"):
        sweep(on_progress=leave)
    monkeypatch.undo()
    assert [trial.state for trial in sweep().trials] == ["complete"] * 4


def test_a_sweep_whose_own_run_is_deleted_comes_to_its_end(sweep, tracker, parent):
    def delete(progress):
        if tracker.client.get_run(parent.run_id).info.lifecycle_stage == "active":
            tracker.client.delete_run(parent.run_id)

    result = sweep(n_trials="2", on_progress=delete)
    assert result.stopped_because == "n_trials"


def test_whoever_stops_a_report_is_told_how_the_study_goes_on(sweep, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt) as stopped:
        patch.setattr("mlflow_phi3.sweep.run.write_report", stop)
        sweep(n_trials="2")
    assert "the same command with study=s goes on with it" in stopped.value.__notes__[0]
    assert sweep(n_trials="2").stopped_because == "n_trials"


def test_what_an_earlier_attempt_left_here_is_not_taken_for_another_machines_winner(
    sweep, storage_url
):
    before = sweep(n_trials="2")
    weights = before.winner.adapter / "adapter_model.safetensors"
    right = weights.read_bytes()
    weights.unlink()  # in the store it may be the same file
    weights.write_bytes(b"of an earlier epoch")
    study = optuna.load_study(study_name="s", storage=storage_url)
    for name, told in study.user_attrs.items():
        if name.startswith("driver:"):
            facts = {**json.loads(told), "host": "elsewhere"}
            study.set_user_attr(name, json.dumps(facts))
    after = sweep(n_trials="2")
    assert after.winner.number == before.winner.number
    assert (after.winner.adapter / "adapter_model.safetensors").read_bytes() == right


@pytest.mark.skipif(sys.platform == "win32", reason="limits the size of a file as POSIX does")
def test_a_disk_that_takes_nothing_more_is_told_in_a_line(sweep, tracker, parent):
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (24 << 20, before[1]))
    try:
        with pytest.raises(PreflightError, match=r"PHI3-P088 .*make room, then continue"):
            sweep(n_trials="1", epochs="1", lora_r="8000")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert {run.info.status for run in tracker.children(parent.run_id)} == {"KILLED"}
    assert sweep(n_trials="1", epochs="1", lora_r="8000").trials[0].state == "complete"
