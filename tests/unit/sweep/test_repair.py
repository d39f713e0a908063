import itertools
import time
from contextlib import ExitStack
from dataclasses import replace

import optuna
import pytest

from mlflow_phi3.sweep.drivers import beating, this_driver
from mlflow_phi3.sweep.repair import repair_study
from mlflow_phi3.sweep.storage import open_storage
from mlflow_phi3.tracking.tracker import Tracker


@pytest.fixture
def storage(storage_url):
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return open_storage(storage_url)


def begin(study, tracker, driver, **attrs):
    trial = study.ask()
    tags = {"phi3.study": study.study_name, "phi3.trial_number": trial.number}
    run = tracker.start(f"trial-{trial.number:03d}", stage="trial", tags=tags)
    trial.set_user_attr("lease", {"driver": driver, "round": 0})
    trial.set_user_attr("run_id", run.run_id)
    return trial, run


def test_what_the_dead_left_is_released_and_what_the_living_do_is_left_alone(storage, tracker):
    study = optuna.create_study(storage=storage, study_name="s")
    me = this_driver()
    with beating(study, me):
        left, left_run = begin(study, tracker, "dead")
        _, my_run = begin(study, tracker, me.name)
        told, told_run = begin(study, tracker, "dead")
        study.tell(told, 1.0)  # its driver died before it could close the run
        pruned, pruned_run = begin(study, tracker, "dead")
        study.tell(pruned, state=optuna.trial.TrialState.PRUNED)
        failed, failed_run = begin(study, tracker, "dead")
        study.tell(failed, state=optuna.trial.TrialState.FAIL)
        done = repair_study(storage, "s", tracker=tracker, now=time.time())

    assert done.released == (left.number,)
    over = (told_run, pruned_run, failed_run)
    assert set(done.closed) == {left_run.run_id, *(run.run_id for run in over)}
    states = [trial.state.name for trial in study.trials]
    assert states == ["WAITING", "RUNNING", "COMPLETE", "PRUNED", "FAIL"]
    status = {run.info.run_id: run.info.status for run in tracker.find({"phi3.study": "s"})}
    assert status == {
        left_run.run_id: "KILLED",
        my_run.run_id: "RUNNING",
        told_run.run_id: "FINISHED",
        pruned_run.run_id: "KILLED",
        failed_run.run_id: "FAILED",
    }
    tags = [run.tags()["phi3.trial_state"] for run in over]
    assert tags == ["COMPLETE", "PRUNED", "FAIL"]
    assert tracker.get(left_run.run_id).tags()["phi3.trial_state"] == "WAITING"


def test_the_runs_of_dead_sweeps_are_closed_with_those_around_them(storage, tracker):
    study = optuna.create_study(storage=storage, study_name="s")
    me = this_driver()
    with beating(study, me):
        around = tracker.start("main", stage="main")
        tags = {"phi3.study": "s", "phi3.driver": "dead"}
        dead = tracker.start("sweep", stage="sweep", parent=around, tags=tags)
        alive = tracker.start("sweep", stage="sweep", tags={**tags, "phi3.driver": me.name})
        done = repair_study(storage, "s", tracker=tracker, now=time.time())
        again = repair_study(storage, "s", tracker=tracker, now=time.time())

    assert (done.closed, again.closed) == ((dead.run_id, around.run_id), ())
    ended = [tracker.client.get_run(run.run_id).info.status for run in (dead, around, alive)]
    assert ended == ["KILLED", "KILLED", "RUNNING"]


def test_who_begins_while_the_store_is_asked_is_left_alone(storage, tracker):
    study = optuna.create_study(storage=storage, study_name="s")
    me, runs = this_driver(), []
    with ExitStack() as beats:

        class Slow(Tracker):
            def find(self, tags, *, status=""):
                if not runs:
                    beats.enter_context(beating(study, me))
                    own = {"phi3.study": "s", "phi3.driver": me.name}
                    runs.append(tracker.start("sweep", stage="sweep", tags=own))
                    runs.append(begin(study, tracker, me.name)[1])
                return super().find(tags, status=status)

        slow = Slow(tracker.client, tracker.uri, tracker.experiment_id)
        done = repair_study(storage, "s", tracker=slow, now=time.time())
    assert (done.released, done.closed) == ((), ())
    assert {tracker.client.get_run(run.run_id).info.status for run in runs} == {"RUNNING"}


def test_who_begins_while_the_study_is_read_is_left_alone(storage, tracker, monkeypatch):
    optuna.create_study(storage=storage, study_name="s")
    me, read, reads = this_driver(), optuna.Study.get_trials, itertools.count(1)
    with ExitStack() as beats:

        def read_slowly(study, **options):
            if next(reads) == 2:  # the first looks for the runs
                beats.enter_context(beating(study, me))
                begin(study, tracker, me.name)
            return read(study, **options)

        monkeypatch.setattr(optuna.Study, "get_trials", read_slowly)
        done = repair_study(storage, "s", tracker=tracker, now=time.time())
    assert (done.released, done.closed) == ((), ())


def test_runs_of_a_study_are_found_in_another_experiment(storage, tracker):
    study = optuna.create_study(storage=storage, study_name="s")
    left, run = begin(study, tracker, "dead")
    elsewhere = replace(tracker, experiment_id=tracker.client.create_experiment("elsewhere"))
    done = repair_study(storage, "s", tracker=elsewhere, now=time.time())
    assert (done.released, done.closed) == ((left.number,), (run.run_id,))


def test_a_study_in_order_is_left_as_it_is(storage, tracker):
    study = optuna.create_study(storage=storage, study_name="s")
    study.tell(study.ask(), 1.0)
    done = repair_study(storage, "s", tracker=tracker, now=time.time())
    assert (done.released, done.closed) == ((), ())


def test_an_unknown_study_is_an_error(storage, tracker):
    with pytest.raises(KeyError):
        repair_study(storage, "nobody", tracker=tracker, now=time.time())
