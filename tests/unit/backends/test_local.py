import multiprocessing
import re
import resource
import shutil
import sys
from dataclasses import replace

import psutil
import pytest
import torch

from mlflow_phi3.backends.base import Job, Workload
from mlflow_phi3.backends.local import LocalBackend
from mlflow_phi3.training.engine.fused import FusedEngine
from mlflow_phi3.training.reports import EndReport, EvaluationReport, StepReport
from mlflow_phi3.training.spec import LoraSpec, TrialSpec
from tests.unit.sweep import tiny


def spec(learning_rate=1e-2, epochs=2, r=4):
    return TrialSpec(learning_rate, epochs=epochs, lora=LoraSpec(r=r, alpha=8.0))


def workload(concurrency=0):
    return Workload(tiny.make_base(), tiny.count(32, 0), tiny.count(8, 1), spec(), concurrency)


@pytest.fixture
def backend(tmp_path):
    return LocalBackend(workload(), folder=tmp_path)


def listen(backend, *groups, on_report=lambda report, training: None):
    found = []
    with backend.train(groups) as training:
        for report in training.reports():
            found.append(report)
            on_report(report, training)
    return found


def ends(reports):
    return {r.trial: (r.outcome, r.steps) for r in reports if isinstance(r, EndReport)}


def test_what_fits_the_memory_goes_on_together(backend, tmp_path):
    assert backend.group_size == 4  # a CPU's most: its matrix products are full
    two = LocalBackend(replace(backend.work, concurrency=2), folder=tmp_path)
    assert (two.group_size, two.slots) == (2, 1)


def test_groups_train_one_after_the_other(backend):
    groups = [[Job("a", spec()), Job("b", spec(2e-2))], [Job("c", spec(3e-2, epochs=1))]]
    reports = listen(backend, *groups)
    assert ends(reports) == {"a": ("complete", 8), "b": ("complete", 8), "c": ("complete", 4)}
    order = [report.trial for report in reports if isinstance(report, StepReport)]
    assert order.index("c") > max(i for i, trial in enumerate(order) if trial == "b")


def test_a_dropped_trial_trains_no_further_step(backend):
    def drop(report, training):
        if isinstance(report, EvaluationReport) and report.trial == "b":
            training.drop("b")
            training.drop("waits")

    groups = [[Job("a", spec()), Job("b", spec(2e-2))], [Job("waits", spec())]]
    reports = listen(backend, *groups, on_report=drop)
    assert ends(reports) == {"a": ("complete", 8), "b": ("dropped", 4), "waits": ("dropped", 0)}


def test_a_stopped_trial_goes_on_where_it_was(backend, tmp_path):
    whole = listen(backend, [Job("whole", spec())])
    with backend.train([[Job("a", spec())]]) as training:
        for report in training.reports():
            if isinstance(report, StepReport) and report.step == 6:
                break
    rest = listen(backend, [Job("a", spec(), resume=True, evaluated=1)])
    assert [report.step for report in rest if isinstance(report, StepReport)] == [7, 8]
    assert rest[-1].best_loss == pytest.approx(whole[-1].best_loss, rel=1e-6)


def test_an_evaluation_that_nobody_heard_is_told_again(backend):
    whole = listen(backend, [Job("a", spec())])
    lost = [report for report in whole if isinstance(report, EvaluationReport)][-1]
    # The driver died between the last checkpoint and hearing of its evaluation.
    again = listen(backend, [Job("a", spec(), resume=True, evaluated=1)])
    told = [report for report in again if isinstance(report, EvaluationReport)]
    assert [(report.epoch, report.step) for report in told] == [(2, 8)]
    assert told[0].loss == pytest.approx(lost.loss, rel=1e-6)
    assert [type(report) for report in again] == [EvaluationReport, EndReport]
    # One that was heard is not.
    assert [type(r) for r in listen(backend, [Job("a", spec(), resume=True, evaluated=2)])] == [
        EndReport
    ]


def test_without_a_checkpoint_a_resumed_trial_begins_anew(backend):
    reports = listen(backend, [Job("a", spec(epochs=1), resume=True, evaluated=1)])
    assert ends(reports) == {"a": ("complete", 4)}


def test_a_crash_between_the_two_renames_costs_no_step(backend, tmp_path):
    with backend.train([[Job("a", spec())]]) as training:
        for report in training.reports():
            if isinstance(report, StepReport) and report.step == 6:
                break
    (tmp_path / "a/last").rename(tmp_path / "a/.last.old")
    shutil.copytree(tmp_path / "a/.last.old", tmp_path / "a/.last.new")
    rest = listen(backend, [Job("a", spec(), resume=True, evaluated=1)])
    assert [report.step for report in rest if isinstance(report, StepReport)] == [7, 8]


def memory_for(monkeypatch, rows, error):
    """A machine whose memory holds ``rows`` adapters in one pass."""
    differentiate = FusedEngine._differentiate

    def limited(engine, batch, those):
        if len(those) > rows:
            raise error
        return differentiate(engine, batch, those)

    monkeypatch.setattr(FusedEngine, "_differentiate", limited)


def test_a_group_that_does_not_fit_a_gpu_even_by_recomputing_is_taken_apart(backend, monkeypatch):
    memory_for(monkeypatch, 1, torch.OutOfMemoryError("CUDA out of memory"))
    for engine_knows in (False, True):  # the second time it recomputes from the start
        name = str(engine_knows)
        group = [Job(f"a{name}", spec()), Job(f"b{name}", spec(2e-2))]
        found = ends(listen(backend, group))
        assert found == dict.fromkeys((f"a{name}", f"b{name}"), ("complete", 8))


def test_a_group_taken_apart_late_tells_nothing_again(backend, monkeypatch):
    def shrink(report, _):
        if isinstance(report, EvaluationReport):
            memory_for(monkeypatch, 1, torch.OutOfMemoryError("CUDA out of memory"))

    reports = listen(backend, [Job("a", spec()), Job("b", spec(2e-2))], on_report=shrink)
    for trial in ("a", "b"):
        told = [(type(r), r.step) for r in reports if r.trial == trial and hasattr(r, "step")]
        steps = [(StepReport, step) for step in range(1, 9)]
        assert sorted(told, key=str) == sorted(
            [*steps, (EvaluationReport, 4), (EvaluationReport, 8)], key=str
        )


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_trials_that_fit_in_no_way_fail_and_the_sweep_goes_on(backend, monkeypatch, error):
    memory_for(monkeypatch, 0, error)
    # Also two that could have shared one training.
    reports = listen(backend, [Job("a", spec()), Job("b", spec(epochs=3))], [Job("c", spec(2e-2))])
    reasons = {r.trial: r.reason for r in reports if isinstance(r, EndReport)}
    for name in ("a", "b", "c"):
        assert f"PHI3-T081 {name}: " in reasons[name]
        assert "not even lora_r=1 fits" in reasons[name]


def train_in_little_memory(folder, answer, *, spare):
    """Limit the address space, then train one trial that fits and one that does not."""
    backend = LocalBackend(workload(concurrency=2), folder=folder)
    listen(backend, [Job("warm", spec(epochs=1))])
    used = psutil.Process().memory_info().vms
    resource.setrlimit(resource.RLIMIT_AS, (used + spare, used + spare))
    group = [Job("small", spec()), Job("large", spec(r=200_000))]
    reports = listen(backend, group, [Job("next", spec(2e-2, epochs=1))])
    reasons = {r.trial: r.reason for r in reports if isinstance(r, EndReport)}
    answer.send((ends(reports), reasons))


@pytest.mark.skipif(sys.platform != "linux", reason="limits the address space as Linux does")
def test_a_trial_that_does_not_fit_fails_alone_and_is_told_what_would(tmp_path):
    context = multiprocessing.get_context("forkserver")
    mine, theirs = context.Pipe()
    process = context.Process(
        target=train_in_little_memory, args=(tmp_path, theirs), kwargs={"spare": 400 * 2**20}
    )
    process.start()
    theirs.close()
    ended, reasons = mine.recv()
    process.join()
    assert ended == {"small": ("complete", 8), "large": ("failed", 0), "next": ("complete", 4)}
    assert "PHI3-T081 large: " in reasons["large"]
    told = re.search(r"lora_r=(\d+) would fit", reasons["large"])
    assert told is not None
    assert 4 < int(told[1]) < 200_000


@pytest.mark.parametrize(
    "file", ["state.json", "optimizer.safetensors", "adapter_model.safetensors"]
)
@pytest.mark.parametrize("harm", ["cut", "gone"])
def test_a_broken_checkpoint_is_told_and_its_trial_begins_anew(
    backend, tmp_path, caplog, file, harm
):
    whole = listen(backend, [Job("whole", spec())])
    with backend.train([[Job("a", spec())]]) as training:
        for report in training.reports():
            if isinstance(report, StepReport) and report.step == 6:
                break
    path = tmp_path / "a" / "last" / file
    if harm == "cut":
        path.write_bytes(path.read_bytes()[:60])
    else:
        path.unlink()
    again = listen(backend, [Job("a", spec(), resume=True, evaluated=1)])
    assert ends(again) == {"a": ("complete", 8)}
    assert again[-1].best_loss == pytest.approx(whole[-1].best_loss, rel=1e-6)
    told = "cannot be read, its trial begins anew"
    assert (told in caplog.text) == ((file, harm) != ("state.json", "gone"))
