"""The session: who trains when, with whom, and what is told."""

import itertools
import math
import shutil
from collections import defaultdict
from dataclasses import replace

import pytest

from mlflow_phi3.errors import UsageError
from mlflow_phi3.training import loop, passes
from mlflow_phi3.training.loop import Session
from mlflow_phi3.training.passes import split_by_tokens
from mlflow_phi3.training.reports import EndReport, EvaluationReport, StepReport
from mlflow_phi3.training.spec import LoraSpec
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


def test_a_trial_tells_its_steps_its_epochs_and_its_end(session, new_base, tmp_path):
    base = new_base()
    modules = [name for name, _ in base.model.named_modules()]
    one = session(base=base)
    one.add("a", SPEC)
    *told, end = collect(one)["a"]
    assert [name for name, _ in base.model.named_modules()] == modules
    steps = [report for report in told if isinstance(report, StepReport)]
    assert [report.step for report in steps] == list(range(1, 11))
    tokens = [report.tokens for report in steps]
    assert tokens[:5] != tokens[5:]  # another order
    assert {report.total_steps for report in steps} == {10}
    assert sum(report.tokens for report in steps) == 2 * sum(LENGTHS)
    evaluations = [report for report in told if isinstance(report, EvaluationReport)]
    assert [report.epoch for report in evaluations] == [1, 2]
    assert len(evaluations[0].example_losses) == 3
    assert end.outcome == "complete"
    assert end.best_loss == min(losses(told, EvaluationReport))
    assert end.best_checkpoint == tmp_path / "s/a/best"
    assert sorted(path.name for path in (tmp_path / "s/a").iterdir()) == ["best", "last"]


def test_together_as_apart(session):
    others = replace(SPEC, learning_rate=3e-3, batch_size_multiplier=2)
    specs = {
        "a": SPEC,
        "b": others,
        "c": replace(SPEC, lora=LoraSpec(r=2, alpha=7, rslora=True), scheduler="cosine"),
        "d": replace(SPEC, seed=4, weight_decay=0.1),
        "e": replace(SPEC, lora=LoraSpec(r=4, target_modules=("qkv_proj",))),
        "f": replace(SPEC, lora=LoraSpec(r=4, dora=True)),  # the reference engine beside the fused
    }
    together = session("together")
    for name, spec in specs.items():
        together.add(name, spec)
    told = collect(together)
    for name, spec in specs.items():
        alone = session(name)
        alone.add(name, spec)
        expected = collect(alone)[name]
        for kind in (StepReport, EvaluationReport):
            assert losses(told[name], kind) == pytest.approx(losses(expected, kind), rel=1e-5)


def test_of_equal_evaluations_the_first_is_the_best(session):
    one = session()
    one.add("a", replace(SPEC, learning_rate=0.0))
    told = collect(one)["a"]
    assert [r.best for r in told if isinstance(r, EvaluationReport)] == [True, False]


@pytest.mark.parametrize("at", [slice(2), slice(None)])
def test_examples_that_teach_nothing_cost_nothing(new_base, new_examples, tmp_path, at):
    examples = new_examples(LENGTHS[:4])
    for example in examples[at]:
        example.supervised[:] = False
    one = Session(new_base(), examples, examples, folder=tmp_path)
    one.add("a", replace(SPEC, shuffle=False, epochs=1))
    *told, end = collect(one)["a"]
    assert (told[0].loss, end.outcome) == (0.0, "complete")
    assert told[-1].example_losses[:2] == (0.0, 0.0)


def test_classes_that_weigh_alike_weigh_as_without_weights(new_base, new_examples, tmp_path):
    found = []
    for weights in ((), (2.0, 2.0, 2.0)):
        examples = new_examples(LENGTHS, labels=3)
        one = Session(new_base(labels=3), examples, [], folder=tmp_path)
        one.add("a", replace(SPEC, class_weights=weights))
        found.append(losses(collect(one)["a"]))
    assert found[1] == pytest.approx(found[0], rel=1e-5)


def test_a_second_round_is_computed_by_the_same_engine(session):
    one = session()
    one.add("a", SPEC)
    expected = collect(one)["a"]
    made = dict(one._engines)  # what it has learnt, such as that memory is short, is kept
    one.add("b", replace(SPEC, weight_decay=1e-9))
    assert losses(collect(one)["b"]) == pytest.approx(losses(expected), rel=1e-5)
    assert one._engines == made


def test_a_steps_seconds_are_those_of_its_passes(session, monkeypatch):
    ticks = itertools.count()
    one = session(token_budget=25)
    one.add("a", SPEC)
    monkeypatch.setattr(loop.time, "perf_counter", lambda: float(next(ticks)))
    steps = [report for report in collect(one)["a"] if isinstance(report, StepReport)]
    passes = [report.tokens / report.tokens_per_second for report in steps]
    assert passes == pytest.approx([1 if report.tokens <= 25 else 2 for report in steps])
    assert {1, 2} == {round(each) for each in passes}


def test_one_who_comes_late_catches_up_and_changes_nothing(session):
    alone = session("alone")
    alone.add("b", SPEC)
    expected = collect(alone)["b"]
    both = session("both")
    both.add("a", replace(SPEC, learning_rate=1e-3))
    told, order = defaultdict(list), []
    for report in both.reports():
        told[report.trial].append(report)
        order.append(report.trial)
        if report.trial == "a" and isinstance(report, StepReport) and report.step == 3:
            both.add("b", SPEC)
    assert order[3:8] == ["b", "b", "b", "a", "b"]
    assert losses(told["b"]) == pytest.approx(losses(expected), rel=1e-5)
    assert len(losses(told["a"])) == 10


def test_a_dropped_trial_ends_and_the_others_do_without_it(session):
    both = session()
    both.add("a", SPEC)
    both.add("b", replace(SPEC, learning_rate=1e-3))
    told = defaultdict(list)
    for report in both.reports():
        told[report.trial].append(report)
        if report.trial == "a" and isinstance(report, StepReport) and report.step == 8:
            both.drop("a")
    assert told["a"][-1].outcome == "dropped"
    assert told["a"][-1].steps == 8
    assert told["b"][-1].outcome == "complete"
    both.add("longer", replace(SPEC, epochs=3))
    steps = [report.step for report in collect(both)["longer"] if isinstance(report, StepReport)]
    assert steps == list(range(1, 16))


def test_epochs_are_read_off_one_trajectory(session, tmp_path):
    shared = session("shared")
    for epochs in (1, 3, 2):
        shared.add(f"e{epochs}", replace(SPEC, epochs=epochs))
    told = collect(shared)
    (done,) = shared._finished.values()
    assert (done.weights.numel(), dict(done.optimizer.state)) == (0, {})
    assert told["e1"][-1].shared_with is None
    assert told["e3"][-1].shared_with == told["e2"][-1].shared_with == "e1"
    for epochs in (1, 2, 3):
        alone = session(f"alone{epochs}")
        alone.add("a", replace(SPEC, epochs=epochs))
        expected = collect(alone)["a"]
        for kind in (StepReport, EvaluationReport):
            assert losses(told[f"e{epochs}"], kind) == losses(expected, kind)
        for name in ("best", "last"):
            theirs = adapter(tmp_path / f"alone{epochs}/a/{name}")
            assert same(adapter(tmp_path / f"shared/e{epochs}/{name}"), theirs)


def test_all_who_are_dropped_leave_at_once(session):
    shared = session()
    for epochs in (1, 2, 3):
        shared.add(f"e{epochs}", replace(SPEC, epochs=epochs))
    told = defaultdict(list)
    for report in shared.reports():
        told[report.trial].append(report)
        if (report.trial, report.step if is_step(report) else 0) == ("e3", 3):
            shared.drop("e2")
            shared.drop("e3")
    ends = [(told[name][-1].outcome, told[name][-1].steps) for name in ("e1", "e2", "e3")]
    assert ends == [("complete", 5), ("dropped", 3), ("dropped", 3)]


def test_a_longer_trial_goes_on_where_a_finished_one_ended(session):
    alone = session("alone")
    alone.add("a", SPEC)
    expected = collect(alone)["a"]
    one = session("one")
    one.add("short", replace(SPEC, epochs=1))
    told = []
    for report in one.reports():
        if report.trial == "long":
            told.append(report)
        if isinstance(report, EndReport) and report.trial == "short":
            one.add("long", SPEC)
    assert losses(told) == losses(expected)
    assert losses(told, EvaluationReport) == losses(expected, EvaluationReport)
    assert told[-1].shared_with == "short"


def test_nobody_gets_on_after_his_last_epoch(session):
    one = session()
    one.add("long", SPEC)
    told = []
    for report in one.reports():
        told += [report] * (report.trial == "short")
        if isinstance(report, EvaluationReport) and (report.trial, report.epoch) == ("long", 1):
            one.add("short", replace(SPEC, epochs=1))
    one.add("later", replace(SPEC, epochs=1))
    for reports in (told, collect(one)["later"]):
        assert [report.step for report in reports if is_step(report)] == [1, 2, 3, 4, 5]
        assert reports[-1].shared_with is None


def test_nobody_goes_on_from_a_checkpoint_that_is_gone(session, tmp_path):
    one = session()
    one.add("short", replace(SPEC, epochs=1))
    collect(one)
    shutil.rmtree(tmp_path / "s/short")
    one.add("long", SPEC)
    told = collect(one)["long"]
    assert [report.step for report in told if is_step(report)] == list(range(1, 11))
    assert told[-1].shared_with is None


def test_of_so_many_finished_trials_the_latest_are_remembered(session, monkeypatch):
    monkeypatch.setattr(loop, "REMEMBERED", 1)
    one = session()
    for rate in (1e-2, 2e-2):
        one.add(f"{rate}", replace(SPEC, learning_rate=rate, epochs=1))
        collect(one)
    assert [spec.learning_rate for spec in one._finished] == [2e-2]


def test_a_decaying_rate_is_not_shared(session):
    both = session()
    both.add("a", replace(SPEC, scheduler="linear", epochs=1))
    both.add("b", replace(SPEC, scheduler="linear"))
    told = collect(both)
    assert told["b"][-1].shared_with is None
    assert losses(told["a"]) != losses(told["b"])[:5]


def test_a_trial_that_diverges_fails_alone(session):
    both = session()
    mad = replace(SPEC, learning_rate=1e38, max_grad_norm=0.0, optimizer="sgd")
    both.add("mad", mad)
    both.add("at its end", replace(mad, per_device_batch_size=len(LENGTHS), epochs=1))
    both.add("sane", SPEC)
    told = collect(both)
    assert told["at its end"][-1].outcome == "failed"
    assert "validation loss nan at step 1" in told["at its end"][-1].reason
    assert told["mad"][-1].outcome == "failed"
    assert math.isnan(told["mad"][-1].best_loss)
    assert "PHI3-T003" in told["mad"][-1].reason
    assert f"step {told['mad'][-1].steps + 1}" in told["mad"][-1].reason
    assert told["sane"][-1].outcome == "complete"


def test_a_small_budget_changes_how_but_not_what(session):
    results = []
    for budget in (1, 30, 4096):
        one = session(f"b{budget}", token_budget=budget)
        one.add("a", replace(SPEC, batch_size_multiplier=2))
        results.append(losses(collect(one)["a"]))
    assert results[1] == pytest.approx(results[0], rel=1e-5)
    assert results[2] == pytest.approx(results[0], rel=1e-5)


def test_a_group_scores_no_more_at_once_than_one_may(session, monkeypatch):
    monkeypatch.setattr(passes, "SCORED", 1)
    parts = []

    def look(examples, budget):
        for part in split_by_tokens(examples, budget):
            parts.append([len(example.input_ids) for example in part])
            yield part

    monkeypatch.setattr(loop, "split_by_tokens", look)
    one = session(token_budget=90)
    for rate in (1e-2, 2e-2, 3e-2):
        one.add(f"{rate}", replace(SPEC, epochs=1, learning_rate=rate))
    collect(one)
    assert parts[-2:] == [[10, 15], [12]]  # 30 tokens each


@pytest.mark.parametrize(
    ("change", "fuse"),
    [
        ({"seed": 4}, True),  # nothing is shuffled
        ({"seed": 4, "shuffle": True}, False),
        ({"loss": "focal"}, False),
        ({"label_smoothing": 0.1}, False),
        ({"lora": LoraSpec(r=4, dropout=0.1)}, False),
    ],
)
def test_trials_that_are_computed_alike_share_a_pass(session, change, fuse):
    one = session()
    plain = replace(SPEC, shuffle=False)
    one.add("a", plain)
    one.add("b", replace(plain, learning_rate=1e-3, **change))
    a, b = one._running
    assert (a.fuses_with == b.fuses_with) == fuse


def test_an_adapter_to_begin_with(session, tmp_path):
    one = session("one")
    one.add("a", replace(SPEC, epochs=1))
    collect(one)
    two = session("two")
    two.add("b", replace(SPEC, epochs=1, learning_rate=0.0), adapter=tmp_path / "one/a/last")
    collect(two)
    assert same(adapter(tmp_path / "one/a/last"), adapter(tmp_path / "two/b/last"))


def test_trials_that_began_otherwise_share_nothing(session, tmp_path):
    old = session("old")
    old.add("a", replace(SPEC, epochs=1, learning_rate=0.05))
    collect(old)
    alone = session("alone")
    alone.add("b", SPEC)
    expected = losses(collect(alone)["b"])
    both = session("both")
    both.add("a", SPEC, adapter=tmp_path / "old/a/last")
    both.add("b", SPEC)
    told = stop_at(both, 4)
    again = session("both")
    for name in ("a", "b"):
        again.add(name, SPEC, resume=True)
    rest = collect(again)
    found = losses([report for report in told if report.trial == "b"] + rest["b"])
    assert found == pytest.approx(expected, rel=1e-5)
    assert rest["b"][-1].shared_with is None
    again.add("c", replace(SPEC, epochs=3))
    assert losses(collect(again)["c"])[:10] == pytest.approx(expected, rel=1e-5)


def test_dropout_does_not_depend_on_who_trains_beside(new_base, new_examples, tmp_path):
    spec = replace(SPEC, per_device_batch_size=8, lora=LoraSpec(r=4, dropout=0.3))
    other = replace(spec, per_device_batch_size=2, learning_rate=1e-3)
    found = []
    for at, (others, budget) in enumerate([([], 1024), ([other], 1024), ([], 30)]):
        examples = new_examples(LENGTHS, prefix=4)
        one = Session(new_base(), examples, [], folder=tmp_path / str(at), token_budget=budget)
        one.add("a", spec)
        for each in others:
            one.add("b", each)
        found.append(losses(collect(one)["a"]))
    assert found[1] == pytest.approx(found[0], rel=1e-5)
    assert found[2] == pytest.approx(found[0], rel=1e-5)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"optimizer": "nobody"}, "PHI3-U061"),
        ({"loss": "nobody"}, "PHI3-U060"),
        ({"lora": LoraSpec(target_modules=("nothing",))}, "PHI3-U062"),
    ],
)
def test_unknown_names_stop_before_anything_runs(session, change, code):
    with pytest.raises(UsageError, match=code):
        session().add("a", replace(SPEC, **change))
