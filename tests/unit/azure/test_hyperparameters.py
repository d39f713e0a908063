import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_phi3.azure.hyperparameters import (
    TABLE,
    check_expressible,
    from_azure,
    to_azure,
)
from mlflow_phi3.config.foundry import FoundryConfig
from mlflow_phi3.config.hyperparameters import Hyperparameters
from mlflow_phi3.config.words import TrainWord
from mlflow_phi3.errors import UsageError


@given(
    epochs=st.integers(1, 10),
    rate=st.floats(1e-9, 0.999, allow_nan=False),
    batch=st.integers(1, 32),
)
def test_there_and_back(epochs, rate, batch):
    sent = to_azure(epochs=epochs, learning_rate=rate, batch_size=batch)

    back = from_azure(sent)

    assert all(isinstance(value, str) for value in sent.values())
    assert "e" not in sent["learning_rate"]
    assert (back["epochs"], back["learning_rate"]) == (epochs, rate)
    assert back["per_device_batch_size"] * back["batch_size_multiplier"] == batch


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "num_train_epochs": st.integers(1, 10).map(str),
            "learning_rate": st.sampled_from(["0.00002", "0.0001", "0.5"]),
            "per_device_train_batch_size": st.integers(1, 32).map(str),
        },
    )
)
def test_back_and_there(sent):
    ours = from_azure(sent)

    known = {row.azure for row in TABLE if row.ours in ours}
    assert known == set(sent)
    if len(sent) == 3:
        batch = int(ours["per_device_batch_size"] * ours["batch_size_multiplier"])
        again = to_azure(
            epochs=int(ours["epochs"]), learning_rate=ours["learning_rate"], batch_size=batch
        )
        assert again == sent


def test_the_table_covers_every_hyperparameter_once():
    names = [row.ours for row in TABLE]

    assert len(names) == len(set(names))
    assert set(Hyperparameters.model_fields) <= set(names)
    assert set(names) <= set(TrainWord.model_fields)


@pytest.mark.parametrize(
    ("values", "where"),
    [
        ({"epochs": 11, "batch_size": 8}, "epochs"),
        ({"epochs": 1, "batch_size": 64}, "batch_size_multiplier"),
    ],
)
def test_what_foundry_does_not_take_is_refused(values, where):
    with pytest.raises(UsageError) as refused:
        to_azure(learning_rate=1e-4, **values)
    assert refused.value.where == where


def test_only_what_was_given_and_cannot_be_told_is_refused():
    check_expressible({"epochs", "learning_rate", "train_data", *FoundryConfig.model_fields})
    with pytest.raises(UsageError, match=r"PHI3-U772 lora_r, scheduler"):
        check_expressible({"epochs", "scheduler", "lora_r"})


def test_what_the_portal_sent_is_told_as_it_is():
    sent = {"num_train_epochs": "1.0", "learning_rate_multiplier": "2", "learning_rate": "0.1"}
    assert from_azure(sent) == {**sent, "learning_rate": 0.1}
