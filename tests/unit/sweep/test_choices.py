"""Samplers and pruners by name, on a study in memory."""

import optuna
import pytest
from optuna.distributions import FloatDistribution

from mlflow_phi3.errors import PreflightError, UsageError
from mlflow_phi3.sweep.options import parse_options
from mlflow_phi3.sweep.pruners import HalvingPruner, build_pruner
from mlflow_phi3.sweep.samplers import build_sampler

SPACE = {"rate": FloatDistribution(1e-4, 1e-1, log=True)}


@pytest.fixture(autouse=True)
def _quiet():
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def rates(name, *, seed=0, restart_at=None, trials=6):
    study = optuna.create_study()
    found = []
    for number in range(trials):
        if number == restart_at:
            study = optuna.load_study(study_name=study.study_name, storage=study._storage)
        study.sampler = build_sampler(name, "", seed=seed, number=number, n_trials=trials)
        trial = study.ask(SPACE)
        found.append(trial.params["rate"])
        study.tell(trial, found[-1])
    return found


@pytest.mark.parametrize("name", ["tpe", "random", "qmc", "gp"])
def test_proposals_depend_on_the_seed_and_not_on_restarts(name):
    first = rates(name)
    assert len(set(first)) == 6
    assert rates(name, restart_at=3) == first
    assert rates(name, seed=1) != first


def test_a_library_that_is_missing_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(PreflightError, match="pip install cmaes"):
        build_sampler("cmaes", "", seed=0, number=0, n_trials=4)


def test_options_are_optunas_own():
    assert parse_options("a=1, b=true,c=x", "here") == {"a": 1, "b": True, "c": "x"}
    with pytest.raises(UsageError, match="here: 'a' is not name=value"):
        parse_options("a", "here")
    with pytest.raises(UsageError, match="TPESampler has no option 'candidates'"):
        build_sampler("tpe", "candidates=3", seed=0, number=0, n_trials=4)
    for factor in ("1", ".nan", ".inf"):
        with pytest.raises(UsageError, match="PHI3-U085"):
            build_pruner("halving", f"reduction_factor={factor}", longest=3)


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("tpe", "n_startup_trials=abc"),
        ("tpe", "constant_liar=perhaps"),
        ("tpe", "gamma=3"),
        ("gp", "deterministic_objective=maybe"),
        ("qmc", "independent_sampler=random"),
        ("tpe", "n_ei_candidates=0"),
        ("gp", "n_startup_trials=-1"),
    ],
)
def test_a_value_that_an_option_does_not_take_is_refused_before_it_is_needed(name, option):
    with pytest.raises(UsageError, match=option.partition("=")[0]):
        build_sampler(name, option, seed=0, number=0, n_trials=4)


@pytest.mark.parametrize(("n_trials", "startup"), [(4, 4), (24, 6), (400, 10)])
def test_tpe_explores_a_quarter_of_the_study_and_knows_of_those_that_run(n_trials, startup):
    made = build_sampler("tpe", "", seed=0, number=0, n_trials=n_trials)
    assert (made._n_startup_trials, made._constant_liar) == (startup, True)


def test_values_of_options_are_read_as_people_write_them():
    assert build_sampler("tpe", "group=yes,multivariate=on", seed=0, number=0, n_trials=4)._group
    assert build_pruner("patient", "min_delta=1e-1", longest=3)._min_delta == 0.1
    with pytest.raises(
        UsageError, match=r"PHI3-U085 pruner_options: n_warmup_steps=abc: .*integer"
    ):
        build_pruner("median", "n_warmup_steps=abc", longest=3)
    assert build_pruner("asha", "min_resource=2", longest=3)._min_resource == 2


@pytest.mark.parametrize("name", ["none", "median", "halving", "asha", "hyperband", "patient"])
def test_pruners_judge_by_name(name):
    # Hyperband draws brackets by the name of the study.
    study = optuna.create_study(study_name="judged", pruner=build_pruner(name, "", longest=3))
    for value in (1.0, 1.1, 0.9, 1.2, 1.0):
        trial = study.ask(SPACE)
        for epoch in (1, 2, 3):
            trial.report(value / epoch, epoch)
            trial.should_prune()
        study.tell(trial, value)
    bad = study.ask(SPACE)
    judged = []
    for epoch in (1, 2, 3):
        bad.report(50.0 + epoch, epoch)
        judged.append(bad.should_prune())
    assert any(judged) == (name != "none")


def test_hyperband_has_the_brackets_of_the_longest_trial():
    study = optuna.create_study(pruner=build_pruner("hyperband", "", longest=8))
    for epochs in (1, 8):
        trial = study.ask(SPACE)
        for epoch in range(1, epochs + 1):
            trial.report(1.0, epoch)
            trial.should_prune()
        study.tell(trial, 1.0)
    assert len(study.pruner._pruners) == 4  # at least 1, 2, 4 and 8 epochs
    assert build_pruner("hyperband", "max_resource=4", longest=8)._max_resource == 4


@pytest.mark.parametrize(
    "option",
    ["reduction_factor=1", "min_resource=0", "max_resource=0", "max_resource=-1", "max_resource=a"],
)
def test_brackets_that_cannot_be_are_refused_before_anything_runs(option):
    with pytest.raises(UsageError, match="PHI3-U085 pruner_options"):
        build_pruner("hyperband", option, longest=4)
    for possible in ("max_resource=auto", "bootstrap_count=1"):
        assert build_pruner("hyperband", possible, longest=4)


def test_halving_keeps_the_better_half():
    study = optuna.create_study(pruner=HalvingPruner())
    trials = [study.ask(SPACE) for _ in range(5)]
    for trial, loss in zip(trials, (3.0, 1.0, 2.0, 5.0, 4.0), strict=True):
        trial.report(loss, 1)
    assert [trial.should_prune() for trial in trials] == [False, False, False, True, True]


def test_trials_that_share_a_training_count_once():
    study = optuna.create_study(pruner=HalvingPruner())
    trials = [study.ask(SPACE) for _ in range(6)]
    for trial, loss in zip(trials, (1.0, 1.0, 1.0, 2.0, 3.0, 4.0), strict=True):
        trial.report(loss, 1)
    assert [trial.should_prune() for trial in trials] == [False] * 4 + [True] * 2


def test_halving_waits_for_its_first_epoch():
    study = optuna.create_study(pruner=HalvingPruner(min_resource=2))
    trials = [study.ask(SPACE) for _ in range(2)]
    for trial, loss in zip(trials, (1.0, 2.0), strict=True):
        trial.report(loss, 1)
    assert not any(trial.should_prune() for trial in trials)


@pytest.mark.parametrize("name", ["tpe", "random", "grid", "qmc", "gp"])
def test_a_seed_is_the_studys_and_no_option(name):
    """One for all trials would make them one trial."""
    with pytest.raises(UsageError, match=r"PHI3-U084 sampler_options: .* Fix: seed=5 as a param"):
        build_sampler(name, "seed=5", seed=0, number=0, n_trials=4)


def test_options_that_nobody_would_read_are_refused():
    with pytest.raises(UsageError, match=r"NopPruner has no option 'patience'\. Fix: leave it out"):
        build_pruner("none", "patience=2", longest=3)
    with pytest.raises(UsageError, match="RandomSampler has no option 'multivariate'"):
        build_sampler("grid", "multivariate=true", seed=0, number=0, n_trials=4)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ("patience=1,patience=2", "PHI3-U083 pruner_options: patience is given twice"),
        ("=2", "PHI3-U083 pruner_options: '=2' is not name=value"),
        ("patience=[2", "PHI3-U085 pruner_options: patience=.2: .*integer"),
        ("patience=@2", "PHI3-U085 pruner_options: patience=@2: .*integer"),
    ],
)
def test_options_that_cannot_be_read_are_refused_with_their_place(options, told):
    with pytest.raises(UsageError, match=told):
        build_pruner("patient", options, longest=3)
