"""Folders that travel between a worker and its driver."""

import tempfile
from pathlib import Path

import pytest

from mlflow_phi3.backends import worker as worker_module
from mlflow_phi3.backends.base import Job, Workload
from mlflow_phi3.backends.worker import Worker, read_folder, write_folder
from mlflow_phi3.training.reports import EndReport, StepReport
from mlflow_phi3.training.spec import LoraSpec, TrialSpec
from tests.unit.sweep import tiny

FILES = {"best/a": b"1", "last/b": b"2"}


def test_a_folder_holds_what_was_written_and_nothing_else(tmp_path):
    folder = tmp_path / "trial"
    write_folder(folder, {"best/old": b"0"})
    (tmp_path / ".trial.new").mkdir()
    (tmp_path / ".trial.new" / "left by a kill").touch()
    write_folder(folder, FILES)
    assert read_folder(folder) == FILES
    write_folder(folder, {})
    assert read_folder(folder) == {}
    assert list(tmp_path.iterdir()) == []


def test_a_crash_while_a_folder_is_replaced_leaves_the_new_one(tmp_path, monkeypatch):
    folder = tmp_path / "trial"
    write_folder(folder, {"last/b": b"1"})
    rename, renamed = Path.rename, []

    def killed(path, target):
        renamed.append(path)
        if len(renamed) == 2:
            raise KeyboardInterrupt
        return rename(path, target)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "rename", killed)
        write_folder(folder, FILES)
    assert not folder.exists()
    assert read_folder(folder) == FILES


def test_what_cannot_be_cleared_away_is_told_before_the_folder_is_touched(tmp_path):
    folder = tmp_path / "trial"
    write_folder(folder, FILES)
    another = tmp_path / "another"
    write_folder(another, {"last/c": b"4"})
    (tmp_path / ".trial.new").symlink_to(another)
    with pytest.raises(OSError, match="symbolic link"):
        write_folder(folder, {"best/a": b"3"})
    assert read_folder(folder) == FILES


def test_a_worker_keeps_nothing_that_its_driver_has(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    spec = TrialSpec(1e-2, epochs=2, lora=LoraSpec(r=4, alpha=8.0))
    worker = Worker(Workload(tiny.make_base(), tiny.count(32, 0), tiny.count(8, 1), spec, 1))
    told, files = [], {}
    stretch = worker.begin([Job("a", spec)], {})
    while stretch.reports:
        told += stretch.reports
        files |= stretch.files
        stretch = worker.go_on(())
    assert isinstance(told[-1], EndReport)
    assert "best/adapter_model.safetensors" in files["a"]
    assert list(tmp_path.rglob("*.safetensors")) == []

    worker.begin([Job("b", spec)], {})
    assert "last/state.json" in worker.stop()["b"]
    assert list(tmp_path.rglob("*.safetensors")) == []


def steps_of(reports):
    return [report.step for report in reports if isinstance(report, StepReport)]


@pytest.mark.parametrize("stretch_s", [0.0, 60.0])  # a step at a time; an epoch at a time
def test_a_stretch_that_was_not_heard_is_told_by_whoever_goes_on(stretch_s, monkeypatch):
    monkeypatch.setattr(worker_module, "_STRETCH_S", stretch_s)
    spec = TrialSpec(1e-2, epochs=3, lora=LoraSpec(r=4, alpha=8.0))
    work = Workload(tiny.make_base(), tiny.count(32, 0), tiny.count(8, 1), spec, 1)
    worker = Worker(work)
    heard = list(worker.begin([Job("a", spec)], {}).reports)
    lost = worker.go_on(()).reports
    files = worker.stop()

    other = Worker(work)
    known = len(heard) - len(steps_of(heard))
    stretch = other.begin([Job("a", spec, resume=True, evaluated=known)], files)
    while stretch.reports:
        heard += stretch.reports
        stretch = other.go_on(())

    assert steps_of(lost)
    assert steps_of(heard) == list(range(1, 13))
