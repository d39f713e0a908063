from typing import Literal

import pytest
from pydantic import Field, ValidationError

from mlflow_phi3.config.base import Config
from mlflow_phi3.config.monitor import MonitorConfig
from mlflow_phi3.config.parse import (
    first_fault,
    narrow,
    parse_arguments,
    parse_values,
    suggest,
)
from mlflow_phi3.config.plan import PlanWord
from mlflow_phi3.config.serve import ServeConfig
from mlflow_phi3.config.words import MainWord, SweepWord, TrainWord
from mlflow_phi3.errors import UsageError


class Small(Config):
    epochs: int = Field(default=3, ge=1)
    learning_rate: float = 1e-3


class Wide(Small):
    model: str = "demo"
    output: Literal["auto", "plain"] = "auto"


def test_names_and_values_become_a_schema():
    config = parse_arguments(Wide, ["--epochs", "5", "--model=folder", "--learning-rate", "2e-5"])

    assert config == Wide(epochs=5, model="folder", learning_rate=2e-5)


def test_an_empty_value_stands_for_the_default():
    assert parse_arguments(Wide, ["--epochs", "", "--model="]) == Wide()


def test_a_negative_number_is_a_value_not_a_name():
    assert parse_arguments(Wide, ["--learning_rate", "-1"]).learning_rate == -1


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["--epoch", "5"], "PHI3-U004", "did you mean 'epochs'?"),
        (["--epochs", "abc"], "PHI3-U005", "epochs: 'abc'"),
        (["--epochs", "0"], "PHI3-U005", "greater than or equal to 1"),
        (["--output", "loud"], "PHI3-U005", "'auto' or 'plain'"),
        (["--epochs"], "PHI3-U002", "no value"),
        (["--epochs", "--model", "x"], "PHI3-U002", "no value"),
        (["--epochs", "1", "--epochs=2"], "PHI3-U003", "twice"),
        (["epochs", "1"], "PHI3-U001", "'epochs' is not a parameter"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_the_value_and_the_mend(arguments, code, told):
    with pytest.raises(UsageError) as caught:
        parse_arguments(Wide, arguments)

    assert caught.value.code == code
    assert told in str(caught.value)
    assert caught.value.exit_code == 2


def test_narrow_hands_down_what_the_step_knows():
    assert narrow(Wide(epochs=7, model="x"), Small) == Small(epochs=7)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("--learning_rate 1e-5:5e-4", "'1e-5:5e-4' is not a number. Fix: write a value (1e-4), "),
        ("--learning_rate 1e-5:5e-4", "or a range (1e-5..5e-4)."),
        ("--sampler tpee", "did you mean 'tpe'?"),
        ("--scheduler cosinee", "did you mean 'cosine'?"),
        ("--dora maybe", "write true, false, or true,false to try both"),
        ("--overlength x", "one of error, drop, truncate"),
        ("--lora_r 0 --n_trials 0", "(also n_trials: '0': input should be greater"),
        ("--space nothere.yaml", "space: there is no file 'nothere.yaml'. Fix: give a path "),
    ],
)
def test_a_refused_value_comes_with_what_can_be_written_instead(arguments, told):
    with pytest.raises(UsageError) as caught:
        parse_arguments(SweepWord, arguments.split())

    assert told in str(caught.value)


def test_a_refused_value_is_quoted_once():
    with pytest.raises(UsageError) as caught:
        parse_arguments(SweepWord, ["--epochs", "abc"])

    assert str(caught.value).count("'abc'") == 1


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("gradient_accumulation_steps", "batch_size_multiplier"),
        ("per_device_train_batch_size", "per_device_batch_size"),
        ("num_train_epochs", "epochs"),
        ("max_seq_length", "max_length"),
        ("lr_scheduler_type", "scheduler"),
        ("rank", "lora_r"),
    ],
)
def test_what_other_trainers_call_a_parameter_leads_to_ours(theirs, ours):
    with pytest.raises(UsageError, match=f"did you mean '{ours}'"):
        parse_arguments(MainWord, [f"--{theirs}", "1"])


@pytest.mark.parametrize(
    ("schema", "name", "page"),
    [
        (ServeConfig, "port", "docs/serving.md"),
        (MonitorConfig, "hours", "mlflow-phi3 monitor --help"),
        (PlanWord, "probe_steps", "mlflow-phi3 plan --help"),
        (MainWord, "answers", "--help, or docs/parameters.md"),
    ],
)
def test_a_wrong_value_leads_to_the_page_that_has_the_parameter(schema, name, page):
    with pytest.raises(UsageError, match=rf"PHI3-U005 {name}: .*Fix: see {page}\.$"):
        parse_values(schema, {"endpoint": "e", name: "-1"} if name == "hours" else {name: "-1"})


@pytest.mark.parametrize("word", [MainWord, TrainWord])
@pytest.mark.parametrize("theirs", ["max_steps", "save_steps", "gradient_checkpointing"])
def test_what_ours_has_none_like_is_not_taken_for_another(word, theirs):
    """500 steps are not 500 epochs."""
    with pytest.raises(UsageError, match=f"PHI3-U004 {theirs}: unknown parameter. Fix: one of"):
        parse_arguments(word, [f"--{theirs}", "500"])


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"study": "o'b"}, "letters, digits"),
        ({"study": "../up"}, "letters, digits"),
        ({"study": "a" * 201}, "longer than 200 bytes"),
        ({"budget_usd": "5"}, "with local it is budget_cost"),
        ({"ray_address": "auto"}, "ray_address is for backend=ray, not local"),
        ({"backend": "foundry", "detach": "true"}, "PHI3-U004 detach"),
        ({"backend": "foundry", "winner_seeds": "2"}, "its jobs take no seed"),
        ({"backend": "foundry", "concurrency": "4"}, "max_jobs is how many"),
        (
            {"backend": "foundry", "budget_cost": "5", "usd_per_hour": "2"},
            "budget_usd limits what its jobs cost",
        ),
        ({"seed": "-1"}, "greater than or equal to 0"),
        ({"seed": str(2**31)}, "less than 2147483648"),
        ({"validation_split": "0.9", "test_split": "0.3"}, "leave nothing to train on"),
    ],
)
def test_what_no_sweep_can_use_is_refused(values, told):
    with pytest.raises(UsageError, match=told):
        parse_values(MainWord, values)


@pytest.mark.parametrize("name", ["अभ्यास 1", "première étude", "etude\u0301", "s-1.b"])
def test_a_study_has_a_name_in_any_script(name):
    assert parse_values(SweepWord, {"study": name}).study == name


def test_a_space_with_keys_that_are_no_names_is_refused(tmp_path):
    (tmp_path / "space.yaml").write_text("1: 2\nepoch: 3\n")
    with pytest.raises(UsageError, match="unknown parameters: 1, epoch"):
        parse_values(SweepWord, {"space": str(tmp_path / "space.yaml")})


@pytest.mark.parametrize(
    ("name", "mend"),
    [
        ("Median", "did you mean 'median'?"),
        ("medain", "did you mean 'median'?"),
        ("qqq", "one of median, halving"),
    ],
)
def test_only_what_is_near_is_suggested(name, mend):
    assert suggest(name, ["median", "halving"]) == mend
    assert suggest("qqq", ["median", "halving"], "ask") == "ask"


def test_the_first_fault_of_a_schema_has_its_place_and_plain_words():
    with pytest.raises(ValidationError) as refused:
        MainWord.model_validate({"budget_cost": 3})
    place, problem = first_fault(refused.value)
    assert (place, problem) == ("", "budget_cost needs machine or usd_per_hour: what an hour costs")
    with pytest.raises(ValidationError) as refused:
        Small.model_validate({"epochs": 0})
    place, problem = first_fault(refused.value)
    assert (place, problem) == ("epochs", "input should be greater than or equal to 1")
