import math

import numpy as np
import pytest

from mlflow_phi3.config.evaluate import EvaluateConfig
from mlflow_phi3.data.messages import Conversation, Example, Message
from mlflow_phi3.errors import DataError
from mlflow_phi3.evaluation.compare import compare
from mlflow_phi3.evaluation.report import render_report
from mlflow_phi3.evaluation.runner import evaluate
from mlflow_phi3.modeling.base import load_base
from mlflow_phi3.modeling.classify import classify
from mlflow_phi3.modeling.heads import with_labels
from tests.tiny_phi3 import write_checkpoint

LABELS = ("dark", "light")
CONFIG = EvaluateConfig(answers=2, generation_batch_size=2)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    base = load_base(str(write_checkpoint(tmp_path_factory.mktemp("tiny"))), precision="float32")
    base = with_labels(base, LABELS)
    base.model.score.weight.normal_(std=1.0)
    return base


def row(number, label):
    ids = np.array([5 + number, 17, 40 - number, 9], dtype=np.int32)
    return Example(ids, np.zeros(4, dtype=np.bool_), f"t.csv:{number}", label)


def talk(number):
    return Conversation((Message("user", f"text {number}"),), "t.csv", number, "dark")


ROWS = [row(number, number % 2) for number in range(1, 8)]


def test_figures_are_those_of_the_logits(classifier):
    found = evaluate(classifier, None, iter(ROWS), map(talk, range(1, 8)), config=CONFIG)

    shares = list(classify(classifier.model, [item.input_ids for item in ROWS], batch_size=1))
    losses = [-float(each[item.label]) for each, item in zip(shares, ROWS, strict=True)]
    right = [int(each.argmax()) == item.label for each, item in zip(shares, ROWS, strict=True)]
    assert [each.loss for each in found.per_example] == pytest.approx(losses, abs=1e-5)
    assert found.metrics["loss"] == pytest.approx(np.mean(losses), abs=1e-5)
    assert found.metrics["accuracy"] == pytest.approx(np.mean(right))
    assert found.labels.metrics.confusion.trace() == sum(right)
    assert [each.text for each in found.labels.predictions] == ["text 1", "text 2"]
    assert found.labels.predictions[0].expected == "light"
    best = math.exp(float(shares[0].max()))
    assert found.labels.predictions[0].score == pytest.approx(best, abs=1e-5)


def test_a_label_it_does_not_know_is_refused(classifier):
    with pytest.raises(DataError, match=r"PHI3-D074 t.csv:3: .* none of dark, light"):
        evaluate(classifier, None, [row(3, 2)], [], config=CONFIG)


def test_no_row_no_figures(classifier):
    found = evaluate(classifier, None, [], [], config=CONFIG)
    assert set(found.metrics) == {"loss"}
    assert math.isnan(found.metrics["loss"])


def test_the_report_shows_what_was_taken_for_what(classifier):
    found = evaluate(classifier, None, ROWS, map(talk, range(1, 8)), config=CONFIG)
    page = render_report(found, found, compare(found.per_example, found.per_example))
    assert "2 labels" in page
    assert "nats per row" in page
    assert "<th>expected</th>" in page
    for count in found.labels.metrics.confusion.ravel():
        assert f">{count}</td>" in page
