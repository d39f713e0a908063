"""The deployer of serverless endpoints: what the registry is told, dry runs, and the other kind."""

import datetime as dt
from dataclasses import replace
from types import SimpleNamespace

import pytest

from mlflow_phi3.azure.online import Endpoint
from mlflow_phi3.azure.serverless import ServerlessEndpoint
from mlflow_phi3.config.deploy import DeployConfig
from mlflow_phi3.deployment.deployer import Deployer
from mlflow_phi3.deployment.endpoints import create_endpoint
from mlflow_phi3.deployment.managed_deployer import ManagedDeployer
from mlflow_phi3.deployment.names import Names
from mlflow_phi3.deployment.serverless_deployer import ServerlessDeployer
from mlflow_phi3.errors import UsageError
from mlflow_phi3.modeling.catalog import find
from mlflow_phi3.tracking.tags import TUNED_TAG
from mlflow_phi3.tracking.versions import Version
from tests.unit.deployment.fakes import MemoryServerless, make_deployment

NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
OLD, NEW = (ServerlessEndpoint("chat", f"azureml://m/{version}") for version in (1, 2))


class MemoryNotes:
    """What a registry is told; fulfils what the deployer needs of it here."""

    def __init__(self):
        self.tagged, self.deleted = [], []
        self.deployed = [("phi-ft", "1")]

    def tag_version(self, name, version, tags):
        self.tagged.append((name, version, tags))
        self.deployed.append((name, version))

    def note_deleted(self, name, version, place):
        self.deleted.append((name, version, place))
        self.deployed.remove((name, version))

    def find_deployed(self, place):
        assert place == {"azure.target": "/project", "azure.endpoint": "chat"}
        return list(self.deployed)


@pytest.fixture
def deployer(monkeypatch, service):
    """One that finds a serverless endpoint of version 1 of phi-ft, and no managed ones."""
    tags = {"phi3.model": "phi-ft", "phi3.version": "1"}
    billed = MemoryServerless(replace(OLD, tags=tags))
    monkeypatch.setattr(ManagedDeployer, "service", lambda _self, _timeout_s: service)
    monkeypatch.setattr(ServerlessDeployer, "service", lambda _self, _timeout_s: billed)
    workspace = SimpleNamespace(target=SimpleNamespace(path="/project"), location="eastus2")
    monkeypatch.setattr(Deployer, "_open", lambda _self: workspace)
    monkeypatch.setattr(
        "mlflow_phi3.deployment.deployer.find_version",
        lambda _uri: Version("phi-ft", "2", {TUNED_TAG: NEW.model_id}),
    )
    lines = []
    made = Deployer("azure-foundry:/local", told=lines.append)
    made.lines = lines
    made.registry = made.managed.registry = made.serverless.registry = MemoryNotes()
    return made


def test_the_version_of_a_serverless_endpoint_is_known_and_noted_when_it_goes(deployer):
    config = DeployConfig(verify=False)
    place = {"azure.target": "/project", "azure.endpoint": "chat"}

    deployer.deploy(Names("chat"), "models:/phi-ft/2", config, new=False)

    assert deployer.serverless.service(1).known.tags == {
        "phi3.model": "phi-ft",
        "phi3.version": "2",
    }
    assert deployer.registry.deleted == [("phi-ft", "1", place)]
    assert deployer.registry.tagged[0][:2] == ("phi-ft", "2")

    deployer.deploy(Names("chat"), "", config.model_copy(update={"ttl_hours": 1.0}), new=False)
    deployer.remove(Names("chat", "green"), config)  # there is none such, and so none to delete
    assert deployer.serverless.service(1).known is not None
    deployer.callers._clients["chat"] = SimpleNamespace()
    deployer.remove(Names("chat"), config)

    assert deployer.callers._clients == {}  # one of the same name will have another key
    assert deployer.registry.deleted == [("phi-ft", "1", place), ("phi-ft", "2", place)]
    assert deployer.serverless.service(1).known is None


def test_a_version_is_neither_deployed_nor_deleted_in_its_tags_before_it_is(deployer):
    config = DeployConfig(verify=False, synchronous=False)
    assert deployer.deploy(Names("chat"), "models:/phi-ft/2", config, new=False)["left"]
    assert (deployer.registry.tagged, deployer.registry.deleted) == ([], [])

    billed = deployer.serverless.service(1)
    billed.known = replace(billed.known, state="Succeeded")
    deployer.deploy(Names("chat"), "models:/phi-ft/2", DeployConfig(verify=False), new=False)
    assert deployer.registry.tagged[0][:2] == ("phi-ft", "2")
    assert [noted[:2] for noted in deployer.registry.deleted] == [("phi-ft", "1")]


@pytest.mark.parametrize("later", [False, True], ids=["over", "put off"])
def test_an_end_that_is_put_off_while_reap_waits_is_heard(deployer, later):
    billed = deployer.serverless.service(1)
    over, renewed = ({"azure.expires_at": f"{year}-01-01T00:00:00+00:00"} for year in (2025, 2027))
    billed.known = replace(billed.known, tags=over)

    def await_idle(_name):
        billed.known = replace(billed.known, tags=renewed if later else over)
        return billed.known

    billed.await_idle = await_idle
    assert deployer.reap(NOW, dry_run=False, timeout_s=1) == ([] if later else ["chat"])
    assert (billed.known is not None) == later


QUICK = DeployConfig(verify=False)
DRY = DeployConfig(dry_run=True)


def deploy_tuned(deployer, config=QUICK, *, new):
    return deployer.deploy(Names("chat"), "models:/phi-ft/2", config, new=new)


def test_a_dry_run_tells_the_action_and_what_it_costs(deployer, monkeypatch):
    billed = deployer.serverless.service(1)
    told = {TUNED_TAG: NEW.model_id, "phi3.base_model": "Phi-4-mini-instruct"}
    monkeypatch.setattr(
        "mlflow_phi3.deployment.deployer.find_version", lambda _uri: Version("phi-ft", "2", told)
    )
    priced = DRY.model_copy(update={"usd_per_hour": 0.74})
    deploy_tuned(deployer, priced, new=False)
    lines = deployer.lines[0].split("\n")
    assert lines[:3] == [
        "plan:",
        "  1. update serverless endpoint chat",
        "  cost: 0.74 USD an hour, also when idle (as given)",
    ]
    price = find("Phi-4-mini-instruct").price
    tokens = (
        f"  cost: tokens on top, at {price.input:g}/{price.output:g} USD per 1M in/out (2026-02, "
    )
    assert lines[3].startswith(tokens)
    assert lines[4:6] == ["PUT /project/serverlessEndpoints/chat", "{"]

    billed.known = None
    told.pop("phi3.base_model")
    deploy_tuned(deployer, DRY, new=True)
    assert deployer.lines[1].split("\n")[1:4] == [
        "  1. create serverless endpoint chat",
        "  cost: by the hour, also when idle; -C usd_per_hour= computes it",
        "  cost: tokens on top; no price of them is known",
    ]
    assert billed.puts == 0

    deploy_tuned(deployer, new=True)
    deployer.lines.clear()
    deploy_tuned(deployer, DRY, new=True)
    assert deployer.lines == ["nothing to do: it is as wanted"]


def make_managed(service):
    """An endpoint of machines of the same name, with two deployments."""
    service.endpoints["chat"] = Endpoint("chat", "Succeeded", "u", {"blue": 90, "green": 10}, {})
    service.deployments["chat"] = {
        name: make_deployment(name, f"/m/{name}", state="Succeeded") for name in ("blue", "green")
    }


@pytest.mark.parametrize("config", [QUICK, DRY], ids=["done", "dry-run"])
def test_create_does_not_replace_another_model(deployer, config):
    before = deployer.serverless.service(1).known
    with pytest.raises(UsageError, match=r"PHI3-U738 serverless endpoint chat: .*update"):
        deploy_tuned(deployer, config, new=True)
    assert deployer.serverless.service(1).known == before
    assert deployer.registry.tagged == []


def test_create_takes_up_what_is_there(deployer):
    billed = deployer.serverless.service(1)
    billed.known = replace(billed.known, model_id=NEW.model_id.upper())
    assert deploy_tuned(deployer, new=True)["endpoint"] == "chat"


@pytest.mark.parametrize("config", [QUICK, DRY], ids=["done", "dry-run"])
def test_update_does_not_create(deployer, config):
    deployer.serverless.service(1).known = None
    with pytest.raises(UsageError, match="PHI3-U736 serverless endpoint chat: there is nothing"):
        deploy_tuned(deployer, config, new=False)
    assert deployer.serverless.service(1).known is None
    assert deploy_tuned(deployer, new=True)["endpoint"] == "chat"


@pytest.mark.parametrize("new", [True, False], ids=["create", "update"])
def test_a_name_of_a_managed_endpoint_is_not_given_to_a_serverless_one(deployer, service, new):
    make_managed(service)
    deployer.serverless.service(1).known = None
    with pytest.raises(UsageError, match="PHI3-U753 endpoint chat: there is a managed endpoint"):
        deploy_tuned(deployer, new=new)
    assert deployer.serverless.service(1).puts == 0


def test_a_name_of_a_serverless_endpoint_is_not_given_to_a_managed_one(deployer, service):
    with pytest.raises(UsageError, match="PHI3-U753 endpoint chat: there is a serverless endpoint"):
        create_endpoint(deployer, Names("chat"), {}, told=print)
    assert service.calls == []


@pytest.mark.parametrize(
    ("names", "managed", "line"),
    [
        (Names("chat"), True, "would delete endpoint chat with its deployments blue, green"),
        (
            Names("chat", "green"),
            True,
            "would delete deployment chat/green (before: traffic of chat to blue 100 %)",
        ),
        (Names("chat"), False, "would delete serverless endpoint chat"),
    ],
    ids=["managed", "deployment", "serverless"],
)
def test_a_dry_run_tells_what_would_go(deployer, service, names, managed, line):
    if managed:
        make_managed(service)
    before = deployer.serverless.service(1).known
    deployer.remove(names, DRY)
    assert deployer.lines == [f"{line}; nothing was deleted (dry run)"]
    assert (service.calls, deployer.serverless.service(1).known) == ([], before)
    assert deployer.registry.deleted == []


@pytest.mark.parametrize(
    ("names", "managed", "what"),
    [
        (Names("chat"), False, "endpoint chat"),
        (Names("chat", "red"), True, "deployment chat/red"),
        (Names("chat", "red"), False, "deployment chat/red"),
    ],
)
def test_a_dry_run_tells_that_nothing_is_there(deployer, service, names, managed, what):
    if managed:
        make_managed(service)
    deployer.serverless.service(1).known = None
    deployer.remove(names, DRY)
    assert deployer.lines == [f"nothing to delete: there is no {what} (dry run)"]
