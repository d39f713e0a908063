from types import SimpleNamespace

import pytest

from mlflow_phi3.azure.online import Endpoint
from mlflow_phi3.deployment.deployer import Deployer
from mlflow_phi3.deployment.managed_deployer import ManagedDeployer
from tests.unit.deployment import fakes


@pytest.fixture
def service():
    return fakes.MemoryService()


@pytest.fixture
def refused():
    return fakes.refused


class MemoryRegistry:
    """Fulfils :class:`mlflow_phi3.deployment.promote.Registry`."""

    def __init__(self):
        self.champion, self.previous, self.fault = "", "", None

    def get_champion(self, name):
        return self.champion

    def set_champion(self, name, version, previous):
        if self.fault:
            raise self.fault
        self.champion, self.previous = version, previous


@pytest.fixture
def registry():
    return MemoryRegistry()


@pytest.fixture
def two(service, registry):
    registry.champion = "1"
    service.endpoints["chat"] = Endpoint("chat", "Succeeded", "u", {"blue": 100}, {"team": "x"})
    service.deployments["chat"] = {
        name: fakes.make_deployment(
            name,
            f"/m/{version}",
            tags={"phi3.model": "chat", "phi3.version": version},
            state="Succeeded",
        )
        for name, version in (("blue", "1"), ("green", "2"))
    }
    return service


@pytest.fixture
def deployer(two, monkeypatch):
    monkeypatch.setattr(ManagedDeployer, "service", lambda _self, _timeout_s: two)
    workspace = SimpleNamespace(target=SimpleNamespace(path="/project"))
    monkeypatch.setattr(Deployer, "_open", lambda _self: workspace)
    made = Deployer("azure-foundry:/local", told=lambda _line: None)
    made.registry.note_deleted = lambda *_noted: None
    made.registry.find_deployed = lambda _place: []
    return made
