"""A cluster of two nodes on loopback, whose workers and nodes are killed."""

import math
import os
import pickle
import shutil
import signal
import threading
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import pytest

from mlflow_phi3.backends.base import Job, Workload
from mlflow_phi3.backends.local import LocalBackend
from mlflow_phi3.backends.worker import Stretch
from mlflow_phi3.data.shards import SplitRows
from mlflow_phi3.errors import Interrupted
from mlflow_phi3.tracking.signals import stoppable
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


def find_workers():
    """The processes whose actors train: Ray names them after the class."""
    import psutil

    workers = [
        p for p in psutil.process_iter(["cmdline"]) if "ray::Worker" in str(p.info["cmdline"])
    ]
    assert workers
    return workers


def test_a_killed_worker_costs_the_time_since_its_last_epoch(backend, expected):
    killed = []

    def kill(report):
        if not killed and isinstance(report, EvaluationReport) and report.epoch == 2:
            find_workers()[0].send_signal(signal.SIGKILL)
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


def test_examples_on_the_drivers_disk_travel_with_the_base(cluster, expected, tmp_path):
    from mlflow_phi3.backends.ray import RayBackend

    here, folder = workload(), tmp_path / "prepared"
    folder.mkdir()

    def read(row):
        return pickle.loads((folder / str(row)).read_bytes())

    for row, example in enumerate([*here.train, *here.validation]):
        (folder / str(row)).write_bytes(pickle.dumps(example))
    rows = range(len(here.train)), range(len(here.train), len(here.train) + len(here.validation))
    train, validation = (SplitRows(read, list(each)) for each in rows)
    work = Workload(here.base, train, validation, here.largest, here.concurrency)
    backend = RayBackend(work, folder=tmp_path / "ray", address=cluster.address)
    shutil.rmtree(folder)
    try:
        assert losses(listen(backend)) == expected
    finally:
        backend.close()


def test_workers_that_died_while_idle_are_not_what_a_group_dies_of(backend, expected, monkeypatch):
    listen(backend)
    for worker in find_workers():
        worker.send_signal(signal.SIGKILL)
        worker.wait()
    monkeypatch.setattr("mlflow_phi3.backends.ray._MOST_LOSSES", 1)

    assert losses(listen(backend)) == expected


def test_an_order_to_stop_stays_ours(cluster, tmp_path):
    import ray

    from mlflow_phi3.backends.ray import RayBackend

    ray.shutdown()  # what joins a cluster sets a handler
    with pytest.raises(Interrupted, match="SIGTERM"), stoppable(None):
        made = RayBackend(workload(), folder=tmp_path / "ray", address=cluster.address)
        with closing(made) as backend:
            threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM)).start()
            while True:
                listen(backend)


def test_steps_are_told_before_the_checkpoint_after_them_is_kept(tmp_path):
    from mlflow_phi3.backends.ray import Lease, RayTraining

    step = StepReport("a", 4, 12, 1.0, 2.0, 1e-2, 1.0, 9, 9, 1.0, 1)
    end = EndReport("a", "failed", "", 4, math.nan, None, 1.0)
    backend = SimpleNamespace(folder=tmp_path, idle=[])
    lease = Lease("a worker", {"a": Job("a", spec())})
    training = RayTraining(backend, [])
    training._active.append(lease)
    told = training._hear(lease, Stretch((step, end), {"a": {"last/state.json": b"{}"}}))

    assert next(told) == step
    assert not (tmp_path / "a").exists()
    assert list(told) == [end]
    assert (tmp_path / "a" / "last" / "state.json").is_file()
    assert backend.idle == ["a worker"]


def test_gpus_that_stay_unused_are_told(cluster, tmp_path, monkeypatch, caplog):
    from mlflow_phi3.backends.ray import RayBackend

    RayBackend(workload(), folder=tmp_path, address=cluster.address).close()
    assert "GPU" not in caplog.text
    monkeypatch.setattr("ray.cluster_resources", lambda: {"CPU": 4.0, "GPU": 2.0})
    RayBackend(workload(), folder=tmp_path, address=cluster.address).close()
    assert "the 2 GPUs of the cluster stay unused" in caplog.text
