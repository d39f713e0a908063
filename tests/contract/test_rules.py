"""The emulator over plain HTTP: it refuses what the service refuses, whoever asks."""

import pytest

from mlflow_phi3.emulator.arm import PAGE
from mlflow_phi3.emulator.settings import GROUP, SUBSCRIPTION, WORKSPACE

HOME = (
    f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{GROUP}"
    f"/providers/Microsoft.MachineLearningServices/workspaces/{WORKSPACE}"
)
VERSION = {"api-version": "2024-10-01-preview"}


@pytest.fixture
def arm(emulator):
    headers = {"Authorization": f"Bearer {emulator.token()}"}

    def call(method, path, body=None, **extra):
        return emulator.http.request(
            method, HOME + path, json=body, params=VERSION, headers={**headers, **extra}
        )

    return call


def endpoint(**properties):
    return {"location": "eastus2", "properties": {"authMode": "Key", **properties}}


def finish(emulator, answer):
    token = {"Authorization": f"Bearer {emulator.token()}"}
    address = answer.headers.get("Azure-AsyncOperation") or answer.headers["Location"]
    while True:
        polled = emulator.http.get(address, headers=token)
        if polled.status_code not in {200, 202} or (
            polled.status_code == 200 and polled.json()["status"] != "InProgress"
        ):
            return polled


def test_nothing_is_told_without_a_token(emulator):
    for headers in ({}, {"Authorization": "Bearer made-up"}):
        answer = emulator.http.get(HOME, params=VERSION, headers=headers)
        assert answer.status_code == 401
        assert answer.json()["error"]["code"] == "InvalidAuthenticationToken"


def test_paths_are_case_insensitive(emulator):
    token = {"Authorization": f"Bearer {emulator.token()}"}
    assert emulator.http.get(HOME.upper(), params=VERSION, headers=token).status_code == 200


def test_an_endpoint_over_its_life(emulator, arm):
    made = arm("PUT", "/onlineEndpoints/plain", endpoint())
    assert made.status_code == 201
    assert made.json()["properties"]["provisioningState"] == "Creating"
    assert made.json()["properties"]["scoringUri"] is None
    assert made.headers["x-ms-async-operation-timeout"] == "PT30M"
    assert finish(emulator, made).json()["status"] == "Succeeded"
    shown = arm("GET", "/onlineEndpoints/PLAIN").json()
    assert shown["properties"]["scoringUri"].endswith("/online/plain/score")
    assert "Key" not in shown["properties"].get("keys", {})
    keys = arm("POST", "/onlineEndpoints/plain/listKeys").json()
    finish(emulator, arm("POST", "/onlineEndpoints/plain/regenerateKeys", {"keyType": "Primary"}))
    renewed = arm("POST", "/onlineEndpoints/plain/listKeys").json()
    assert renewed["primaryKey"] != keys["primaryKey"]
    assert renewed["secondaryKey"] == keys["secondaryKey"]
    uri = shown["properties"]["scoringUri"]
    assert emulator.http.post(uri, json={}).status_code == 401
    good = {"Authorization": f"Bearer {keys['secondaryKey']}"}
    answer = emulator.http.post(uri, json={"input_data": []}, headers=good)
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "NoTraffic")
    gone = arm("DELETE", "/onlineEndpoints/plain")
    assert gone.status_code == 202
    assert finish(emulator, gone).status_code == 204
    assert arm("GET", "/onlineEndpoints/plain").status_code == 404
    assert arm("DELETE", "/onlineEndpoints/plain").status_code == 204


def test_what_is_being_changed_cannot_be_changed(emulator, arm):
    emulator.fault("hang_operation", "/onlineEndpoints/stuck")
    assert arm("PUT", "/onlineEndpoints/stuck", endpoint()).status_code == 201
    for method, body in (("PUT", endpoint()), ("DELETE", None)):
        answer = arm(method, "/onlineEndpoints/stuck", body)
        assert answer.status_code == 409, answer.text


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/onlineEndpoints/1x", endpoint(), 400),
        ("/onlineEndpoints/ok-name", {"properties": {"authMode": "Key"}}, 400),
        ("/onlineEndpoints/ok-name", endpoint(authMode="None"), 400),
        ("/onlineEndpoints/ok-name", endpoint(traffic={"blue": 100}), 400),
        ("/onlineEndpoints/none/deployments/blue", {"properties": {}}, 400),
        ("/models/chat/versions/1", {"properties": {}}, 400),
        ("/models/chat/versions/1,2", {"properties": {"modelUri": "azureml://x"}}, 400),
    ],
)
def test_bodies_that_are_refused(arm, path, body, status):
    answer = arm("PUT", path, body)
    assert answer.status_code == status, answer.text
    assert answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "body",
    [
        {"properties": [1]},
        endpoint(traffic=["blue"]),
        endpoint(traffic={"blue": "100"}),
        {**endpoint(), "identity": "SystemAssigned"},
    ],
)
def test_whatever_is_sent_is_answered_as_azure_does(emulator, arm, body):
    answer = arm("PUT", "/onlineEndpoints/odd", body)
    assert answer.status_code >= 400
    assert set(answer.json()["error"]) == {"code", "message"}
    assert emulator.journal()[-1]["status"] == answer.status_code


def test_versions_are_immutable(arm):
    body = {"properties": {"modelUri": "azureml://a", "modelType": "mlflow_model"}}
    assert arm("PUT", "/models/fixed/versions/1", body).status_code == 201
    assert arm("PUT", "/models/fixed/versions/1", body).status_code == 200
    body["properties"]["modelUri"] = "azureml://b"
    assert arm("PUT", "/models/fixed/versions/1", body).status_code == 409
    assert arm("GET", "/models/fixed").json()["properties"]["nextVersion"] == "2"


def test_wrong_secrets_get_no_token(emulator):
    tenant = emulator.environment["AZURE_TENANT_ID"]
    form = {"client_id": "x", "client_secret": "y", "scope": "z", "grant_type": "g"}
    answer = emulator.http.post(f"/{tenant}/oauth2/v2.0/token", data=form)
    assert (answer.status_code, answer.json()["error"]) == (401, "invalid_client")


def test_storage_wants_a_signature(emulator):
    account = f"{emulator.running.url}/devstoreaccount1/azureml-blobstore"
    answer = emulator.http.get(account, params={"restype": "container", "comp": "list"})
    assert answer.status_code == 403


def test_quota_machines_and_providers(emulator, arm, tmp_path):
    from mlflow_phi3.azure.client import open_workspace
    from mlflow_phi3.azure.target import find_target

    workspace = open_workspace(
        find_target("azure-foundry", emulator.environment, tmp_path), emulator.environment
    )
    with workspace.session("compute") as ml:
        usages = {usage.name["value"]: usage for usage in ml.compute.list_usage()}
        sizes = {size.name: size for size in ml.compute.list_sizes()}
    assert usages["Total Dedicated vCPUs"].limit == 100
    assert sizes["Standard_NC24ads_A100_v4"].gpus == 1  # the SDK loses vCPUs on the way

    token = {"Authorization": f"Bearer {emulator.token()}"}
    # A subscription of its own: `doctor --fix` registers the provider in the one that all share,
    # of which alone the application is the owner.
    emulator.allow("*")
    place = "/subscriptions/7e1f2b3c-0000-4000-8000-00000000c0de/providers/Microsoft.Network"
    state = emulator.http.get(place, headers=token, params=VERSION).json()["registrationState"]
    assert state == "NotRegistered"
    assert emulator.http.post(f"{place}/register", headers=token, params=VERSION).status_code == 200
    state = emulator.http.get(place.lower(), headers=token, params=VERSION).json()[
        "registrationState"
    ]
    assert state == "Registered"
    unknown = place.replace("Network", "Nonsense")
    assert emulator.http.get(unknown, headers=token, params=VERSION).status_code == 404


@pytest.mark.parametrize(
    ("path", "query", "body", "code"),
    [
        ("", {}, None, "MissingApiVersionParameter"),
        ("", {"api-version": "latest"}, None, "InvalidApiVersionParameter"),
        ("/onlineEndpoints/ok-name", VERSION, [1], "InvalidRequestContent"),
        ("/onlineEndpoints/ok-name", VERSION, {**endpoint(), "tags": {"a": 1}}, "InvalidRequestC"),
        (
            "/onlineEndpoints/ok-name",
            VERSION,
            {**endpoint(), "tags": {"a": "x" * 257}},
            "InvalidTagValueLength",
        ),
        (
            "/onlineEndpoints/ok-name",
            VERSION,
            {**endpoint(), "tags": dict.fromkeys(map(str, range(51)), "")},
            "InvalidTagCount",
        ),
        (
            "/onlineEndpoints/ok-name",
            VERSION,
            {**endpoint(), "tags": {"a/b": ""}},
            "InvalidTagNameCharacters",
        ),
    ],
)
def test_what_the_resource_manager_itself_refuses(emulator, path, query, body, code):
    method, token = (
        "GET" if body is None else "PUT",
        {"Authorization": f"Bearer {emulator.token()}"},
    )
    answer = emulator.http.request(method, HOME + path, json=body, params=query, headers=token)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["code"].startswith(code)


@pytest.mark.parametrize(
    "kind", ["onlineEndpoints", "serverlessEndpoints", "jobs", "models", "data", "connections"]
)
def test_nothing_is_listed_of_a_workspace_that_is_not_there(arm, kind):
    assert arm("GET", f"-nowhere/{kind}").status_code == 404


def test_a_list_comes_in_pages_that_lead_to_the_end(emulator, arm):
    body = {"properties": {"modelUri": "azureml://a", "modelType": "mlflow_model"}}
    for number in range(PAGE + 1):
        assert arm("PUT", f"/models/paged/versions/{number}", body).status_code == 201
    first = arm("GET", "/models/paged/versions").json()
    token = {"Authorization": f"Bearer {emulator.token()}"}
    last = emulator.http.get(first["nextLink"], headers=token).json()
    found = [one["name"] for page in (first, last) for one in page["value"]]
    assert found == [str(number) for number in range(PAGE, -1, -1)]
    assert "nextLink" not in last


def test_what_an_endpoint_cannot_become(emulator, arm):
    finish(emulator, arm("PUT", "/onlineEndpoints/rigid", endpoint()))
    user = {"type": "UserAssigned", "userAssignedIdentities": {"/x": {}}}
    for body in (
        {**endpoint(), "identity": user},
        endpoint(authMode="AMLToken"),
        endpoint(publicNetworkAccess="Secret"),
        endpoint(mirrorTraffic={"blue": 10}),
    ):
        answer = arm("PUT", "/onlineEndpoints/rigid", body)
        assert answer.status_code == 400, answer.text
