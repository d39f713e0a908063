import datetime as dt
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import mlflow
import pytest

from mlflow_phi3.azure.online import Endpoint
from mlflow_phi3.config.deploy import DeployConfig
from mlflow_phi3.deployment.deployer import Deployer
from mlflow_phi3.deployment.examination import Examination
from mlflow_phi3.deployment.managed_deployer import ManagedDeployer
from mlflow_phi3.deployment.names import Names
from mlflow_phi3.deployment.plan import plan_deployment
from mlflow_phi3.deployment.reap import ending, expiry, find_expired, find_gone, let_expire
from mlflow_phi3.deployment.rollout import get_current
from mlflow_phi3.deployment.serverless_deployer import ServerlessDeployer
from mlflow_phi3.errors import AzureError, PreflightError
from mlflow_phi3.tracking.tags import EXPIRES_TAG
from tests.unit.deployment.fakes import make_wanted


def test_only_what_has_expired_is_reaped():
    now = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    ends = {
        "gone": expiry(now, -1),
        "now": expiry(now, 0),
        "later": expiry(now, 1),
        "odd": "tomorrow",
        "naive": "2025-01-01T00:00:00",
    }
    endpoints = [Endpoint(n, tags={EXPIRES_TAG: end}) for n, end in ends.items()]
    endpoints.append(Endpoint("forever"))
    assert [e.name for e in find_expired(endpoints, now)] == ["gone", "now"]
    assert ending(Endpoint("chat", tags={"team": "x"}), "2027").tags == {
        "team": "x",
        EXPIRES_TAG: "2027",
    }


NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


@pytest.fixture
def reaper(two, monkeypatch):
    """What cleans up two endpoints whose time is over: chat runs two versions, other none."""

    class Serverless:
        def list_endpoints(self):
            return []

    over = {EXPIRES_TAG: expiry(NOW, -1)}
    two.endpoints["chat"] = replace(two.endpoints["chat"], tags=over)
    two.endpoints["other"] = Endpoint("other", "Succeeded", "u", {}, over)
    monkeypatch.setattr(ManagedDeployer, "service", lambda _self, _timeout_s: two)
    monkeypatch.setattr(ServerlessDeployer, "service", lambda _self, _timeout_s: Serverless())
    project = SimpleNamespace(target=SimpleNamespace(path="/project"))
    monkeypatch.setattr(Deployer, "_open", lambda _self: project)
    return Deployer("azure-foundry:/local", told=lambda _line: None)


def test_a_dry_run_names_what_is_over_and_leaves_it(two, reaper):
    assert reaper.reap(NOW, dry_run=True, timeout_s=1) == ["chat", "other"]
    assert set(two.endpoints) == {"chat", "other"}


@pytest.fixture(params=["http", "postgresql+psycopg2"])
def store_away(request, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr("mlflow.store.db.utils.MAX_RETRY_COUNT", 1)
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"{request.param}://127.0.0.1:9/phi")
    yield
    mlflow.set_tracking_uri(before)


@pytest.mark.usefixtures("store_away")
def test_all_that_has_expired_is_deleted_while_the_tracking_store_is_away(two, reaper):
    with pytest.raises(PreflightError, match=r"PHI3-P709 .*chat version 1, chat version 2"):
        reaper.reap(NOW, dry_run=False, timeout_s=1)

    assert two.endpoints == {}


def test_an_endpoint_that_cannot_be_deleted_keeps_no_other_alive(two, reaper, refused, monkeypatch):
    noted = []
    monkeypatch.setattr(
        reaper.registry, "note_deleted", lambda name, version, place: noted.append(version)
    )
    two.endpoints = dict(reversed(two.endpoints.items()))
    two.faults["delete_endpoint"] = [refused()]

    with pytest.raises(AzureError, match="PHI3-A701"):
        reaper.reap(NOW, dry_run=False, timeout_s=1)

    assert set(two.endpoints) == {"other"}
    assert noted == ["1", "2"]


def test_a_version_that_was_replaced_at_an_endpoint_goes_with_it(reaper, monkeypatch):
    noted = []
    monkeypatch.setattr(reaper.registry, "note_deleted", lambda *one: noted.append(one[1]))
    monkeypatch.setattr(reaper.registry, "find_deployed", lambda _place: [("chat", "0")])
    assert reaper.reap(NOW, dry_run=False, timeout_s=1) == ["chat", "other"]
    assert noted == ["1", "2", "0", "0"]


@pytest.mark.parametrize("gone", [False, True], ids=["put off", "gone"])
def test_an_end_that_is_put_off_while_reap_waits_is_heard(two, reaper, monkeypatch, gone):
    lines = []
    monkeypatch.setattr(reaper, "_told", lines.append)

    def await_idle(name):
        if name == "other" and gone:
            two.endpoints.pop(name)
        if name == "other":
            let_expire(name, two, 5)

    monkeypatch.setattr(two, "await_idle", await_idle)
    monkeypatch.setattr(reaper.registry, "note_deleted", lambda *_noted: None)
    assert reaper.reap(NOW, dry_run=False, timeout_s=1) == ["chat"]
    assert set(two.endpoints) == (set() if gone else {"other"})
    assert "endpoint other is left" in lines[-1]


@pytest.mark.parametrize("end", ["", expiry(NOW, -1), "9998-01-01T00:00:00+00:00"])
def test_a_life_is_put_off_before_a_rollout_and_never_shortened_by_one_that_fails(
    two, reaper, refused, end
):
    two.endpoints["chat"] = replace(two.endpoints["chat"], tags={EXPIRES_TAG: end} if end else {})
    two.faults["put_deployment"] = [refused()]
    current = get_current(two, "chat")
    plan = plan_deployment(current, make_wanted(deployment="blue", instance_count=2))

    def run():
        config = DeployConfig(ttl_hours=5)
        reaper.managed._run(plan, current, Names("chat"), two, config, examination=Examination())

    with pytest.raises(AzureError):
        run()
    after = two.endpoints["chat"].tags.get(EXPIRES_TAG, "")
    assert (after != end) == (end == expiry(NOW, -1))
    run()
    assert two.endpoints["chat"].tags[EXPIRES_TAG] not in {"", end}


def test_a_version_that_another_slot_runs_is_not_gone(two):
    blue, green = two.list_deployments("chat")
    assert [one.version for one in find_gone("chat", [blue, green], [green])] == ["1"]
    assert find_gone("chat", [blue, green], [replace(blue, name="green"), green]) == []
    assert find_gone("chat", [replace(blue, tags={"phi3.model": "chat"})]) == []


@pytest.mark.parametrize("good", [True, False], ids=["came through", "failed"])
def test_what_blue_green_has_replaced_is_noted(two, reaper, monkeypatch, good):
    noted = []

    def note(*noted_now):
        noted.append(noted_now)
        if not good:  # the first error is the one to show
            raise PreflightError("PHI3-P706", "the store is away")

    monkeypatch.setattr(reaper.registry, "note_deleted", note)
    bad = AzureError("PHI3-A701", "a bad day")
    two.faults["put_deployment"] = [None if good else bad]
    current = get_current(two, "chat")
    wanted = make_wanted(model="/m/3", verify=False)
    plan = plan_deployment(current, wanted)  # green, with version 2, makes room for it

    with nullcontext() if good else pytest.raises(AzureError):
        reaper.managed._run(
            plan, current, Names("chat"), two, DeployConfig(), examination=Examination()
        )

    assert noted == [("chat", "2", {"azure.target": "/project", "azure.endpoint": "chat"})]
