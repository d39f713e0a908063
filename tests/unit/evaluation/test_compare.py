import math

import numpy as np
import pytest

from mlflow_phi3.errors import DataError
from mlflow_phi3.evaluation.compare import compare
from mlflow_phi3.evaluation.losses import from_rows, to_rows
from mlflow_phi3.training.scoring import ExampleScore


def rows(losses, tokens=None):
    tokens = tokens if tokens is not None else [10] * len(losses)
    return [
        ExampleScore(f"t:{n}", float(loss) * int(count), int(count), 0)
        for n, (loss, count) in enumerate(zip(losses, tokens, strict=True))
    ]


@pytest.fixture
def noise():
    return np.random.default_rng(0)


def test_a_clear_win_is_better(noise):
    base = noise.normal(3, 1, 50)
    found = compare(rows(base - 0.5 + noise.normal(0, 0.1, 50)), rows(base))
    assert found.better
    assert found.significant
    assert found.low < found.difference < found.high < 0


def test_pairing_sees_what_unpaired_means_hide(noise):
    """Rows differ by far more than models do; the same rows cancel out."""
    base = noise.normal(3, 2, 40)
    assert compare(rows(base - 0.05 + noise.normal(0, 0.02, 40)), rows(base)).better


def test_a_clear_loss_is_significant_but_not_better(noise):
    base = noise.normal(3, 1, 50)
    found = compare(rows(base + 0.5), rows(base))
    assert found.significant
    assert not found.better


def test_the_same_is_no_difference():
    found = compare(rows([1, 2, 3, 4, 5, 6]), rows([1, 2, 3, 4, 5, 6]))
    assert (found.difference, found.low, found.high, found.significant) == (0, 0, 0, False)


def test_difference_is_weighted_by_tokens():
    found = compare(rows([1, 2], [1, 99]), rows([2, 2], [1, 99]))
    assert found.difference == pytest.approx(-0.01)


def test_a_draw_without_a_token_is_no_difference():
    tokens = [1, 0, 0, 0, 0, 0]
    a, b = rows([1] * 6, tokens), rows([2] * 6, tokens)
    found = compare(a, b)
    assert (found.difference, found.low, found.high) == (-1, -1, 0)
    assert compare(a, b, confidence=0.2).high == -1  # of two draws in three, with the token in them


def test_interval_covers_the_truth_as_often_as_it_says(noise):
    """200 experiments with a true difference of -0.1 at 90 %."""
    covered = 0
    for _ in range(200):
        base = noise.normal(2, 1, 60)
        found = compare(
            rows(base + noise.normal(-0.1, 0.3, 60)), rows(base), confidence=0.9, resamples=400
        )
        covered += found.low <= -0.1 <= found.high
    assert 0.83 <= covered / 200 <= 0.95


@pytest.mark.parametrize(("count", "told"), [(2, False), (5, False), (6, True)])
def test_rows_so_few_that_all_may_lean_to_one_side_tell_nothing(count, told):
    found = compare(rows([1.0 + n / 10 for n in range(count)]), rows([2.0] * count))
    assert found.difference < -0.5
    assert (found.better, found.too_few) == (told, not told)


@pytest.mark.parametrize("loss", [1.5, 2.0, 2.5])
def test_a_row_alone_differs_but_tells_nothing_beyond_itself(loss):
    found = compare(rows([loss]), rows([2.0]))
    assert (found.difference, found.low, found.high) == (loss - 2.0, -math.inf, math.inf)
    assert not found.significant
    assert not found.better


def test_the_interval_is_that_of_draws_by_hand(noise):
    tokens, gap = noise.integers(0, 60, 80), noise.normal(0.01, 0.1, 80)
    found = compare(rows(2 + gap, tokens), rows([2] * 80, tokens), resamples=500, seed=7)
    at = np.random.default_rng(7).integers(80, size=(500, 80))
    drawn = (gap * tokens)[at].sum(axis=1) / tokens[at].sum(axis=1)
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])))


def test_nan_is_never_better():
    found = compare(rows([np.nan, 1]), rows([9, 9]))
    assert math.isnan(found.low)
    assert not found.better
    assert not found.significant


def test_many_rows_are_drawn_in_slices(noise):
    base = noise.normal(2, 1, 5000)
    a, b = rows(base - 0.1), rows(base)
    assert compare(a, b, resamples=1000).better


def test_what_is_kept_of_the_rows_is_read_back():
    made = (ExampleScore("t:1", 4.5, 3, 2), ExampleScore("t:2", 0.0, 0, 0))
    kept = to_rows(made)
    assert [row["loss"] for row in kept] == [1.5, 0.0]
    assert from_rows(kept) == made


def test_repeatable():
    a, b = rows([1, 2, 4]), rows([2, 2, 2])
    assert compare(a, b, seed=3) == compare(a, b, seed=3)


@pytest.mark.parametrize(
    ("a", "b", "code"),
    [
        (rows([1]), rows([1, 2]), "PHI3-D070 1 and 2 rows"),
        (rows([1, 2]), rows([1, 2], [10, 11]), "PHI3-D070 t:1"),
        ([], [], "PHI3-D071"),
        (rows([0], [0]), rows([0], [0]), "PHI3-D071"),
    ],
)
def test_what_cannot_be_compared_is_told(a, b, code):
    with pytest.raises(DataError, match=code):
        compare(a, b)
