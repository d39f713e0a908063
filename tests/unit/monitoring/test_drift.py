"""Drift is found where there is some, and not where there is none."""

import itertools
import json
import math
from collections import Counter

import numpy as np
import pytest
from scipy.stats import ks_2samp
from sklearn.linear_model import Ridge

from mlflow_phi3.data.sample import __file__ as sample
from mlflow_phi3.evaluation.words import split_words
from mlflow_phi3.monitoring.drift import (
    LEAST,
    _held_out_scores,
    length_distance,
    measure_drift,
    share_distance,
)


@pytest.fixture(scope="module")
def prompts():
    from pathlib import Path

    lines = (Path(sample).parent / "support.jsonl").read_text(encoding="utf-8").splitlines()
    return [
        turn["content"]
        for line in lines
        if line.strip()
        for turn in json.loads(line).get("messages", [])
        if turn["role"] == "user"
    ]


def by_name(drifts):
    return {drift.name: drift for drift in drifts}


def test_more_of_the_same_is_steady(prompts):
    order = np.random.default_rng(1).permutation(len(prompts))
    sent = [prompts[at] for at in order[:120]]
    trained = [prompts[at] for at in order[120:]]
    found = by_name(measure_drift(sent, trained))
    assert {name: drift.reading for name, drift in found.items()} == dict.fromkeys(found, "steady")
    assert all(drift.excess == 0 for drift in found.values())


def test_each_measure_sees_its_own_kind(prompts):
    longer = [f"{one} {two}" for one, two in itertools.pairwise(prompts)][:100]
    assert by_name(measure_drift(longer, prompts))["length"].reading == "moved"
    other = ["please compute the mortgage interest of my flat in Pune for this year"] * 60
    found = by_name(measure_drift(other, prompts))
    assert (found["vocabulary"].reading, found["distinguishable"].reading) == ("moved", "moved")
    assert "mortgage" in found["vocabulary"].note
    marathi = ["माझा दिवा का चालू होत नाही, मी काय करू"] * 40 + prompts[:60]
    found = by_name(measure_drift(marathi, prompts))
    assert found["language"].reading == "moved"
    assert "mr" in found["language"].note
    assert found["language"].excess > 0.1


def test_what_few_say_is_not_told(prompts):
    sent = [*prompts[:40], *["my name is Anna Schmidtova, call 0170 1234567"] * 4]
    found = by_name(measure_drift(sent, prompts))
    told = " ".join(drift.note for drift in found.values())
    assert "words are new" in told
    assert found["distinguishable"].note.startswith("by: ")
    assert not {"anna", "schmidtova", "0170", "1234567"} & set(split_words(told))


def test_too_few_prompts_conclude_nothing(prompts):
    for few in ((prompts[: LEAST - 1], prompts), (prompts, prompts[: LEAST - 1])):
        found = measure_drift(*few)
        assert {drift.reading for drift in found} == {"too few"}
    assert all(math.isnan(drift.value) and drift.excess == 0 for drift in found)


def test_distances_are_zero_for_the_same_and_one_for_strangers():
    one, two = np.array([3.0, 1, 0, 0]), np.array([0.0, 0, 2, 5])
    for distance in (length_distance, share_distance):
        assert distance(one, 2 * one) == pytest.approx(0, abs=1e-7)
        assert distance(one, two) == pytest.approx(1)
    assert share_distance(0 * one, one) == 1
    assert share_distance(0 * one, 0 * one) == 0


def test_the_distance_of_lengths_is_scipys():
    random = np.random.default_rng(0)
    one, two = random.poisson(8, 70), random.poisson(9, 300)
    counts = [np.bincount(lengths, minlength=40).astype(float) for lengths in (one, two)]
    assert length_distance(*counts) == pytest.approx(ks_2samp(one, two).statistic)


def test_what_tells_two_classifiers_apart_is_learnt_on_other_prompts():
    """Held against scikit-learn's own ridge regression and area under the curve."""
    random = np.random.default_rng(0)
    x, folds = random.normal(size=(60, 7)), random.permutation(60) % 5
    labels = (x[:, 0] + random.normal(size=60) > 0).astype(float)
    expected = np.empty(60)
    for fold in range(5):
        known = folds != fold
        mean = labels[known].mean()
        ridge = Ridge(alpha=1.0, fit_intercept=False).fit(x[known], labels[known] - mean)
        expected[~known] = ridge.predict(x[~known])
    found = _held_out_scores(x @ x.T, labels[:, None], folds)
    assert found[:, 0] == pytest.approx(expected)


def chinese(random, start, count):
    """Prompts of 12 characters each, of 300 in use, without a blank."""
    codes = random.integers(start, start + 300, size=(count, 12))
    return ["".join(map(chr, row)) for row in codes]


def test_prompts_without_blanks_are_read_by_character():
    random = np.random.default_rng(0)
    trained = chinese(random, 0x4E00, 60)
    same, other = chinese(random, 0x4E00, 100), chinese(random, 0x5000, 100)
    assert {drift.reading for drift in measure_drift(same, trained)} == {"steady"}
    found = by_name(measure_drift(other, trained))
    assert (found["vocabulary"].reading, found["distinguishable"].reading) == ("moved", "moved")


@pytest.mark.parametrize(
    ("sent", "trained", "note"),
    [
        (["\U0001f44d"] * 100, ["\U0001f642!"] * 30, "no prompt holds a word"),
        ([f"z{n}y" for n in range(100)], [f"q{n}x" for n in range(30)], "a word in common"),
    ],
)
def test_prompts_that_words_cannot_compare_conclude_nothing(sent, trained, note):
    found = by_name(measure_drift(sent, trained))
    assert (found["vocabulary"].reading, found["distinguishable"].reading) == ("too few",) * 2
    assert note in found["distinguishable"].note
    assert all(drift.excess == 0 for drift in found.values())


def spoken(random, count, length):
    words, shares = [f"w{n}" for n in range(200)], 1 / np.arange(1, 201)
    shares /= shares.sum()
    return [
        " ".join(random.choice(words, size=max(1, random.poisson(length)), p=shares))
        for _ in range(count)
    ]


def test_few_trained_prompts_do_not_hide_a_change_of_many():
    random = np.random.default_rng(1)
    found = by_name(measure_drift(spoken(random, 2000, 10), spoken(random, 60, 8)))["length"]
    assert found.usual < 0.2 < found.value
    assert found.reading == "moved"


@pytest.mark.slow
def test_a_change_is_told_where_there_is_none_as_often_as_is_said():
    """5 % of 100 samples: more than 11 would be had by chance once in 200 times."""
    alarms = Counter()
    for seed in range(100):
        random = np.random.default_rng(seed)
        for drift in measure_drift(spoken(random, 30, 8), spoken(random, 60, 8), seed=seed):
            alarms[drift.name] += drift.reading == "moved"
    assert alarms.keys() == {"length", "vocabulary", "language", "distinguishable"}
    assert max(alarms.values()) <= 11, alarms
