"""The session: what is kept, and what survives a stop, a kill and a full disk."""

import itertools
import shutil
from collections import defaultdict
from dataclasses import replace

import pytest
import torch
from peft import PeftModel

from mlflow_phi3.errors import TrainingError
from mlflow_phi3.training import checkpoint, loop
from mlflow_phi3.training.checkpoint import is_resumable, leave_untold, load_progress
from mlflow_phi3.training.loop import Session
from mlflow_phi3.training.reports import EndReport, EvaluationReport, StepReport
from mlflow_phi3.training.rider import Rider
from mlflow_phi3.training.spec import LoraSpec
from mlflow_phi3.training.trajectory import Trajectory
from tests.unit.training.sessions import (
    LENGTHS,
    SPEC,
    adapter,
    collect,
    is_step,
    losses,
    same,
    stop_at,
)


@pytest.mark.parametrize(
    ("stop", "multiplier", "optimizer"),
    [(3, 1, "adamw"), (5, 1, "adamw"), (6, 1, "adafactor"), (2, 3, "adamw"), (4, 3, "sgd")],
)
def test_resumed_is_undisturbed_bit_for_bit(session, tmp_path, stop, multiplier, optimizer):
    lora = LoraSpec(r=4, dropout=0.1)
    spec = replace(SPEC, batch_size_multiplier=multiplier, epochs=3, optimizer=optimizer, lora=lora)
    whole = session("whole")
    whole.add("a", spec)
    expected = collect(whole)["a"]
    first = session("torn")
    first.add("a", spec)
    reports = first.reports()
    told = [next(reports) for _ in range(stop)]
    reports.close()
    second = session("torn")
    second.add("a", spec, resume=True)
    told += collect(second)["a"]
    assert losses(told) == losses(expected)
    assert told[-1].best_loss == expected[-1].best_loss
    assert same(adapter(tmp_path / "torn/a/last"), adapter(tmp_path / "whole/a/last"))
    assert same(adapter(tmp_path / "torn/a/best"), adapter(tmp_path / "whole/a/best"))


@pytest.mark.parametrize(
    ("owner", "method", "heard"),
    [
        (Trajectory, "row", 3),
        (torch.optim.AdamW, "step", 3),
        (Trajectory, "take", 3),
        (Rider, "hear", 5),
    ],
)
def test_an_interrupt_anywhere_leaves_a_checkpoint_that_continues(
    session, tmp_path, monkeypatch, owner, method, heard
):
    whole = session("whole")
    whole.add("a", SPEC)
    expected = collect(whole)["a"]
    torn = session("torn", checkpoint_s=0.0)
    torn.add("a", SPEC)
    told = []
    real = getattr(owner, method)

    def interrupted(*arguments, **keywords):
        result = real(*arguments, **keywords)
        if len(told) == heard:
            raise KeyboardInterrupt
        return result

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(owner, method, interrupted)
        for report in torn.reports():
            told.append(report)  # noqa: PERF402 - the interruption looks at what was told
    again = session("torn")
    again.add("a", SPEC, resume=True)
    retold = collect(again)["a"]
    assert losses(retold, EvaluationReport) == losses(expected, EvaluationReport)
    after = {report.step: report.loss for report in retold if is_step(report)}
    # What had been heard when it was written may be told again, and is the same.
    assert {**after, **{r.step: r.loss for r in told}} == {
        r.step: r.loss for r in expected if is_step(r)
    }
    assert all(after.get(report.step, report.loss) == report.loss for report in told)
    assert same(adapter(tmp_path / "torn/a/last"), adapter(tmp_path / "whole/a/last"))


def test_killed_between_its_last_and_its_best_checkpoint_it_is_told_the_best_again(
    session, tmp_path, monkeypatch
):
    whole = session("whole")
    whole.add("a", SPEC)
    expected = [r.best for r in collect(whole)["a"] if isinstance(r, EvaluationReport)]

    def killed(source, target):
        raise KeyboardInterrupt

    torn = session("torn")
    torn.add("a", SPEC)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("mlflow_phi3.training.checkpoint.copy_adapter", killed)
        collect(torn)
    assert (tmp_path / "torn/a/last").is_dir()
    assert not (tmp_path / "torn/a/best").exists()
    again = session("torn")
    again.add("a", SPEC, resume=True, evaluated=0)
    told = collect(again)["a"]
    assert [r.best for r in told if isinstance(r, EvaluationReport)] == expected
    assert told[-1].best_checkpoint == tmp_path / "torn/a/best"
    assert same(adapter(tmp_path / "torn/a/best"), adapter(tmp_path / "whole/a/best"))


def test_nobody_rides_on_a_trajectory_whose_beginning_is_not_known(session, tmp_path):
    spec = replace(SPEC, learning_rate=0.3, epochs=3, max_grad_norm=0.0)  # the first is the best
    alone = session("alone")
    alone.add("b", replace(spec, epochs=2))
    expected = collect(alone)["b"]
    first = session("torn")
    first.add("a", spec)
    stop_at(first, 7)  # an epoch, its evaluation, a step
    again = session("torn")
    again.add("a", spec, resume=True, evaluated=1)
    again.add("b", replace(spec, epochs=2))
    told = collect(again)["b"]
    close = 1e-4  # so high a rate multiplies the last digits, in which trials side by side differ
    for kind in (StepReport, EvaluationReport):
        assert losses(told, kind) == pytest.approx(losses(expected, kind), rel=close)
    assert told[-1].best_loss == pytest.approx(expected[-1].best_loss, rel=close)
    assert told[-1].shared_with is None
    # Nor on one that has ended.
    again.add("c", replace(spec, epochs=4))
    steps = [r for r in collect(again)["c"] if isinstance(r, StepReport)]
    assert [report.step for report in steps] == list(range(1, 21))


@pytest.mark.parametrize("stop", [1, 2, 4, 5, 16, 17, 19])
def test_a_stop_leaves_nothing_untold(session, stop):
    specs = {"a": SPEC, "b": replace(SPEC, learning_rate=1e-3), "c": replace(SPEC, epochs=1)}
    one = session()
    for name, spec in specs.items():
        one.add(name, spec)
    told = defaultdict(list)
    for report in stop_at(one, stop):
        told[report.trial].append(report)
    again = session()
    for name, spec in specs.items():
        if any(isinstance(report, EndReport) for report in told[name]):
            continue
        kept, heard = again._folder / name / "last", len(losses(told[name], EvaluationReport))
        again.add(name, spec, resume=is_resumable(kept), evaluated=heard)
    for name, reports in collect(again).items():
        told[name] += reports
    for name, spec in specs.items():
        heard = [(type(r), r.step) for r in told[name] if not isinstance(r, EndReport)]
        ends = [(EvaluationReport, 5 * (epoch + 1)) for epoch in range(spec.epochs)]
        steps = [(StepReport, step + 1) for step in range(5 * spec.epochs)]
        assert sorted(heard, key=str) == sorted(steps + ends, key=str)


@pytest.mark.parametrize(("joins", "heard"), [(3, 1), (8, 2), (13, 2)])
def test_who_gets_on_late_and_is_stopped_at_once_misses_nothing(session, tmp_path, joins, heard):
    one = session()
    one.add("a", SPEC)
    reports = one.reports()
    for _ in range(joins):
        next(reports)
    one.add("b", replace(SPEC, epochs=3))
    told = [next(reports) for _ in range(heard)]
    reports.close()
    again = session()
    again.add("b", replace(SPEC, epochs=3), resume=is_resumable(tmp_path / "s/b/last"), evaluated=0)
    told += collect(again)["b"]
    assert {r.step for r in told if isinstance(r, StepReport)} == set(range(1, 16))
    assert [r.epoch for r in told if isinstance(r, EvaluationReport)] == [1, 2, 3]


def test_who_got_on_and_was_killed_goes_on_from_there(session, tmp_path):
    one = session()
    one.add("a", SPEC)
    reports = one.reports()
    for _ in range(8):
        next(reports)
    one.add("b", replace(SPEC, epochs=3))
    for report in reports:
        if report.trial == "a":
            break
    assert load_progress(tmp_path / "s/b/last").step >= 7  # without a stop


def test_a_death_within_an_epoch_costs_no_step_that_was_only_heard(session, tmp_path):
    one = session(checkpoint_s=0.0)
    one.add("a", SPEC)
    one.add("beside", replace(SPEC, epochs=3))
    reports = one.reports()
    told = [report for report in itertools.islice(reports, 18) if report.trial == "a"]
    dead = shutil.copytree(tmp_path / "s/a", tmp_path / "dead/a")  # as a kill would leave it
    reports.close()
    stood = load_progress(dead / "last")
    assert stood.step > stood.evaluated * 5

    second = session("dead", checkpoint_s=0.0)
    second.add("a", SPEC, resume=True)
    reports = second.reports()
    told += itertools.islice(reports, stood.step % 5 + 2)
    shutil.copytree(dead, tmp_path / "dead again/a")
    reports.close()
    assert load_progress(tmp_path / "dead again/a/last").step > stood.step

    again = session("dead again")
    again.add("a", SPEC, resume=True)
    retold = [report for report in again.reports() if isinstance(report, StepReport)]
    first = stood.evaluated * 5 + 1
    assert [report.step for report in retold] == list(range(first, 5 * SPEC.epochs + 1))
    heard = {r.step: r.loss for r in told if isinstance(r, StepReport)}
    assert all(r.loss == heard[r.step] for r in retold if r.step in heard)


def test_what_a_listener_could_not_write_down_is_told_before_what_follows(session, tmp_path):
    one = session()
    one.add("a", SPEC)
    steps = stop_at(one, 3)
    last = tmp_path / "s/a/last"
    for step in (steps[1:], steps[:1]):
        leave_untold(last, step)
    assert list(load_progress(last).untold) == steps


def test_a_checkpoint_within_an_epoch_comes_once_in_so_many_seconds(session, monkeypatch):
    now, saved = 0.0, []
    monkeypatch.setattr(loop.time, "perf_counter", lambda: now)
    save = Trajectory.save

    def noted(trajectory, *riders, **options):
        saved.append(trajectory.step)
        save(trajectory, *riders, **options)

    monkeypatch.setattr(Trajectory, "save", noted)
    one = session(checkpoint_s=15.0)
    one.add("a", SPEC)
    for report in one.reports():
        now += 10.0 * is_step(report)
    assert [step for step in saved if step % 5] == [2, 4, 6, 8]  # each fifth ends an epoch


def test_a_full_disk_hides_neither_the_stop_nor_the_other_trials(session, tmp_path, monkeypatch):
    one = session()
    one.add("a", SPEC)
    one.add("b", replace(SPEC, batch_size_multiplier=2))
    save = checkpoint.save_checkpoint

    def full(folder, *arguments, **keywords):
        if folder.parent.name == "a":
            raise OSError(28, "No space left on device")
        save(folder, *arguments, **keywords)

    monkeypatch.setattr(checkpoint, "save_checkpoint", full)
    reports = one.reports()
    told = [next(reports) for _ in range(4)]
    with pytest.raises(KeyboardInterrupt) as stop:
        reports.throw(KeyboardInterrupt())
    assert "No space left" in stop.value.__notes__[0]
    assert load_progress(tmp_path / "s/b/last").step == len([r for r in told if r.trial == "b"])


def test_best_is_an_adapter_and_nothing_else(session, tmp_path):
    one = session()
    one.add("a", replace(SPEC, epochs=1))
    collect(one)
    files = {path.name for path in (tmp_path / "s/a/best").iterdir()}
    assert files == {"adapter_model.safetensors", "adapter_config.json"}
    # Who reads the trial off it gets the same.
    one.add("b", SPEC)
    reports = one.reports()
    next(reports)
    assert {path.name for path in (tmp_path / "s/b/best").iterdir()} == files
    reports.close()


def test_resuming_something_else_is_refused(session, new_base):
    one = session()
    one.add("a", replace(SPEC, epochs=1))
    collect(one)
    again = session()
    with pytest.raises(TrainingError, match="PHI3-T014"):
        again.add("a", replace(SPEC, learning_rate=1e-4), resume=True)
    with pytest.raises(TrainingError, match="PHI3-T012"):
        again.add("nobody", SPEC, resume=True)
    coarse = session(base=new_base(dtype=torch.bfloat16))
    with pytest.raises(TrainingError, match="another precision: float32, now bfloat16"):
        coarse.add("a", replace(SPEC, epochs=1), resume=True)
    later = session(base=replace(new_base(), revision="another"))
    with pytest.raises(TrainingError, match=r"another base: .*'another'"):
        later.add("a", replace(SPEC, epochs=1), resume=True)


def test_a_new_trial_does_not_inherit_an_old_ones_best(session, tmp_path):
    one = session()
    one.add("a", replace(SPEC, epochs=1))
    collect(one)
    again = session()
    again.add("a", replace(SPEC, learning_rate=1e38, max_grad_norm=0.0, optimizer="sgd"))
    end = collect(again)["a"][-1]
    assert end.outcome == "failed"
    assert end.best_checkpoint is None


def test_without_validation_best_is_the_latest(new_base, new_examples, tmp_path):
    one = Session(new_base(), new_examples(LENGTHS), [], folder=tmp_path)
    one.add("a", SPEC)
    end = collect(one)["a"][-1]
    assert same(adapter(end.best_checkpoint), adapter(tmp_path / "a/last"))


def test_plain_peft_loads_the_checkpoint_and_sees_the_same_loss(
    session, new_base, new_examples, tmp_path
):
    one = session()
    one.add("a", SPEC)
    told = collect(one)["a"]
    model = PeftModel.from_pretrained(new_base().model, str(tmp_path / "s/a/last"))
    reported = [r for r in told if isinstance(r, EvaluationReport)][-1]
    example = new_examples((10, 15, 12), prefix=4, seed=5)[1]
    ids = torch.from_numpy(example.input_ids).long()[None]
    labels = torch.where(torch.from_numpy(example.supervised)[None], ids, -100)
    loss = float(model(input_ids=ids, labels=labels).loss)
    assert reported.example_losses[1] == pytest.approx(loss, rel=1e-5)


def test_an_earlier_trials_best_is_not_that_of_one_that_begins_with_an_adapter(session, tmp_path):
    one = session()
    one.add("a", replace(SPEC, epochs=1))
    collect(one)
    again = session()
    mad = replace(SPEC, learning_rate=1e38, max_grad_norm=0.0, optimizer="sgd")
    again.add("a", mad, adapter=tmp_path / "s/a/best")  # even where it is the adapter itself
    end = collect(again)["a"][-1]
    assert (end.outcome, end.best_checkpoint) == ("failed", None)
