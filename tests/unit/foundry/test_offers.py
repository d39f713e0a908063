import json
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from mlflow_phi3.azure.registry import Offer
from mlflow_phi3.cli import models
from mlflow_phi3.errors import PreflightError
from mlflow_phi3.foundry import submission
from mlflow_phi3.foundry.offers import tuning_of
from mlflow_phi3.modeling.catalog import describe
from mlflow_phi3.workflows import doctor

NAME = "Phi-4-mini-instruct"
MODEL = describe(NAME)
RETIRED = describe("Phi-3-mini-4k-instruct")


def offered(*regions, archived=False, name=NAME):
    return {name: Offer(name, "7", regions, archived)}


ANSWERS = {
    "elsewhere": offered("westus3"),
    "nowhere": offered(),
    "archived": offered("westus3", archived=True),
    "unknown": {},
}


def test_the_catalog_speaks_where_the_registry_was_not_asked():
    tuning = tuning_of(MODEL, None)
    assert tuning.regions == MODEL.finetuning_regions
    assert (tuning.source, tuning.as_of) == ("the catalog", MODEL.finetuning_as_of)
    assert (tuning.why_not, tuning.instead, tuning.version) == ("", "", "")


@pytest.mark.parametrize(
    ("answer", "regions", "why_not", "version"),
    [
        ("elsewhere", ("westus3",), "", "7"),
        ("nowhere", (), f"the registry names no region that tunes {NAME}", "7"),
        ("archived", (), f"{NAME} is not offered any more", "7"),
        ("unknown", (), f"the registry does not have {NAME}", ""),
    ],
)
def test_the_registrys_word_counts_where_it_answers(answer, regions, why_not, version):
    tuning = tuning_of(MODEL, ANSWERS[answer])
    assert (tuning.source, tuning.as_of) == ("the registry", "now")
    assert (tuning.regions, tuning.why_not, tuning.version) == (regions, why_not, version)
    assert bool(tuning.instead) == bool(why_not)


@pytest.mark.parametrize("offers", [None, offered("eastus2", name=RETIRED.name)])
def test_a_retired_model_is_refused_whatever_is_offered(offers):
    tuning = tuning_of(RETIRED, offers)
    assert "was retired in Foundry on 2025-08-30" in tuning.why_not
    assert "Phi-4-mini-instruct" in tuning.instead
    assert tuning.regions == ()


@pytest.mark.parametrize("answer", ANSWERS)
def test_models_doctor_and_train_agree(answer, monkeypatch):
    def look_up_offers(_account, _names):
        return ANSWERS[answer]

    project = SimpleNamespace(location="West US 3", target=SimpleNamespace(project="p"))
    place = SimpleNamespace(open_account=lambda: project)
    for module in (models, doctor, submission):
        monkeypatch.setattr(module, "look_up_offers", look_up_offers)
    monkeypatch.setattr(models, "find_place", lambda _uri: place)
    tuning = tuning_of(MODEL, ANSWERS[answer])

    told = CliRunner().invoke(models.app, [NAME, "--live", "--json"])
    (facts,) = json.loads(told.output)["models"]
    assert facts["tuned_by_foundry"] == (not tuning.why_not)
    assert (facts["regions"], facts["not_by_foundry_because"]) == (
        list(tuning.regions),
        tuning.why_not,
    )
    assert doctor.look_up_tuning(project, MODEL) == tuning
    if tuning.why_not:
        with pytest.raises(PreflightError, match=f"P772 model: {tuning.why_not}"):
            submission.find_base_version(project, MODEL)
    else:
        assert submission.find_base_version(project, MODEL) == "7"
