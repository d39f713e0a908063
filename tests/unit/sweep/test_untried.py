import optuna
import pytest

from mlflow_phi3.config.parse import parse_values
from mlflow_phi3.config.sweep import SweepConfig
from mlflow_phi3.sweep.space import build_space
from mlflow_phi3.sweep.untried import Untried

VALUES = {"learning_rate": "1e-4,1e-3", "batch_size_multiplier": "1,2", "epochs": "3"}


def make(n_trials, **values):
    space = build_space(parse_values(SweepConfig, VALUES | values), model="demo", seed=0)
    return Untried(space, n_trials, grid=False, share_epochs=True), space


def tried(space, *points):
    axes = ("learning_rate", "batch_size_multiplier")
    return [
        optuna.create_trial(
            params=dict(zip(axes, point, strict=True)),
            distributions=space.distributions(),
            value=1.0,
        )
        for point in points
    ]


@pytest.mark.parametrize(("n_trials", "total"), [(3, 3), (4, 4), (9, 4)])
def test_there_are_no_more_trials_than_points(n_trials, total):
    untried, space = make(n_trials)
    assert untried.total == total
    assert untried.left(tried(space, (1e-4, 1))) == total - 1


def test_a_point_that_somebody_asked_for_twice_counts_once():
    untried, space = make(9)
    assert untried.left(tried(space, (1e-4, 1), (1e-4, 1), (1e-3, 1))) == 2
    assert untried.left(tried(space, *[(1e-4, 1)] * 8)) == 1  # of nine


def test_the_nearest_point_is_tried_instead_of_one_that_was():
    untried, space = make(9)
    known = tried(space, (1e-4, 1), (1e-3, 1))
    assert untried.instead({"learning_rate": 1e-3, "batch_size_multiplier": 2}, known) is None
    assert untried.instead({"learning_rate": 1e-3, "batch_size_multiplier": 1}, known) == {
        "learning_rate": 1e-3,
        "batch_size_multiplier": 2,
    }


def test_a_range_of_reals_has_no_end():
    untried, space = make(9, learning_rate="1e-4..1e-3")
    known = tried(space, (2e-4, 1), (2e-4, 1))
    assert (untried.total, untried.left(known)) == (9, 7)
    assert untried.instead(known[0].params, known) is None
