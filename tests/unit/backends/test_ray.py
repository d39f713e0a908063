"""A cluster of two nodes on loopback, whose workers and nodes are killed."""

import os
import signal
from pathlib import Path

import pytest

from mlflow_phi3.backends.base import Job, Workload
from mlflow_phi3.backends.local import LocalBackend
from mlflow_phi3.training.reports import EndReport, EvaluationReport, StepReport
from mlflow_phi3.training.spec import LoraSpec, TrialSpec
from tests.unit.sweep import tiny

pytestmark = pytest.mark.slow


def spec(learning_rate=1e-2, epochs=3):
    return TrialSpec(learning_rate, epochs=epochs, lora=LoraSpec(r=4, alpha=8.0))


def workload():
    return Workload(tiny.make_base(), tiny.count(32, 0), tiny.count(8, 1), spec(), concurrency=2)


GROUPS = [
    [Job("a", spec()), Job("b", spec(2e-2))],
    [Job("c", spec(5e-3)), Job("d", spec(5e-3, epochs=1))],
]


@pytest.fixture(scope="module")
def cluster():
    import ray
    from ray.cluster_utils import Cluster

    # Workers find the tests' own modules as this process does.
    os.environ["PYTHONPATH"] = str(Path.cwd())
    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    made.add_node(num_cpus=1)
    yield made
    ray.shutdown()
    made.shutdown()


@pytest.fixture
def backend(cluster, tmp_path):
    from mlflow_phi3.backends.ray import RayBackend

    made = RayBackend(workload(), folder=tmp_path / "ray", address=cluster.address)
    yield made
    made.close()


@pytest.fixture
def expected(tmp_path):
    return losses(listen(LocalBackend(workload(), folder=tmp_path / "local")))


def listen(backend, on_report=lambda report: None, groups=GROUPS):
    found = []
    with backend.train(groups) as training:
        for report in training.reports():
            found.append(report)
            on_report(report)
    return found


def losses(reports):
    evaluations = [report for report in reports if isinstance(report, EvaluationReport)]
    return {(r.trial, r.epoch): pytest.approx(r.loss, rel=1e-6) for r in evaluations}


def test_a_cluster_trains_what_one_process_trains(backend, expected, tmp_path):
    assert backend.slots == 2
    reports = listen(backend)
    assert losses(reports) == expected
    for end in (report for report in reports if isinstance(report, EndReport)):
        assert end.outcome == "complete"
        assert end.best_checkpoint == tmp_path / "ray" / end.trial / "best"
        assert (end.best_checkpoint / "adapter_model.safetensors").is_file()


def test_a_dropped_trial_trains_no_step_too_many(backend):
    found = []
    with backend.train(GROUPS) as training:
        for report in training.reports():
            found.append(report)
            if isinstance(report, EvaluationReport) and report.trial == "b":
                training.drop("b")
    ends = {r.trial: (r.outcome, r.steps) for r in found if isinstance(r, EndReport)}
    assert ends["b"] == ("dropped", 4)
    assert ends["a"] == ("complete", 12)


def kill_worker_of(trial):
    """The process whose actor trains: Ray names it after the class."""
    import psutil

    workers = [
        p for p in psutil.process_iter(["cmdline"]) if "ray::Worker" in str(p.info["cmdline"])
    ]
    assert workers, trial
    workers[0].send_signal(signal.SIGKILL)


def test_a_killed_worker_costs_the_time_since_its_last_epoch(backend, expected):
    killed = []

    def kill(report):
        if not killed and isinstance(report, EvaluationReport) and report.epoch == 2:
            kill_worker_of(report.trial)
            killed.append(report.trial)

    reports = listen(backend, kill)
    assert killed
    assert losses(reports) == expected
    assert {r.outcome for r in reports if isinstance(r, EndReport)} == {"complete"}
    steps = [r for r in reports if isinstance(r, StepReport)]
    # Of the lost group at most one epoch, four steps a trial, is trained again.
    assert len(steps) <= 12 * 3 + 4 + 2 * 4


def test_a_lost_node_leaves_the_work_to_the_other(cluster, backend, expected):
    node = cluster.add_node(num_cpus=1)
    removed = []

    def remove(report):
        if not removed and isinstance(report, EvaluationReport):
            removed.append(report.trial)
            # The cluster keeps its workers' nodes in a set: any order, the new one among them.
            other = next(known for known in cluster.worker_nodes if known is not node)
            cluster.remove_node(other, allow_graceful=False)

    reports = listen(backend, remove)
    assert removed
    assert node in cluster.list_all_nodes()
    assert losses(reports) == expected


def test_a_stop_brings_every_latest_step_home(backend, expected, tmp_path):
    with backend.train(GROUPS[:1]) as training:
        for report in training.reports():
            if isinstance(report, EvaluationReport) and report.trial == "b" and report.epoch == 2:
                break
    again = [[Job(job.trial, job.spec, resume=True, evaluated=2) for job in GROUPS[0]]]
    reports = listen(backend, groups=again)
    assert {r.epoch for r in reports if isinstance(r, EvaluationReport)} == {3}
    assert losses(reports) == {
        key: value for key, value in expected.items() if key in losses(reports)
    }
