import re

import pytest

from mlflow_phi3.errors import UsageError
from mlflow_phi3.modeling import catalog
from mlflow_phi3.modeling.base import pin_revision


@pytest.mark.parametrize(
    "name", ["Phi-4-mini-instruct", "microsoft/Phi-4-mini-instruct", "phi-4-MINI-instruct"]
)
def test_a_model_is_found_by_either_name(name):
    found = catalog.describe(name)
    assert found.name == "Phi-4-mini-instruct"
    assert found.retired_on is None
    assert "eastus2" in found.finetuning_regions


def test_the_nearest_name_is_told():
    with pytest.raises(UsageError, match=r"PHI3-U032 .*did you mean 'Phi-4-mini-instruct'"):
        catalog.describe("Phi-4-mini-instrukt")
    assert catalog.find("llama") is None


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("phi-4-mini", "Phi-4-mini-instruct"),
        ("Phi-4-m", "Phi-4-mini-instruct"),
        ("phi-4-r", "Phi-4-reasoning"),
        ("microsoft/phi-3.5", "Phi-3.5-mini-instruct"),
        ("phi-3", "Phi-3-mini-4k-instruct"),
        ("phi", "Phi-4"),
    ],
)
def test_a_name_that_begins_so_is_nearer_than_a_shorter_one(typed, meant):
    with pytest.raises(UsageError, match=f"did you mean '{meant}'"):
        catalog.describe(typed)


@pytest.mark.parametrize("model", catalog.list_models(), ids=lambda model: model.name)
def test_every_entry_is_whole(model):
    assert model.context_tokens >= 4096
    assert model.hub_id.startswith("microsoft/")
    assert model.revision is None or re.fullmatch("[0-9a-f]{40}", model.revision)
    assert bool(model.finetuning_regions) != bool(model.no_finetuning_because)
    if model.price:
        assert 0 < model.price.input < model.price.output
        assert model.price.as_of
        assert model.price.source


def test_retired_models_have_a_replacement_that_is_not_retired():
    retired = [model for model in catalog.list_models() if model.retired_on]
    assert {model.name.split("-")[1] for model in retired} == {"3", "3.5"}
    assert not any(catalog.describe(model.replacement).retired_on for model in retired)
    assert all(f"take {model.replacement}, or " in catalog.refusal(model)[1] for model in retired)


def test_a_machine_without_a_price_is_told_what_there_is():
    with pytest.raises(UsageError, match="give usd_per_hour; or did you mean 'Standard_NC24ads_A1"):
        catalog.machine_price("standard_nc24ads_a100_v3")
    with pytest.raises(UsageError, match="give usd_per_hour; or one of Standard_NC24ads_A100_v4, "):
        catalog.machine_price("my box")
    assert catalog.find_machine_price("my box") is None
    found = catalog.machine_price("standard_nc24ads_a100_v4")
    assert (found.machine, found.usd_per_hour) == ("Standard_NC24ads_A100_v4", 3.673)


def test_rates_are_ordered():
    rates = catalog.learning_rates()
    assert 0 < rates.low < rates.default < rates.high
    assert re.fullmatch(r"\d{4}-\d{2}", catalog.dated())


def test_loading_takes_the_pinned_commit_unless_told():
    pinned = catalog.describe("Phi-3-mini-4k-instruct")
    assert pin_revision(pinned.hub_id, None) == pinned.revision
    assert pin_revision(pinned.hub_id, "main") == "main"
    assert pin_revision("someone/else", None) is None
