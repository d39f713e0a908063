"""Drift is found where there is some, and not where there is none."""

import itertools
import json
import math

import numpy as np
import pytest

from mlflow_phi3.data.sample import __file__ as sample
from mlflow_phi3.monitoring.drift import (
    LEAST,
    language_distance,
    length_distance,
    measure_drift,
    vocabulary_distance,
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


def test_too_few_prompts_conclude_nothing(prompts):
    found = measure_drift(prompts[: LEAST - 1], prompts)
    assert {drift.reading for drift in found} == {"too few"}
    assert all(math.isnan(drift.value) and drift.excess == 0 for drift in found)


def test_distances_are_zero_for_the_same_and_one_for_strangers():
    one, two = ["turn the lamp on", "blue light"], ["माझा दिवा का चालू होत नाही, मी काय करू आणि"]
    for distance in (length_distance, vocabulary_distance, language_distance):
        assert distance(one, one) == pytest.approx(0, abs=1e-7)
        assert distance(one, two) == pytest.approx(1)
    assert vocabulary_distance([], one) == 1
