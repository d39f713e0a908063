import math

import pytest

from mlflow_phi3.evaluation.notation import NONE, count_of, show_figure, show_short


@pytest.mark.parametrize(
    ("value", "shown"),
    [(math.nan, NONE), (2.25, "2.2500"), (99999.0, "99999.0000"), (5.18e21, "5.18e+21")],
)
def test_a_figure_is_written_shortly(value, shown):
    assert show_figure(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [(math.nan, NONE), (0.037383, "0.03738"), (10241.7, "10,242"), (123456.0, "123,456")],
)
def test_a_large_count_is_written_whole(value, shown):
    assert show_short(value) == shown


def test_a_change_has_its_sign():
    assert show_figure(0.5, 1, signed=True) == "+0.5"
    assert show_figure(-1e6, signed=True) == "-1.00e+06"
    assert show_figure(math.nan, signed=True) == NONE


def test_one_is_no_plural():
    told = [count_of(number, "row") for number in (0, 1, 2000)]
    assert told == ["0 rows", "1 row", "2,000 rows"]
