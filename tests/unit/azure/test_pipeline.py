"""Requests through the SDK's pipeline: where 404 is an answer, and where it is a refusal."""

import json
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from types import SimpleNamespace

import pytest

from mlflow_phi3.azure.failures import translated
from mlflow_phi3.azure.operation import Deadline, DeadlinePassed, Refused
from mlflow_phi3.azure.pipeline import read_list, send
from mlflow_phi3.azure.resource_manager import ResourceManager
from mlflow_phi3.azure.serverless import ServerlessEndpoint, ServerlessService, serverless_body
from mlflow_phi3.errors import AzureError


class Response:
    headers = {"x-ms-request-id": "abc-1"}  # noqa: RUF012 - read only
    reason = "as told"

    def __init__(self, status, body):
        self.status_code = status
        self._text = body if isinstance(body, str) else json.dumps(body)
        self.content = self._text.encode()

    def text(self, encoding=None):
        return self._text

    def json(self):
        return json.loads(self._text)


class MemoryClient:
    """Gives the answers in order; the last one from then on."""

    def __init__(self, *answers):
        self._answers, self.asked, self.urls = list(answers), [], []
        config = SimpleNamespace(base_url="https://arm")
        inner = SimpleNamespace(_client=self, _config=config)
        self.serverless_endpoints = SimpleNamespace(_service_client=inner)
        self.target, self.location = SimpleNamespace(path="/project"), "eastus2"

    def format_url(self, url, endpoint):
        return url if "//" in url else endpoint + url

    def send_request(self, request, *, _return_pipeline_response):
        self.asked.append(request.method)
        self.urls.append(request.url)
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        return SimpleNamespace(http_response=Response(*answer))

    @contextmanager
    def session(self, where):
        with translated(where):
            yield self


GONE = (404, {"error": {"code": "ModelNotFound", "message": "Model m was not found."}})
WANTED = ServerlessEndpoint("chat", "azureml://m/1")


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_what_is_read_or_deleted_may_be_gone(method):
    assert send(MemoryClient(GONE), method, "/thing") is None


@pytest.mark.parametrize(
    "read",
    [
        lambda client: ServerlessService(client, Deadline(5)).get("chat"),
        lambda client: ServerlessService(client, Deadline(5)).get_key("chat"),
        lambda client: ResourceManager(client).get("/hub", "1", where="hub"),
    ],
)
def test_a_page_in_azures_place_is_told_as_such(read):
    page = MemoryClient((200, "<html>Sign in to the guest network</html>"))
    told = "PHI3-A715 .*not Azure.*status 200.*a proxy or a sign-in page"
    with pytest.raises(AzureError, match=told):
        read(page)


@pytest.mark.parametrize("method", ["PUT", "POST"])
def test_a_change_of_what_is_gone_is_refused(method):
    with (
        pytest.raises(AzureError, match=r"PHI3-A701 .*status 404, code ModelNotFound.*make it"),
        translated("thing"),
    ):
        send(MemoryClient(GONE), method, "/thing")


def test_a_serverless_endpoint_of_a_model_that_is_gone_is_not_made():
    service = ServerlessService(MemoryClient(GONE), Deadline(5))
    with pytest.raises(Refused, match="Model m was not found") as refused:
        service.put(WANTED)
    told = refused.value
    assert (told.status, told.azure_code, told.request_id) == (404, "ModelNotFound", "abc-1")
    assert str(told).count("status 404") == 1
    service.delete("chat")


@pytest.mark.parametrize("safe", [True, False])
def test_content_safety_is_read_as_it_was_sent(safe):
    wanted = replace(WANTED, content_safety=safe, tags={"team": "x"})
    answer = 200, {"name": "chat", **serverless_body(wanted, "eastus2")}
    assert ServerlessService(MemoryClient(answer), Deadline(5)).get("chat") == wanted


@pytest.mark.parametrize(("status", "refused"), [(400, True), (499, True), (500, False)])
def test_what_may_have_been_begun_is_no_refusal(status, refused):
    service = ServerlessService(MemoryClient((status, {}), GONE), Deadline(5))
    with pytest.raises(AzureError, match=f"status {status}") as failed:
        service.put(WANTED)
    assert isinstance(failed.value, Refused) is refused


def told(state, wanted=WANTED):
    body = serverless_body(wanted, "eastus2")
    body["properties"]["provisioningState"] = state
    return 200, {"name": "chat", **body}


@pytest.mark.parametrize(
    ("call", "found", "done"),
    [
        ("put", told("Succeeded"), True),
        ("put", told("Succeeded", replace(WANTED, model_id="azureml://m/2")), False),
        ("put", told("Succeeded", replace(WANTED, content_safety=False)), False),
        ("put", told("Failed"), False),
        ("put", GONE, False),
        ("delete", GONE, True),
        ("delete", told("Succeeded"), False),
    ],
)
def test_what_refuses_a_change_that_was_sent_again_may_be_itself(call, found, done):
    client = MemoryClient((409, {}), found)
    service = ServerlessService(client, Deadline(5))
    with nullcontext() if done else pytest.raises(Refused, match="status 409"):
        service.put(WANTED) if call == "put" else service.delete("chat")
    assert set(client.asked[1:]) == {"GET"}


def test_who_does_not_wait_asks_once():
    client = MemoryClient(told("Creating"))
    ServerlessService(client, Deadline(0)).put(WANTED, wait=False)
    assert client.asked == ["PUT"]


def test_an_endpoint_of_which_little_is_told():
    client = MemoryClient((200, {"name": "chat", "properties": {}}))
    found = ServerlessService(client, Deadline(5)).get("chat")
    assert found == ServerlessEndpoint("chat", "", content_safety=True, tags={})


@pytest.mark.parametrize(
    ("answer", "why"),
    [(GONE, "A711 endpoint chat: it was deleted meanwhile"), ((403, {}), "A701 .*status 403")],
)
def test_a_key_that_is_not_told(answer, why):
    with pytest.raises(AzureError, match=why):
        ServerlessService(MemoryClient(answer), Deadline(5)).get_key("chat")


def put(*answers, timeout_s=5):
    manager = ResourceManager(MemoryClient(*answers))
    deadline = Deadline(timeout_s)
    return manager.put("/hubs/h", "2024-01-01", {}, where="hub h", deadline=deadline)


def test_the_resource_manager_does_not_take_a_refusal_for_done():
    with pytest.raises(AzureError, match=r"PHI3-A701 hub h: .*status 404"):
        put(GONE)


def test_what_is_deleted_while_it_is_made_is_not_made():
    with pytest.raises(AzureError, match="PHI3-A723 hub h: it was deleted meanwhile"):
        put((201, {"properties": {"provisioningState": "Creating"}}), GONE)


@pytest.mark.parametrize("state", ["Creating", "Accepted", "ResolvingDNS"])
def test_what_was_made_is_returned(state):
    creating, done = ({"properties": {"provisioningState": s}} for s in (state, "Succeeded"))
    assert put((201, creating), (200, done)).body == done


def test_what_takes_too_long_is_told_with_its_state():
    creating = {"properties": {"provisioningState": "Creating"}}
    with pytest.raises(DeadlinePassed, match=r"PHI3-A708 hub h: h \(Creating\).*--timeout-s"):
        put((201, creating), timeout_s=0)


@pytest.mark.parametrize("state", ["Failed", "Canceled"])
def test_the_resource_manager_does_not_take_a_failure_for_done(state):
    made, ended = ((200, {"properties": {"provisioningState": s}}) for s in ("Creating", state))
    with pytest.raises(AzureError, match=f"PHI3-A724 hub h: Azure ended it as {state}"):
        put(made, ended)


PAGES = [
    (200, {"value": [{"name": "a"}, {"name": "b"}], "nextLink": "https://arm/things?$skip=2"}),
    (200, {"value": [{"name": "c"}], "nextLink": None}),
]


def test_a_list_is_read_to_its_last_page():
    client = MemoryClient(*PAGES)
    assert [one["name"] for one in read_list(client, "/things")] == ["a", "b", "c"]
    assert client.urls == ["https://arm/things", "https://arm/things?$skip=2"]
    manager = ResourceManager(MemoryClient(*PAGES))
    assert len(manager.get_all("/things", "2024-01-01", where="things")) == 3
    assert read_list(MemoryClient(GONE), "/things") == []


def test_a_list_whose_next_page_is_refused_is_not_taken_for_all_of_it():
    with pytest.raises(AzureError, match="PHI3-A701"), translated("things"):
        read_list(MemoryClient(PAGES[0], (503, {})), "/things")


def test_what_has_no_version_is_asked_without_one():
    client = MemoryClient((200, {"a": 1}), GONE)
    manager = ResourceManager(client)
    assert manager.get("https://ml/get", "", where="run", query="run_id=r").body == {"a": 1}
    manager.delete("/jobs/j", "2024-01-01", where="job j")  # it is gone, which is no error
    assert client.urls == ["https://ml/get?run_id=r", "https://arm/jobs/j?api-version=2024-01-01"]
