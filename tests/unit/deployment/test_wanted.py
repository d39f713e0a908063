"""What a caller's words mean for what is there, and what is refused."""

from dataclasses import replace

import pytest

from mlflow_phi3.azure.assets import ModelAsset
from mlflow_phi3.azure.target import Target
from mlflow_phi3.config.deploy import DeployConfig
from mlflow_phi3.deployment.names import Names
from mlflow_phi3.deployment.rollout import get_current
from mlflow_phi3.deployment.wanted import check_managed, to_changed, to_wanted
from mlflow_phi3.errors import GateError, UsageError
from mlflow_phi3.tracking.model_files import OpenedModel
from tests.unit.deployment.fakes import make_wanted


@pytest.fixture
def canary(two):
    """Version 1 is blue, and green, version 2, gets a tenth of the traffic."""
    two.endpoints["chat"] = replace(two.endpoints["chat"], traffic={"blue": 90, "green": 10})
    return two


@pytest.mark.parametrize(
    ("names", "left"),
    [(Names("chat"), {"blue"}), (Names("chat", "blue"), {"blue", "green"})],
    ids=["service", "by hand"],
)
def test_what_is_kept_idle_goes_without_a_new_version_too(deployer, two, names, left):
    deployer.deploy(names, "", DeployConfig(keep_previous=False), new=False)
    assert set(two.deployments["chat"]) == left
    assert two.endpoints["chat"].traffic == {"blue": 100}


def test_a_canary_is_not_idle(deployer, canary):
    deployer.deploy(Names("chat"), "", DeployConfig(keep_previous=False), new=False)
    assert set(canary.deployments["chat"]) == {"blue", "green"}


def test_a_share_given_by_hand_waits_for_good_answers_and_one_taken_does_not(
    deployer, two, monkeypatch, store_uri
):
    def fails(names, _examination, _told):
        raise GateError("PHI3-G701", "no text", where=names.deployment)

    monkeypatch.setenv("MLFLOW_TRACKING_URI", store_uri)
    deployer.callers.examine = fails
    green = Names("chat", "green")
    for config in (DeployConfig(traffic=100), DeployConfig(traffic=1)):
        with pytest.raises(GateError, match=r"PHI3-G701 green.*chat/green stays, and is billed"):
            deployer.deploy(green, "", config, new=False)
        assert two.endpoints["chat"].traffic == {"blue": 100}
    deployer.deploy(green, "", DeployConfig(traffic=60, verify=False), new=False)
    deployer.deploy(green, "", DeployConfig(traffic=40), new=False)
    assert two.endpoints["chat"].traffic == {"blue": 60, "green": 40}


def test_a_share_of_one_of_several_is_refused_unless_it_is_named(canary):
    current, config = get_current(canary, "chat"), DeployConfig(traffic=20)
    with pytest.raises(
        UsageError, match=r"PHI3-U719 traffic=20: .*blue=90,green=10.*--endpoint chat --name;"
    ):
        to_changed(Names("chat"), config, current)
    assert to_changed(Names("chat", "green"), config, current).traffic == 20
    assert to_changed(Names("chat"), DeployConfig(instance_count=2), current).deployment == "blue"


def test_create_does_not_take_the_traffic_of_a_canary(canary):
    current = get_current(canary, "chat")
    for model in ("/m/1", "/m/2"):
        with pytest.raises(UsageError, match="PHI3-U738 deployment chat: it exists and serves"):
            check_managed(current, make_wanted(model=model), new=True)
        check_managed(current, make_wanted(model=model), new=False)


@pytest.mark.parametrize(
    ("size_bytes", "machine"),
    [(2 * 10**9 - 1, "Standard_DS3_v2"), (2 * 10**9, "Standard_NC24ads_A100_v4")],
)
def test_only_a_large_model_gets_a_gpu_unasked(tmp_path, size_bytes, machine):
    with (tmp_path / "weights").open("wb") as file:
        file.truncate(size_bytes)
    model = OpenedModel("models:/chat/1", tmp_path, "chat", "1", "", {}, {}, None)
    asset, target = ModelAsset("chat", "1", ""), Target("s", "g", "p")
    wanted = to_wanted(Names("chat"), DeployConfig(), target, model, asset)
    assert wanted.default_instance_type == machine


def test_update_makes_no_deployment_of_a_mistyped_name(two):
    current = get_current(two, "chat")
    said = "PHI3-U736 deployment gren: there is nothing to update; there is blue, green"
    with pytest.raises(UsageError, match=said):
        check_managed(current, make_wanted(deployment="gren", model="/m/2"), new=False)
    with pytest.raises(UsageError, match=said):
        to_changed(Names("chat", "gren"), DeployConfig(), current)
    check_managed(current, make_wanted(deployment="gren", model="/m/2"), new=True)
    check_managed(current, make_wanted(deployment="green", model="/m/3"), new=False)
    nothing = get_current(two, "shop")
    with pytest.raises(UsageError, match="PHI3-U736 deployment shop: there is nothing to update"):
        check_managed(nothing, make_wanted(endpoint="shop", model="/m/2"), new=False)
