from typing import Literal

import pytest
from pydantic import Field

from mlflow_phi3.config.base import Config
from mlflow_phi3.config.parse import narrow, parse_arguments
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
