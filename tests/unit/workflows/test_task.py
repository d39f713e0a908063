from types import SimpleNamespace

import pytest

from mlflow_phi3.config.parse import parse_values
from mlflow_phi3.config.words import TrainWord
from mlflow_phi3.errors import DataError, UsageError
from mlflow_phi3.workflows.task import fit_to_data

LABELS = {"task": "text-classification", "class_weights": "balanced"}


def data(**labels):
    split = SimpleNamespace(labels=labels)
    return SimpleNamespace(manifest=SimpleNamespace(splits={"train": split}))


def test_balanced_weights_are_scikit_learns():
    settled = fit_to_data(parse_values(TrainWord, LABELS), data(fault=3, order=1))
    assert settled.class_weights.value == "0.666667+2"


def test_a_label_without_rows_cannot_be_balanced():
    with pytest.raises(DataError, match=r"PHI3-D076 class_weights: no training row is .*'order'"):
        fit_to_data(parse_values(TrainWord, LABELS), data(fault=3, order=0))


def test_chats_have_no_labels_to_weigh():
    with pytest.raises(UsageError, match="PHI3-U053 class_weights"):
        fit_to_data(parse_values(TrainWord, {"class_weights": "balanced"}), data())
