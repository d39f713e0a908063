"""What a sweep will take: arithmetic that can be checked by hand."""

import pytest

from mlflow_phi3.config.words import SweepWord
from mlflow_phi3.modeling.catalog import Price, TrainingPrice
from mlflow_phi3.sweep.space import build_space
from mlflow_phi3.training.probe import Probe
from mlflow_phi3.workflows.estimate import (
    Prices,
    Range,
    count_work,
    estimate_foundry,
    estimate_hosting,
    estimate_local,
)

PROBE = Probe(
    trained_tokens=5000,
    train_tokens_per_s=1000.0,
    validation_tokens_per_s=2000.0,
    side_by_side=4,
    base_bytes=2 << 30,
    trial_bytes=1 << 28,
    checkpoint_bytes=1 << 20,
    seconds=9.0,
)
TRAINING = TrainingPrice(1.7, "2025-12", "a page")
PRICES = Prices(
    2.0, "as given", TRAINING, Price(0.1, 0.4, "2026-02", "a table"), (3.0, "as given"), 2
)


def space(**values):
    return build_space(SweepWord.model_validate(values), model="demo", seed=0)


def by_name(lines):
    return {line.what: line for line in lines}


def test_numbers_of_epochs_share_a_training():
    found = space(epochs="1,2,3", batch_size_multiplier="1,2")
    work = count_work(found, n_trials=7, share_epochs=True, rows=100)
    assert (work.trainings, work.passes) == (3, Range(9, 9))
    assert work.steps_a_pass == Range(7, 13)  # batches of 16 and of 8
    apart = count_work(found, n_trials=7, share_epochs=False, rows=100)
    assert (apart.trainings, apart.passes) == (7, Range(7, 21))


def test_no_point_is_counted_twice():
    found = space(learning_rate="1e-4", epochs="2", batch_size_multiplier="1,2")
    work = count_work(found, n_trials=7, share_epochs=True, rows=8)
    assert (work.trials, work.passes) == (2, Range(4, 4))


def test_a_decaying_rate_shares_nothing():
    work = count_work(
        space(epochs="2..4", scheduler="cosine"), n_trials=2, share_epochs=True, rows=8
    )
    assert (work.trainings, work.passes, work.steps_a_pass) == (2, Range(4, 8), Range(1, 1))


@pytest.mark.parametrize(("often", "hours"), [("1", 12), ("2", 18)])
def test_hours_memory_disk_and_money(often, hours):
    asked = space(epochs="2", batch_size_multiplier="1", evaluations_per_epoch=often)
    work = count_work(asked, n_trials=3, share_epochs=True, rows=80)
    lines = by_name(
        estimate_local(
            work,
            PROBE,
            train_tokens=3_600_000,
            validation_tokens=7_200_000,
            prices=PRICES,
            prepared_bytes=1 << 30,
        )
    )
    # 6 passes of 1 h training and, each time, 1 h validation.
    assert lines["hours"].amount == Range(hours, hours)
    assert lines["money"].amount == Range(2 * hours, 2 * hours)
    assert lines["optimizer steps"].amount == Range(60, 60)
    assert lines["memory"].amount == Range(3, 3)
    assert lines["disk"].amount.low == 3 + 3 / 1024
    assert "1,000 tokens/s" in lines["hours"].source


def test_every_price_tells_its_date_and_source():
    foundry = by_name(
        estimate_foundry(Range(2, 3), 2, train_tokens=500_000, counted="exact", prices=PRICES)
    )
    assert foundry["jobs"].source == "epochs of each: 2 to 3"
    assert foundry["tokens billed"].amount == Range(2_000_000, 3_000_000)
    assert round(foundry["money, at least"].amount.high, 9) == 5.1
    assert all(text in foundry["money, at least"].source for text in ("2025-12", "a page"))
    hosting = by_name(estimate_hosting(10, PRICES))
    assert hosting["by the hour, also when idle"].amount == Range(4380, 4380)
    assert hosting["tokens, serverless"].amount == Range(5, 5)
    assert all(text in hosting["tokens, serverless"].source for text in ("2026-02", "a table"))


def test_what_is_not_known_is_not_made_up():
    lines = by_name(estimate_hosting(1, Prices(0.0, "", TRAINING, None, None, 1)))
    assert [line.amount for line in lines.values()] == [None, None]
    assert "--hosting_usd_per_hour" in lines["by the hour, also when idle"].source


@pytest.mark.parametrize(
    ("low", "high", "shown"),
    [
        (333, 333, "333"),
        (0, 0.5, "0 to 0.5"),
        (1234567, 1234567, "1,234,567"),
        (2.0, 2.5, "2 to 2.5"),
    ],
)
def test_figures_are_short(low, high, shown):
    assert str(Range(low, high)) == shown
