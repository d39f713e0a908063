"""An endpoint's traffic and end of life, changed by hand."""

from dataclasses import replace

import pytest

from mlflow_phi3.azure.online import Endpoint
from mlflow_phi3.deployment.endpoints import create_endpoint, update_endpoint
from mlflow_phi3.deployment.ledger import read_ledger
from mlflow_phi3.deployment.meanwhile import Overtaken
from mlflow_phi3.deployment.names import Names
from mlflow_phi3.deployment.promote import rollback
from mlflow_phi3.errors import GateError, UsageError
from mlflow_phi3.tracking.tags import EXPIRES_TAG
from tests.unit.deployment.fakes import make_deployment


class MemoryDeployer:
    """What a change of an endpoint needs of the deployer, and of that of managed ones."""

    def __init__(self, service, meanwhile=lambda: None):
        self._service = service
        self.managed = self
        self.meanwhile = meanwhile  # what another command does while a deployment is asked

    def service(self, _timeout_s):
        return self._service

    def check_free(self, _endpoint, _timeout_s):
        pass

    def examine(self, _endpoint, config, deployment):
        self.meanwhile()
        if config.verify and deployment.tags.get("answers") == "badly":
            raise GateError("PHI3-G071", "it is another model")

    def describe(self, names):
        return {"traffic": dict(self._service.get_endpoint(names.endpoint).traffic)}


@pytest.fixture
def update(service):
    service.endpoints["chat"] = Endpoint("chat", "Succeeded", "u", {"blue": 100}, {})
    service.deployments["chat"] = {
        name: make_deployment(name, f"/m/{name}", state="Succeeded") for name in ("blue", "green")
    }
    return lambda config: update_endpoint(MemoryDeployer(service), Names("chat"), config)


@pytest.mark.parametrize(
    ("config", "code"),
    [
        ({"ttl_hours": "abc"}, "PHI3-U005 ttl_hours"),
        ({"ttl_hours": -1}, "PHI3-U005 ttl_hours"),
        ({"ttl_hours": "inf"}, "PHI3-U754 ttl_hours"),
        ({"ttl_hours": 1e8}, "PHI3-U754 ttl_hours"),
        ({"traffic": {"blue": "x", "green": "y"}}, "PHI3-U744 traffic"),
        ({"traffic": {"blue": None}}, "PHI3-U744 traffic"),
        ({"traffic": "blue"}, "PHI3-U744 traffic"),
        ({"traffic": {}}, "PHI3-U746"),
        ({"traffic": "blue=50,green=40"}, "PHI3-U746 .* add up to 100, not 90"),
        ({"traffic": {"blue": -1, "green": 101}}, "PHI3-U746 .* below 0: blue=-1"),
        ({"traffic": "blue=50,blue=100"}, "PHI3-U744 traffic: .*: blue is named twice"),
        ({"traffic": {"blue": 99.9, "green": 1}}, "PHI3-U744 traffic: .*: 99.9 is no whole"),
        ({"traffic": "blue=99.9,green=1"}, "PHI3-U744 traffic: .*: '99.9' is no whole"),
        ({"traffic": {"blue": float("inf")}}, "PHI3-U744 traffic: .*: inf is no whole"),
        ({"traffic": "red=100"}, "PHI3-U745"),
        ({"trafic": "blue=100"}, "PHI3-U742"),
    ],
)
def test_values_that_cannot_be_are_refused_with_the_mend(update, service, config, code):
    with pytest.raises(UsageError, match=code):
        update(config)
    assert service.endpoints["chat"].traffic == {"blue": 100}


def test_what_failed_gets_no_traffic_by_hand(update, service):
    green = service.deployments["chat"]["green"]
    service.deployments["chat"]["green"] = replace(green, state="Failed")
    with pytest.raises(UsageError, match="PHI3-U745 endpoint chat: green does not run"):
        update({"traffic": "green=100"})
    assert service.endpoints["chat"].traffic == {"blue": 100}


def test_a_share_grows_by_hand_only_after_good_answers(update, service):
    green = service.deployments["chat"]["green"]
    service.deployments["chat"]["green"] = replace(green, tags={"answers": "badly"})
    with pytest.raises(GateError):
        update({"traffic": "blue=90,green=10"})
    assert service.endpoints["chat"].traffic == {"blue": 100}
    assert service.calls == []
    update({"traffic": "blue=90,green=10", "verify": "false"})
    update({"traffic": "blue=90,green=10"})  # whose share is as it was is asked nothing
    update({"traffic": "blue=100"})  # who loses traffic is asked nothing
    assert service.endpoints["chat"].traffic == {"blue": 100}


def test_what_another_command_does_while_a_deployment_is_asked_is_heard(update, service):
    def extended():
        found = service.endpoints["chat"]
        service.endpoints["chat"] = replace(found, tags={EXPIRES_TAG: "2027"})

    def replaced():
        green = service.deployments["chat"]["green"]
        service.deployments["chat"]["green"] = replace(green, model="/m/3")

    traffic = {"traffic": "blue=90,green=10"}
    with pytest.raises(Overtaken, match=r"chat/green: it was given .*3 meanwhile"):
        update_endpoint(MemoryDeployer(service, replaced), Names("chat"), traffic)
    assert service.endpoints["chat"].traffic == {"blue": 100}
    update_endpoint(MemoryDeployer(service, extended), Names("chat"), traffic)
    assert service.endpoints["chat"].tags[EXPIRES_TAG] == "2027"


def test_traffic_by_hand_is_in_the_ledger_and_can_be_rolled_back(update, service, registry):
    assert update({"traffic": {"blue": "60", "green": 40.0}, "ttl_hours": ""}) == {
        "traffic": {"blue": 60, "green": 40}
    }
    (entry,) = read_ledger(service.endpoints["chat"].tags)
    assert set(entry.held) == {"blue"}
    update({"traffic": "blue=60,green=40", "ttl_hours": 1})  # as it is: nothing to take back
    assert read_ledger(service.endpoints["chat"].tags) == [entry]
    assert (
        rollback(service, registry, "chat", target="azure-foundry", told=print).after == "blue=100"
    )


@pytest.mark.parametrize(
    "config", [{"ttl_hour": 1}, {"traffic": "blue=100"}, {"instance_count": 2}, {"ttl_hours": -1}]
)
def test_a_new_endpoint_takes_what_it_can_have_and_nothing_else(service, config):
    with pytest.raises(UsageError, match=r"PHI3-U(742|005)"):
        create_endpoint(MemoryDeployer(service), Names("chat"), config, told=print)
    assert service.calls == []


def test_an_endpoint_whose_creation_failed_is_created_again(service):
    service.endpoints["chat"] = Endpoint("chat", "Failed")
    create_endpoint(MemoryDeployer(service), Names("chat"), {}, told=print)
    assert service.endpoints["chat"].is_made


def test_a_share_of_nothing_is_no_move(update, service):
    update({"traffic": "blue=100,green=0"})
    assert service.calls == []


def test_a_new_endpoint_may_read_connections_and_have_an_end(service):
    config = {"ttl_hours": "2", "content_safety_connection": "safety"}
    create_endpoint(MemoryDeployer(service), Names("chat"), config, told=print)
    made = service.endpoints["chat"]
    assert (made.reads_secrets, set(made.tags)) == (True, {EXPIRES_TAG})
