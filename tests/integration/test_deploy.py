"""From nothing to an endpoint under load, to its next version and back, to nothing: by commands."""

import json
import ssl
import threading

import httpx
import psutil
import pytest
from mlflow import MlflowClient

from mlflow_phi3.emulator.lifecycle import find_emulator, stop_emulator
from mlflow_phi3.emulator.settings import (
    GROUP,
    HOME_VARIABLE,
    SUBSCRIPTION,
    WORKSPACE,
    settings_from,
)
from mlflow_phi3.emulator.storage.azurite import ACCOUNT, account_key
from mlflow_phi3.emulator.storage.datastore import Datastore
from mlflow_phi3.processes import is_alive

LOCAL = ("-t", "azure-foundry:/local")
PROJECT = (
    f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{GROUP}"
    f"/providers/Microsoft.MachineLearningServices/workspaces/{WORKSPACE}"
)
QUESTION = {
    "messages": [
        {"role": "system", "content": "You are a helpful assistant."},
        {"role": "user", "content": "How do I turn it on?"},
    ],
    "temperature": 0,
    "max_tokens": 12,
}
API = {"api-version": "2023-04-01-preview"}


class Cloud:
    """The emulator that the first command has started, asked by plain HTTP."""

    def __init__(self, settings):
        self.settings, self.running = settings, find_emulator(settings)
        bundle = ssl.create_default_context(cafile=str(settings.home / "bundle.pem"))
        self.http = httpx.Client(base_url=self.running.url, verify=bundle, timeout=120)
        known = settings.environment(self.running.port)
        form = {
            "client_id": known["AZURE_CLIENT_ID"],
            "client_secret": known["AZURE_CLIENT_SECRET"],
            "scope": f"{self.running.url}/.default",
            "grant_type": "client_credentials",
        }
        token = self.http.post(f"/{known['AZURE_TENANT_ID']}/oauth2/v2.0/token", data=form).json()
        self._signed_in = {"Authorization": f"Bearer {token['access_token']}"}

    def arm(self, method, path):
        answer = self.http.request(method, PROJECT + path, params=API, headers=self._signed_in)
        assert answer.is_success, answer.text
        return answer.json()

    def changes(self):
        """Bodies of changes, in the shape that the published types are checked in."""
        return [
            {"m": e["method"], "path": e["path"], "api": e["api_version"], "body": e["body"]}
            for e in self.http.get("/emulator/journal").json()
            if e["method"] in {"PUT", "PATCH"} and e["body"] and e["status"] < 300
        ]

    def leased_blobs(self):
        """Names of blobs that somebody holds a lease of, and of the container if it is held."""
        store = Datastore(self.running.url, account_key(self.settings.secret("storage")))
        query = f"comp=list&{store.sas()}"
        blobs = self.http.get(f"/{ACCOUNT}/azureml-blobstore?restype=container&{query}")
        containers = self.http.get(f"/{ACCOUNT}/?{query}")
        assert "<Name>LocalUpload/" in blobs.text
        assert "<LeaseState>available</LeaseState>" in containers.text
        return [state for state in ("leased", "breaking") if state in blobs.text + containers.text]

    def scoring_processes(self):
        """Those that the emulator's fork server has forked."""
        children = psutil.Process(self.running.pid).children()
        (server,) = [child for child in children if "fork_server.py" in " ".join(child.cmdline())]
        return [child for child in server.children() if is_alive(child.pid)]


class Load(threading.Thread):
    """A client that asks without pause, and takes nothing but an answer: it never asks again."""

    def __init__(self, cloud):
        super().__init__(daemon=True)
        endpoint = cloud.arm("GET", "/onlineEndpoints/chat")
        key = cloud.arm("POST", "/onlineEndpoints/chat/listKeys")["primaryKey"]
        self._http, self._uri = cloud.http, endpoint["properties"]["scoringUri"]
        self._headers = {"Authorization": f"Bearer {key}"}
        self._enough = threading.Event()
        self.answered, self.failed = [], []

    def run(self):
        frame = {"columns": list(QUESTION), "index": [0], "data": [list(QUESTION.values())]}
        while not self._enough.is_set():
            try:
                answer = self._http.post(
                    self._uri, json={"input_data": frame}, headers=self._headers
                )
                content = answer.json()["predictions"]["choices"][0]["message"]["content"]
            except (httpx.HTTPError, ValueError, LookupError) as error:
                self.failed.append(repr(error))
            else:
                self.answered.append((answer.headers["azureml-model-deployment"], content))

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self._enough.set()
        self.join(120)


@pytest.fixture
def settings(tmp_path):
    known = settings_from({HOME_VARIABLE: str(tmp_path / "emulator")})
    yield known
    stop_emulator(known)


@pytest.fixture
def command(start, settings):
    """Run a command to its end; it has to succeed. Returns what it said."""

    def run(*words):
        process = start(*words, **{HOME_VARIABLE: str(settings.home)})
        told, _ = process.communicate(timeout=500)
        assert process.returncode == 0, f"{' '.join(map(str, words))}\n{told}"
        return told

    return run


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_the_whole_way_by_commands_alone(command, project, settings, tmp_path, check_published):
    question = tmp_path / "question.json"
    question.write_text(json.dumps(QUESTION))
    before = {process.pid for process in psutil.process_iter()}

    small = [word for p in ("n_trials=2", "epochs=1", "answers=2") for word in ("-P", p)]
    command("mlflow", "run", ".", "--env-manager", "local", *small)
    champion = "models:/phi3-chat@champion"
    told = command("mlflow", "deployments", "create", *LOCAL, "--name", "chat", "-m", champion)
    assert "python_function deployment chat is created" in told
    predict = ("mlflow", "deployments", "predict", *LOCAL, "--name", "chat", "-I", question)
    first = _answer(command(*predict))
    assert first.strip()

    command("mlflow", "run", ".", "--env-manager", "local", "-e", "register", "-P", "promote=never")
    cloud = Cloud(settings)
    with Load(cloud) as load:
        second = "models:/phi3-chat@challenger"
        command("mlflow", "deployments", "update", *LOCAL, "--name", "chat", "-m", second)
        assert _traffic(cloud) == {"green": 100}
        assert "green=100 -> blue=100" in command("mlflow-phi3", "rollback", "chat", *LOCAL)
        assert _traffic(cloud) == {"blue": 100}
    assert load.failed == []
    assert {name for name, _ in load.answered} == {"blue", "green"}
    assert {content for _, content in load.answered} == {first}  # both are the same weights

    registry = MlflowClient(f"sqlite:///{project}/mlflow.db")
    tags = registry.get_model_version("phi3-chat", "2").tags
    assert (tags["azure.endpoint"], tags["azure.deployment"]) == ("chat", "green")

    check_published(_bodies_of(cloud))
    assert len(cloud.scoring_processes()) == 2
    command("mlflow", "deployments", "delete", *LOCAL, "--name", "chat")
    assert cloud.arm("GET", "/onlineEndpoints")["value"] == []
    assert cloud.scoring_processes() == []
    assert cloud.leased_blobs() == []
    assert "stopped" in command("mlflow-phi3", "emulator", "stop")
    cloud.http.close()
    left = [p for p in psutil.process_iter(["cmdline"]) if _is_ours(p, settings.home, project)]
    assert [p.info["cmdline"] for p in left if p.pid not in before] == []


def _answer(told):
    found = json.loads(told[told.index("{") :])
    return found["choices"][0]["message"]["content"]


def _traffic(cloud):
    found = cloud.arm("GET", "/onlineEndpoints/chat")["properties"]["traffic"]
    return {name: share for name, share in found.items() if share}


def _bodies_of(cloud):
    changes = cloud.changes()
    kinds = {"/".join(change["path"].split("/")[9::2]).lower() for change in changes}
    assert kinds >= {"models/versions", "onlineendpoints", "onlineendpoints/deployments"}, kinds
    return changes


def _is_ours(process, *places):
    """Tell whether a process works on one of these folders."""
    try:
        words = [*process.info["cmdline"], process.cwd(), *process.environ().values()]
    except (psutil.NoSuchProcess, psutil.AccessDenied, TypeError):
        return False
    alive = process.status() != psutil.STATUS_ZOMBIE
    return alive and any(str(place) in word for word in words for place in places)
