from dataclasses import replace

import pytest
from transformers import LlamaConfig, LlamaForCausalLM

from mlflow_phi3.config.hyperparameters import Hyperparameters
from mlflow_phi3.config.parse import parse_values
from mlflow_phi3.errors import UsageError
from mlflow_phi3.modeling.catalog import learning_rates
from mlflow_phi3.sweep.space import build_space, flat_params, pinned_spec
from mlflow_phi3.training.engine.adapters import find_linear, plan_layout
from mlflow_phi3.training.spec import LoraSpec, TrialSpec


def space_of(model="demo", **values):
    return build_space(parse_values(Hyperparameters, values), model=model, seed=7)


@pytest.mark.parametrize(("epochs", "most"), [("2", 6), ("2,5", 15), ("1..4", 12)])
def test_the_longest_trial_has_most_evaluations(epochs, most):
    space = space_of(epochs=epochs, evaluations_per_epoch="3", class_weights="balanced")
    assert space.most_evaluations == most


def test_swept_and_pinned_are_told_apart():
    space = space_of(epochs="3", lora_r="8,16", lora_dropout="0..0.1")
    assert set(space.swept) == {"learning_rate", "batch_size_multiplier", "lora_r", "lora_dropout"}
    assert space.pinned["epochs"] == 3
    distributions = space.distributions()
    assert distributions["learning_rate"].log
    assert distributions["lora_r"].choices == (8, 16)
    assert (distributions["lora_dropout"].low, distributions["lora_dropout"].high) == (0.0, 0.1)


@pytest.mark.parametrize("several", ["1,2", "1..3"])
def test_trials_are_evaluated_alike(several):
    with pytest.raises(UsageError, match=r"PHI3-U005 evaluations_per_epoch: .* is one number"):
        parse_values(Hyperparameters, {"evaluations_per_epoch": several})


def test_auto_learning_rates_depend_on_the_model():
    demo = space_of("demo").swept["learning_rate"]
    real = space_of("microsoft/Phi-4-mini-instruct").swept["learning_rate"]
    assert demo != real
    assert (real.low, real.high) == (learning_rates().low, learning_rates().high)


def test_a_proposal_becomes_a_spec():
    space = space_of(
        learning_rate="1e-4", batch_size_multiplier="2", target_modules="qkv_proj+o_proj"
    )
    assert space.spec({"epochs": 2}) == TrialSpec(
        learning_rate=1e-4,
        batch_size_multiplier=2,
        epochs=2,
        lora=LoraSpec(target_modules=("qkv_proj", "o_proj")),
        seed=7,
    )


def test_a_spec_is_shown_under_the_names_people_use():
    spec = space_of(learning_rate="1e-4", batch_size_multiplier="1", epochs="1").spec({})
    shown = flat_params(spec)
    assert set(shown) == {*Hyperparameters.model_fields, "seed"}
    assert shown["target_modules"] == "all-linear"
    assert spec.lora.target_modules == ("all-linear",)


def test_epochs_are_shared_only_where_a_short_training_begins_the_long_one():
    assert space_of(epochs="1..3").epochs_to_share() == (1, 2, 3)
    assert space_of(epochs="3").epochs_to_share() == ()
    assert space_of(epochs="1..3", scheduler="linear").epochs_to_share() == ()
    assert space_of(epochs="1..3", scheduler="constant,cosine").epochs_to_share() == ()


def test_a_grid_has_epochs_innermost():
    space = space_of(learning_rate="1e-4,2e-4", epochs="1,2", batch_size_multiplier="1")
    points = list(space.grid())
    assert [(p["learning_rate"], p["epochs"]) for p in points] == [
        (1e-4, 1),
        (1e-4, 2),
        (2e-4, 1),
        (2e-4, 2),
    ]


def test_a_grid_refuses_a_range_of_reals():
    with pytest.raises(UsageError, match=r"learning_rate: a grid cannot hold the range 1e-05\.\."):
        list(space_of(learning_rate="1e-5..1e-4").grid())


def test_a_single_training_refuses_what_is_not_decided():
    with pytest.raises(UsageError, match="needs one value, not 1,2"):
        pinned_spec(parse_values(Hyperparameters, {"epochs": "2"}), model="demo", seed=0)
    values = {"epochs": "2", "batch_size_multiplier": "1"}
    spec = pinned_spec(parse_values(Hyperparameters, values), model="demo", seed=0)
    assert 6e-5 < spec.learning_rate < 1.2e-4


@pytest.mark.parametrize(
    ("values", "code"),
    [
        ({"optimizer": "adamw,adamx"}, "PHI3-U061 optimizer: no optimizer named 'adamx'"),
        ({"loss": "focal,mse"}, "PHI3-U060 loss: no loss named 'mse'"),
    ],
)
def test_a_name_that_a_later_trial_would_stop_at_is_refused(values, code):
    with pytest.raises(UsageError, match=code):
        space_of(**values)


def test_unknown_layers_are_refused():
    with pytest.raises(UsageError, match=r"PHI3-U082 .*no linear layer is called 'q_proj'"):
        space_of(target_modules="all-linear,q_proj")
    with pytest.raises(UsageError, match="no linear layer is called 'q_proj'"):
        space_of("microsoft/Phi-4-mini-instruct", target_modules="all-linear,q_proj")


def test_layers_of_another_architecture_are_its_own(tiny_base):
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=16,
            hidden_size=8,
            intermediate_size=8,
            num_hidden_layers=1,
            num_attention_heads=2,
        )
    )
    other = replace(tiny_base, model=model)
    space = space_of("./other", target_modules="q_proj+v_proj,all-linear,q_proj")
    space.check_layers(other)
    layout = plan_layout(find_linear(model), space.largest().lora)
    assert len(layout.modules) == 7  # four of attention, three of the MLP
    with pytest.raises(UsageError, match="PHI3-U062 target_modules: no linear layers named q_proj"):
        space.check_layers(tiny_base)


def test_all_linear_is_more_than_any_list():
    space = space_of(target_modules="qkv_proj+o_proj,all-linear,qkv_proj", lora_r="4,16")
    assert space.largest().lora == LoraSpec(r=16, target_modules=("all-linear",))
