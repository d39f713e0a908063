import json
import math

import pytest

from mlflow_phi3.errors import GateError
from mlflow_phi3.evaluation.compare import Comparison
from mlflow_phi3.evaluation.gates import (
    Verdict,
    champion_gate,
    finite_gate,
    golden_gate,
    parity_gate,
)
from mlflow_phi3.evaluation.golden import GoldenResult

GOOD = finite_gate({"loss": 1.0}, weights_finite=True)
SAME = parity_gate(same=True, max_rel=1e-6, differing=0, tolerance=1e-3)


def comparison(low, high):
    return Comparison((low + high) / 2, low, high, 0.95, 20)


@pytest.mark.parametrize(
    ("low", "high", "passed"), [(-0.3, -0.1, True), (-0.3, 0.1, False), (0.1, 0.2, False)]
)
def test_a_champion_falls_only_beyond_noise(low, high, passed):
    assert champion_gate(comparison(low, high), "better").passed is passed


def test_too_few_rows_never_promote_and_show_no_infinity():
    gate = champion_gate(Comparison(-1, -math.inf, math.inf, 0.95, 3), "better")
    assert not gate.passed
    assert (
        gate.why == "test loss -1.0000 against the champion on 3 rows (too few to tell them apart)"
    )


def test_nan_never_promotes():
    assert not champion_gate(comparison(math.nan, math.nan), "better").passed


def test_the_first_is_champion_unless_never():
    first = Verdict((GOOD, SAME, champion_gate(None, "better")))
    assert (first.promote, first.why) == (True, "the first champion")
    assert not champion_gate(None, "never").passed
    assert champion_gate(comparison(1, 2), "always").passed


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_metric_that_is_no_number_blocks(value):
    gate = finite_gate({"loss": 1.0, "perplexity": value}, weights_finite=True)
    assert not gate.passed
    assert gate.blocks
    assert "perplexity" in gate.why


def test_a_weight_that_is_no_number_blocks():
    assert not finite_gate({}, weights_finite=False).passed


def test_a_model_that_reads_back_as_another_blocks():
    other = parity_gate(same=False, max_rel=0.1, differing=0, tolerance=1e-3)
    assert not Verdict((GOOD, other)).register


def test_losing_to_the_champion_registers_without_the_alias():
    verdict = Verdict((GOOD, SAME, champion_gate(comparison(-1, 1), "better")))
    assert verdict.register
    assert not verdict.promote
    assert verdict.why.startswith("champion: test loss +0.0000")
    assert verdict.why.endswith("on 20 rows (95% interval -1.0000 to +1.0000)")
    verdict.check("trial-001")


def test_a_golden_query_missed_stops_all():
    bad = GoldenResult("g.jsonl:2", "?", "red", ("lacks 'blue'",))
    verdict = Verdict((GOOD, SAME, golden_gate([bad]), champion_gate(None, "better")))
    assert not verdict.register
    assert not verdict.promote
    with pytest.raises(GateError, match=r"PHI3-G070 trial-001: golden: 0 of 1 .*g.jsonl:2 lacks"):
        verdict.check("trial-001")


def test_the_artifact_is_json():
    told = json.loads(json.dumps(Verdict((GOOD, SAME, golden_gate([]))).to_json()))
    assert told["promote"] is True
    assert [gate["name"] for gate in told["gates"]] == ["finite", "parity", "golden"]
