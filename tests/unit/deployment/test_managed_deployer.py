"""Managed deployment as a whole, on a service in memory."""

from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import pytest

from mlflow_phi3.config.deploy import DeployConfig
from mlflow_phi3.deployment.managed_deployer import ManagedDeployer
from mlflow_phi3.deployment.names import Names
from mlflow_phi3.tracking.model_files import OpenedModel


@pytest.fixture
def tagged(monkeypatch, deployer, tmp_path):
    """What the registry is told of version 3 of chat, which can be deployed."""
    mlmodel = {"flavors": {"python_function": {}}}
    model = OpenedModel("models:/chat/3", tmp_path, "chat", "3", "", {}, mlmodel, None)
    opened = "mlflow_phi3.deployment.managed_deployer.opened_model"
    monkeypatch.setattr(opened, lambda _uri: nullcontext(model))
    monkeypatch.setattr(ManagedDeployer, "_upload", lambda *_sent: None)
    found = []
    deployer.registry.tag = lambda _model, tags: found.append(tags["azure.deployment"])
    return found


def deploy(deployer, *, wait=True):
    config = DeployConfig(verify=False, synchronous=wait)
    return deployer.managed.deploy(Names("chat"), "models:/chat/3", config, new=False)


def test_a_version_is_not_tagged_as_deployed_before_it_is(deployer, tagged):
    assert deploy(deployer, wait=False)["left"] == ["traffic of chat to green 100 %"]
    assert tagged == []
    assert not deploy(deployer, wait=False)["left"]
    assert tagged == ["green"]


def test_a_version_is_not_noted_as_deleted_before_another_has_its_place(deployer, tagged, two):
    noted = []
    deployer.registry.note_deleted = lambda name, version, _place: noted.append((name, version))
    deployer.registry.find_deployed = lambda _place: [("chat", "1"), ("chat", "2")]
    for wait, gone in ((False, []), (True, [("chat", "2")])):
        config = DeployConfig(verify=False, synchronous=wait)
        deployer.managed.deploy(Names("chat", "green"), "models:/chat/3", config, new=False)
        assert (noted, bool(tagged)) == (gone, wait)


def test_a_replaced_version_is_noted_as_deleted_with_its_endpoint(deployer, tagged, two):
    """Also where the one in its place never came to run."""
    noted = {("chat", "1"): "deployed", ("chat", "2"): "deployed"}
    deployer.registry.note_deleted = lambda *one: noted.update({one[:2]: "deleted"})
    deployer.registry.find_deployed = lambda _place: [k for k, v in noted.items() if v != "deleted"]
    config = DeployConfig(verify=False, synchronous=False)
    deployer.managed.deploy(Names("chat", "green"), "models:/chat/3", config, new=False)
    deployer.remove(Names("chat"), DeployConfig(dry_run=True))
    assert noted["chat", "1"] == noted["chat", "2"] == "deployed"
    deployer.remove(Names("chat"), DeployConfig())
    assert noted["chat", "1"] == noted["chat", "2"] == "deleted"


def test_what_changed_while_the_model_was_sent_is_reckoned_with(deployer, tagged, two, monkeypatch):
    def another_promotes(*_sent):
        two.endpoints["chat"] = replace(two.endpoints["chat"], traffic={"green": 100})

    monkeypatch.setattr(ManagedDeployer, "_upload", another_promotes)
    assert deploy(deployer)["traffic"] == {"blue": 100}
    assert two.deployments["chat"]["green"].model == "/m/2"
    assert tagged == ["blue"]


def test_who_asked_a_deleted_endpoint_is_forgotten(deployer, two):
    deployer.callers._clients["chat"] = client = SimpleNamespace()
    noted = []
    deployer.registry.note_deleted = lambda name, version, _place: noted.append((name, version))
    deployer.remove(Names("chat", "green"), DeployConfig())
    assert noted == [("chat", "2")]  # blue still runs version 1
    assert deployer.callers.find("chat") is client
    deployer.remove(Names("chat"), DeployConfig())
    assert deployer.callers._clients == {}
    assert two.endpoints == {}
