"""Bad days: every remote call of a deployment, times every fault."""

import datetime as dt
import shutil
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from mlflow.exceptions import MlflowException

from mlflow_phi3.emulator.router import WORKSPACE
from mlflow_phi3.emulator.settings import GROUP, SUBSCRIPTION
from mlflow_phi3.emulator.settings import WORKSPACE as PROJECT

CALLS = [
    ("POST", "oauth2/v2.0/token"),
    ("GET", "/workspaces/phi3$"),
    ("GET", "/onlineEndpoints/[^/]+$"),
    ("GET", "/onlineEndpoints/[^/]+/deployments$"),
    ("GET", "/models/[^/]+/versions"),
    ("GET", "/datastores/"),
    ("POST", "/listSecrets"),
    ("PUT", "/models/[^/]+/versions/"),
    ("PUT", "/onlineEndpoints/[^/]+$"),
    ("PUT", "/deployments/"),
    ("GET", "mfeOperationsStatus"),
    ("POST", "/listKeys"),
    ("POST", "/score"),
]
# The storage client waits seconds before it asks again: these are for the slow run.
UPLOADS = [("GET", "/devstoreaccount1/"), ("PUT", "/devstoreaccount1/")]
DELETIONS = [("DELETE", "/onlineEndpoints/"), ("GET", "mfeOperationResults")]


def inject(emulator, calls, kind, **values):
    for method, path in calls:
        emulator.fault(kind, path, method=method, **values)


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("status", {"status": 429}),
        ("status", {"status": 500}),
        ("drop", {}),
        pytest.param("drop_after", {}, marks=pytest.mark.slow),
        pytest.param("slow", {"seconds": 0.5}, marks=pytest.mark.slow),
    ],
    ids=["429", "500", "drop", "drop-after", "slow"],
)
@pytest.mark.parametrize("calls", [CALLS, pytest.param(UPLOADS, marks=pytest.mark.slow)])
def test_each_call_meets_the_fault_once(emulator, models, ask, calls, kind, values, tmp_path):
    from mlflow_phi3.plugins.deployments import AzureFoundryClient

    model = tmp_path / "model"  # content that was never sent, or the upload would be skipped
    shutil.copytree(models["one"], model)
    (model / "salt.txt").write_text(f"{kind} {values} {calls}")
    inject(emulator, calls, kind, **values)
    for _ in range(len(calls) + 1):
        try:
            # A new client each time, as a new command has.
            client = AzureFoundryClient("azure-foundry:/local")
            client.create_deployment("faulty", str(model))
        except MlflowException as error:
            assert "PHI3-A7" in str(error), error  # noqa: PT017 - any number of them may come
        else:
            break
    assert client.predict("faulty", ask)["choices"][0]["message"]["content"] == "one: hello"
    assert client.get_deployment("faulty")["traffic"] == {"blue": 100}
    inject(emulator, DELETIONS, kind, **values)
    for _ in DELETIONS * 2:
        try:
            client.delete_deployment("faulty")
        except MlflowException as error:
            assert "PHI3-A7" in str(error), error  # noqa: PT017 - as above
        else:
            break
    assert client.list_endpoints() == []
    waiting = {fault["path"] for fault in emulator.waiting_faults()} - {"/score"}
    if kind == "drop_after":  # a deletion whose answer was lost is over when it is asked for again
        waiting -= {"mfeOperationResults"}
    assert waiting == set()


def test_an_operation_that_fails_leaves_nothing_and_another_run_completes(client, emulator, models):
    for path in ("/onlineEndpoints/failing$", "/onlineEndpoints/failing/dep"):
        emulator.fault("fail_operation", path)
        with pytest.raises(MlflowException, match=r"PHI3-A701 .*unexpected internal failure"):
            client.create_deployment("failing", models["one"])
        assert "failing" not in [e["name"] for e in client.list_endpoints()]
    client.create_endpoint("failing")  # so that the next operation on it is that of its traffic
    emulator.fault("fail_operation", "/onlineEndpoints/failing$")
    with pytest.raises(MlflowException, match="done: traffic of failing back to nobody"):
        client.create_deployment("failing", models["one"])
    shown = client.get_deployment("failing")
    assert (shown["traffic"], shown.get("deployments")) == ({}, None)
    made = client.create_deployment("failing", models["one"], config={"synchronous": "false"})
    assert made["left"] == [
        "check the answers of failing/blue",
        "traffic of failing to blue 100 %",
    ]
    assert client.create_deployment("failing", models["one"])["traffic"] == {"blue": 100}
    client.delete_deployment("failing")


@pytest.mark.parametrize(
    ("kind", "method", "path", "values"),
    [
        ("drop_after", "PUT", "/unsure/deployments/", {}),
        ("status", "GET", "mfeOperationsStatus", {"status": 401}),
    ],
    ids=["the answer is lost", "the token is over"],
)
def test_a_change_that_goes_on_is_followed(client, emulator, models, kind, method, path, values):
    """What the SDK sends again meets its own first try, as one that is at work already."""
    client.create_endpoint("unsure")
    emulator.http.delete("/emulator/journal")
    emulator.fault(kind, path, method=method, **values)
    made = client.create_deployment("unsure", models["one"])
    assert (made["traffic"], made["left"]) == ({"blue": 100}, [])
    assert emulator.waiting_faults() == []
    emulator.fault("drop_after", "/onlineEndpoints/unsure$", method="DELETE")
    client.delete_deployment("unsure")
    assert "unsure" not in [e["name"] for e in client.list_endpoints()]


def test_a_change_that_failed_unseen_is_taken_back(client, emulator, models):
    emulator.fault("status", "mfeOperationsStatus", method="GET", status=401)
    client.create_endpoint("unseen")
    emulator.fault("status", "mfeOperationsStatus", method="GET", status=401)
    with pytest.raises(MlflowException, match=r"(?s)PHI3-A714 .*state Failed.*no weights"):
        client.create_deployment("unseen", models["broken"])
    assert "deployments" not in client.get_deployment("unseen")
    client.delete_deployment("unseen")


def test_an_operation_that_never_ends_is_left_by_the_deadline(client, emulator, models):
    emulator.fault("hang_operation", "/onlineEndpoints/hanging$")
    with pytest.raises(
        MlflowException, match=r"(?s)not finished after 3 s.*Still to do.*timeout_s"
    ):
        client.create_deployment("hanging", models["one"], config={"timeout_s": "3"})
    states = {e["name"]: e["state"] for e in client.list_endpoints()}
    assert states["hanging"] == "Creating"


def test_a_forbidden_call_tells_which_role_is_needed(client, emulator, models):
    emulator.fault("status", "/onlineEndpoints/denied$", method="PUT", status=403)
    with pytest.raises(MlflowException, match="Azure AI Developer") as raised:
        client.create_deployment("denied", models["one"])
    assert raised.value.error_code == "PERMISSION_DENIED"
    assert raised.value.json_kwargs["azure_status"] == 403
    assert "denied" not in [e["name"] for e in client.list_endpoints()]


def test_what_another_command_made_during_the_upload_is_left(client, models, monkeypatch):
    """Planned before it, both would be written over, and deleted when the check fails."""
    from mlflow_phi3.deployment import managed_deployer
    from mlflow_phi3.plugins.deployments import AzureFoundryClient

    real, other = managed_deployer.upload_model, AzureFoundryClient("azure-foundry:/local")

    def overtaken_by(command):
        def upload(*args, **options):
            monkeypatch.setattr(managed_deployer, "upload_model", real)
            command()
            return real(*args, **options)

        monkeypatch.setattr(managed_deployer, "upload_model", upload)

    overtaken_by(lambda: other.create_deployment("raced", models["one"]))
    with pytest.raises(MlflowException, match="PHI3-U738 deployment raced: it exists and serves"):
        client.create_deployment("raced", models["broken"])
    shown = client.get_deployment("raced")
    assert (shown["traffic"], set(shown["deployments"])) == ({"blue": 100}, {"blue"})

    overtaken_by(lambda: other.update_deployment("raced", models["two"]))
    with pytest.raises(MlflowException, match="no weights"):
        client.update_deployment("raced", models["broken"])
    shown = client.get_deployment("raced")
    assert (shown["traffic"], set(shown["deployments"])) == ({"green": 100}, {"green"})
    client.delete_deployment("raced")


def test_a_put_that_azure_refuses_is_not_taken_back(client, models, emulator):
    client.create_endpoint("refusing")
    emulator.http.delete("/emulator/journal")
    emulator.fault("status", "/onlineEndpoints/refusing/deployments/", method="PUT", status=409)
    with pytest.raises(MlflowException, match="status 409") as refused:
        client.create_deployment("refusing", models["one"])
    assert "Taken back" not in str(refused.value)
    assert [e for e in emulator.journal() if e["method"] == "DELETE"] == []
    client.delete_deployment("refusing")


def test_however_many_requests_are_held_they_can_be_let_go(emulator):
    many = 64  # more than there are threads to answer with
    emulator.fault("hold", "/metadata/endpoints", times=many)
    with ThreadPoolExecutor(many) as pool:
        asked = [pool.submit(emulator.http.get, "/metadata/endpoints") for _ in range(many)]
        deadline = time.monotonic() + 30
        while emulator.waiting_faults():
            assert time.monotonic() < deadline
        emulator.http.delete("/emulator/faults")
        assert {one.result().status_code for one in asked} == {200}


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/online/nobody/score", 404),
        ("/devstoreaccount1/azureml-blobstore?restype=container&comp=list", 403),
    ],
)
def test_an_answer_is_lost_of_every_service(emulator, path, status):
    emulator.fault("drop_after", path.split("?")[0])
    with pytest.raises(httpx.TransportError):
        emulator.http.get(path)
    assert emulator.journal()[-1]["status"] == status  # what it would have been


@pytest.mark.slow
def test_a_restarted_emulator_serves_what_it_served(
    start_emulator_at, tmp_path, models, ask, monkeypatch
):
    from mlflow_phi3.emulator.settings import HOME_VARIABLE
    from mlflow_phi3.plugins.deployments import AzureFoundryClient

    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path))
    first = start_emulator_at(tmp_path)
    client = AzureFoundryClient("azure-foundry:/local")
    client.create_deployment("stays", models["one"])
    client.predict("stays", ask)
    counted = requests_of(first, "stays")
    assert counted >= 1
    first.process.stop()
    second = start_emulator_at(tmp_path)
    assert second.running.port == first.running.port
    assert requests_of(second, "stays") == counted
    answer = AzureFoundryClient("azure-foundry:/local").predict("stays", ask)
    assert answer["choices"][0]["message"]["content"] == "one: hello"


def requests_of(emulator, endpoint):
    """How many calls Azure Monitor has of an endpoint today."""
    place = WORKSPACE.format(subscription=SUBSCRIPTION, group=GROUP, workspace=PROJECT)
    now = dt.datetime.now(dt.UTC)
    span = (
        f"{(now - dt.timedelta(hours=1)).isoformat()}/{(now + dt.timedelta(hours=1)).isoformat()}"
    )
    answer = emulator.http.get(
        f"{place}/onlineEndpoints/{endpoint}/providers/Microsoft.Insights/metrics",
        params={
            "metricnames": "RequestsPerMinute",
            "timespan": span,
            "api-version": "2023-10-01",
        },
        headers={"Authorization": f"Bearer {emulator.token()}"},
    )
    (metric,) = answer.json()["value"]
    return sum(point["average"] for one in metric["timeseries"] for point in one["data"])
