from dataclasses import replace
from typing import Literal

import pytest
from pydantic import ValidationError

from mlflow_phi3.config.base import Config
from mlflow_phi3.config.deploy import DeployConfig
from mlflow_phi3.config.parse import parse_values
from mlflow_phi3.config.serve import ServeConfig
from mlflow_phi3.deployment import help as deployment_help
from mlflow_phi3.deployment.help import help_text
from mlflow_phi3.deployment.names import Names, names_of
from mlflow_phi3.deployment.safety import (
    OFF_TAG,
    check_asks,
    missing_safety,
    safety_tags,
    safety_variables,
)
from mlflow_phi3.deployment.serverless import find_mode
from mlflow_phi3.deployment.wanted import golden_queries, variables_of
from mlflow_phi3.errors import UsageError
from mlflow_phi3.tracking.tags import TUNED_TAG
from tests.unit.deployment.fakes import make_deployment

CHAT = {"flavors": {"python_function": {"config": {"default_max_tokens": 512}}}}


def test_text_becomes_typed_values():
    values = {"instance_count": "3", "dry_run": "true", "ttl_hours": "1.5", "traffic": ""}
    config = parse_values(DeployConfig, values)
    assert (config.instance_count, config.dry_run, config.ttl_hours, config.traffic) == (
        3,
        True,
        1.5,
        None,
    )


@pytest.mark.parametrize(
    "values",
    [
        {"instance_count": "0"},
        {"traffic": "101"},
        {"timeout_s": "0"},
        {"request_timeout_s": "181"},
        {"mode": "kubernetes"},
        {"content_safety": "false"},
        {"instance_typ": "x"},
    ],
)
def test_values_that_cannot_be_are_refused(values):
    with pytest.raises(UsageError, match="PHI3-U00"):
        parse_values(DeployConfig, values)


def test_content_safety_goes_off_only_with_a_reason():
    with pytest.raises(ValidationError):
        DeployConfig(content_safety=False, content_safety_reason="  ")
    assert not DeployConfig(content_safety=False, content_safety_reason="red team").content_safety


def test_a_deployment_without_a_filter_says_why_for_as_long_as_it_has_none():
    off = DeployConfig(content_safety=False, content_safety_reason="red team")
    assert safety_tags(off) == {OFF_TAG: "red team"}
    assert safety_variables(off) == {}
    assert (safety_tags(DeployConfig()), safety_variables(DeployConfig())) == ({}, None)
    for on in ({"content_safety": True}, {"content_safety_connection": "safety"}):
        assert safety_tags(DeployConfig(**on)) == {OFF_TAG: ""}
    bare = make_deployment("blue", "/m/1")
    assert "content_safety_connection=" in missing_safety(bare, CHAT)
    assert missing_safety(replace(bare, tags={OFF_TAG: "red team"}), CHAT) == ""
    connected = replace(bare, variables={"CONTENT_SAFETY_ENDPOINT": "e"})
    assert missing_safety(connected, CHAT) == ""


@pytest.mark.parametrize("config", [{}, {"device": "auto"}, None])  # foreign, or a classifier
def test_a_model_that_would_not_ask_content_safety_gets_no_connection(config):
    mlmodel = {"flavors": {"python_function": {"config": config}}}
    wanted = DeployConfig(content_safety_connection="safety")
    with pytest.raises(UsageError, match=r"PHI3-U720 models:/m/1: .*asks nobody"):
        check_asks(mlmodel, wanted, where="models:/m/1")
    check_asks(mlmodel, DeployConfig(), where="models:/m/1")
    check_asks(CHAT, wanted, where="models:/m/1")
    kept = make_deployment("blue", "m", variables={"CONTENT_SAFETY_ENDPOINT": "e"})
    assert "asks nobody" in missing_safety(kept, mlmodel)


def test_every_key_is_described():
    text = help_text()
    assert max(map(len, text.splitlines())) <= 100
    assert "dry_run (default false)" in text
    for name, field in (DeployConfig.model_fields | ServeConfig.model_fields).items():
        assert f"\n  {name}" in text
        assert field.description


def test_the_words_that_a_key_may_be_are_named(monkeypatch):
    class Small(Config):
        mode: Literal["fast", "slow"] = "fast"
        """How `fast` it is."""

    monkeypatch.setattr(deployment_help, "DeployConfig", Small)
    assert "  mode (default fast)\n      How `fast` it is. One of `fast`, `slow`.\n" in help_text()


def test_names():
    assert names_of("chat", None) == Names("chat")
    assert names_of("blue", "chat") == Names("chat", "blue")
    assert names_of(None, "chat") == Names("chat")
    for wrong in ((None, None), ("", ""), ("x", None), ("blue", "9")):
        with pytest.raises(UsageError):
            names_of(*wrong)


def test_variables():
    config = DeployConfig(environment_variables="A=1,B=x=y")
    assert variables_of(config) == {"A": "1", "B": "x=y"}
    assert variables_of(DeployConfig()) is None
    with pytest.raises(UsageError, match="PHI3-U739"):
        variables_of(DeployConfig(environment_variables="A"))


def test_without_a_golden_file_the_input_example_is_asked():
    example = {"messages": []}
    assert golden_queries(DeployConfig(), example)[0].inputs == example
    assert golden_queries(DeployConfig(), [example, example])[0].inputs == example
    assert golden_queries(DeployConfig(), None) == ()


def test_the_mode_follows_where_the_version_came_from():
    tuned = {TUNED_TAG: "azureml://x"}
    assert find_mode(tuned, DeployConfig(), "m") == "serverless"
    assert find_mode({}, DeployConfig(), "m") == "managed"
    assert find_mode(tuned, DeployConfig(mode="managed"), "m") == "managed"
    with pytest.raises(UsageError, match="PHI3-U747"):
        find_mode({}, DeployConfig(mode="serverless"), "m")


def test_a_refused_value_says_where_the_keys_stand():
    with pytest.raises(UsageError, match="see mlflow deployments help -t azure-foundry"):
        parse_values(DeployConfig, {"instance_count": "many"})
