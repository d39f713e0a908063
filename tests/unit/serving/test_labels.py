"""A classifier as MLflow loads it."""

import sys

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow.exceptions import MlflowException

from mlflow_phi3 import __version__
from mlflow_phi3.modeling.classify import classify, prompt_of
from mlflow_phi3.modeling.generate import render_prompt
from mlflow_phi3.serving.logged import prefer_installed
from mlflow_phi3.serving.package import package_labels
from mlflow_phi3.tracking.registry import save_model

LABELS = ("fault", "order", "praise")
TEXTS = ["hold the light", "blue"]


@pytest.fixture(scope="module")
def pyfunc(classifier, tmp_path_factory):
    tmp = tmp_path_factory.mktemp("mlflow")
    save_model(package_labels(classifier[1], tmp / "code"), tmp / "model")
    return mlflow.pyfunc.load_model(str(tmp / "model"))


def test_labels_and_scores_are_the_models(classifier, pyfunc):
    base, _ = classifier
    prompts = [render_prompt(base.tokenizer, prompt_of(text)) for text in TEXTS]
    shares = [np.exp(each) for each in classify(base.model, prompts)]
    found = pyfunc.predict(pd.DataFrame({"text": TEXTS}))
    assert [row["label"] for row in found] == [LABELS[each.argmax()] for each in shares]
    best = [each.max() for each in shares]
    assert [row["score"] for row in found] == pytest.approx(best, abs=1e-5)
    assert pyfunc.predict({"text": TEXTS[0]}) == pyfunc.predict([{"text": TEXTS[0]}])


def test_a_text_beyond_the_context_is_a_400_with_both_numbers(pyfunc):
    with pytest.raises(MlflowException, match=r"PHI3-U048 text: .* context is 256 tokens") as told:
        pyfunc.predict({"text": "light " * 400})
    assert told.value.get_http_status_code() == 400


def test_a_row_of_several_is_named(pyfunc):
    with pytest.raises(MlflowException, match="PHI3-U048 row 1: text: "):
        pyfunc.predict(pd.DataFrame({"text": ["blue", "light " * 400]}))


@pytest.mark.parametrize(("version", "last"), [(__version__, True), ("0.0.1", False)])
def test_an_installed_package_of_the_same_version_wins(tmp_path, monkeypatch, version, last):
    code = tmp_path / "code"
    (code / "mlflow_phi3").mkdir(parents=True)
    (code / "mlflow_phi3" / "__init__.py").write_text(f'__version__ = "{version}"\n')
    monkeypatch.setattr(sys, "path", [str(code), *sys.path])
    prefer_installed(code)
    assert sys.path.index(str(code)) == (len(sys.path) - 1 if last else 0)
