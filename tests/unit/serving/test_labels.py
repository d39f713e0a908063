"""A classifier as MLflow loads it."""

import sys

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature

from mlflow_phi3 import __version__
from mlflow_phi3.config.serve import ServeConfig
from mlflow_phi3.errors import PreflightError
from mlflow_phi3.modeling.base import load_base
from mlflow_phi3.modeling.classify import classify, prompt_of
from mlflow_phi3.modeling.generate import render_prompt
from mlflow_phi3.modeling.heads import with_labels
from mlflow_phi3.modeling.merge import save_checkpoint
from mlflow_phi3.serving.logged import prefer_installed
from mlflow_phi3.serving.package import package_labels
from mlflow_phi3.serving.server import serve

LABELS = ("fault", "order", "praise")
TEXTS = ["hold the light", "blue"]
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:mlflow.*")


@pytest.fixture(scope="module")
def classifier(folder, tmp_path_factory):
    base = with_labels(load_base(str(folder), precision="float32"), LABELS)
    base.model.score.weight.normal_(std=1.0)
    target = tmp_path_factory.mktemp("classifier")
    save_checkpoint(base.model, base, target)
    return base, target


@pytest.fixture(scope="module")
def pyfunc(classifier, tmp_path_factory):
    tmp = tmp_path_factory.mktemp("mlflow")
    servable = package_labels(classifier[1], tmp / "code")
    mlflow.pyfunc.save_model(
        str(tmp / "model"),
        python_model=servable.python_model,
        artifacts=servable.artifacts,
        code_paths=servable.code_paths,
        pip_requirements=servable.pip_requirements,
        model_config=servable.model_config,
        signature=ModelSignature.from_dict(servable.signature),
        input_example=servable.input_example,
    )
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


def test_the_chat_server_does_not_serve_it(classifier):
    with pytest.raises(PreflightError, match="PHI3-P041"):
        serve(classifier[1], ServeConfig())


@pytest.mark.parametrize(("version", "last"), [(__version__, True), ("0.0.1", False)])
def test_an_installed_package_of_the_same_version_wins(tmp_path, monkeypatch, version, last):
    code = tmp_path / "code"
    (code / "mlflow_phi3").mkdir(parents=True)
    (code / "mlflow_phi3" / "__init__.py").write_text(f'__version__ = "{version}"\n')
    monkeypatch.setattr(sys, "path", [str(code), *sys.path])
    prefer_installed(code)
    assert sys.path.index(str(code)) == (len(sys.path) - 1 if last else 0)
