"""What the figures of a study hold; how they look is for the eye."""

import dataclasses
import math

import pytest

from mlflow_phi3.evaluation.notation import NONE
from mlflow_phi3.sweep.figures import (
    describe,
    draw_curves,
    draw_front,
    draw_history,
    draw_parallel,
    draw_slices,
    least_width,
)
from mlflow_phi3.sweep.results import TrialResult
from mlflow_phi3.training.spec import TrialSpec
from tests.unit.sweep.made import make_result

NAN = math.nan


def trial(number, loss, state="complete", costs=None, **params):
    spec = TrialSpec(1e-3)
    return TrialResult(number, "", state, params, spec, loss, 1.0, 0.5, 1.0, costs=costs or {})


def losses(figure):
    return [y for drawn in figure.data for y in drawn.y]


def symbols(figure):
    some = [drawn.marker.symbol for drawn in figure.data]
    return [symbol for one in some if isinstance(one, tuple) for symbol in one]


DIVERGED = [trial(n, loss, lora_r=n) for n, loss in enumerate([2.4, 2.2, 2.1, 2.3, 1002.0, 2.2])]


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ([16, 4, 32, 8], ["4", "8", "16", "32"]),
        (["wsd", "cosine"], ["cosine", "wsd"]),
        ([16, "auto", 4], ["16", "4", "auto"]),
        ([True, False], ["False", "True"]),
    ],
)
def test_values_stand_in_their_order(values, shown):
    trials = [trial(n, 2 + n / 9, what=value) for n, value in enumerate(values)]
    axis = draw_slices(trials).layout.xaxis
    assert axis.type == "category"
    assert axis.categoryorder == "array"
    assert list(axis.categoryarray) == shown
    words = draw_parallel(trials).data[0].dimensions[0]
    assert words.ticktext is None or list(words.ticktext) == shown


def test_a_long_value_is_short_on_the_axis_and_whole_in_the_tooltip():
    modules = ["qkv_proj+o_proj+gate_up_proj+down_proj", "all-linear"]
    trials = [trial(n, 2.0 + n, target_modules=value) for n, value in enumerate(modules)]
    for axis in (draw_slices(trials).layout.xaxis, draw_parallel(trials).data[0].dimensions[0]):
        assert list(axis.ticktext) == ["all-linear", "qkv_pro…n_proj"]
    assert modules[0] in draw_slices(trials).data[0].text[0]


def test_one_that_diverged_does_not_flatten_the_others():
    result = make_result(DIVERGED, DIVERGED[2])
    trials = tuple(dataclasses.replace(one, costs={"s": 1.0}) for one in DIVERGED)
    paid = dataclasses.replace(result, trials=trials, costs=("s",))
    curves = {t.number: {1: t.loss + 0.1, 2: t.loss} for t in DIVERGED}
    history, learnt = draw_history(DIVERGED), draw_curves(curves, result)
    for figure in (history, learnt, draw_slices(DIVERGED), draw_front(paid)):
        assert max(losses(figure)) < 2.7
        assert "higher" in figure.layout.yaxis.title.text
        assert "triangle-up" in symbols(figure)
    assert history.data[0].marker.symbol[4] == "triangle-up"
    assert symbols(learnt).count("triangle-up") == 2
    assert any("epoch 1: 1002.1000" in text for drawn in learnt.data for text in drawn.text)
    assert "loss 1002.0" in history.data[0].text[4]
    axis = draw_parallel(DIVERGED).data[0].dimensions[-1]
    assert max(axis.values) < 2.7
    assert axis.ticktext[-1] == "higher"


def test_a_curve_stands_at_its_epochs():
    often = dataclasses.replace(TrialSpec(1e-3), evaluations_per_epoch=2)
    result = make_result([dataclasses.replace(trial(0, 2.1), spec=often)], trial(0, 2.1))
    (curve,) = draw_curves({0: {1: 2.4, 2: 2.2, 3: 2.1}}, result).data
    assert list(curve.x) == [0.5, 1.0, 1.5]
    assert "epoch 1.5: 2.1000" in curve.text[2]


def test_losses_near_each_other_are_drawn_as_they_are():
    near = [trial(n, loss) for n, loss in enumerate([2.0, 2.1, 2.5, 2.2])]
    figure = draw_history(near)
    assert max(losses(figure)) == 2.5
    assert figure.layout.yaxis.title.text == "validation loss"


def test_a_failed_trial_is_a_cross_in_the_history():
    figure = draw_history([trial(0, 2.0), trial(1, NAN, "failed"), trial(2, 2.5)])
    (cross,) = [drawn for drawn in figure.data if drawn.marker.symbol == "x"]
    assert list(cross.x) == [1]
    assert f"loss {NONE}" in cross.text[0]


def test_a_single_trial_has_no_history():
    assert draw_history([trial(0, 2.0)]) is None
    assert draw_history([trial(0, NAN, "failed"), trial(1, NAN, "failed")]) is None


def test_a_figure_has_room_for_its_labels():
    four = [trial(n, 2.0 + n, a=n, b=n, c=n, d=n) for n in range(3)]
    assert least_width(draw_parallel(four)) == 5 * 120
    assert least_width(draw_slices(four)) == 3 * 220
    assert least_width(draw_history(four)) == 480


def test_a_tooltip_tells_a_large_loss_shortly():
    assert describe(trial(1, 1.5e7)).endswith("loss 1.50e+07")
