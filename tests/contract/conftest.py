"""One emulator for all contract tests: its own process, under a guard that ends it with pytest."""

import gc
import json
import os
import ssl
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from mlflow_phi3.emulator.authorization.actions import needed_actions
from mlflow_phi3.emulator.lifecycle import find_emulator
from mlflow_phi3.emulator.process import Guarded
from mlflow_phi3.emulator.router import WORKSPACE
from mlflow_phi3.emulator.settings import (
    CACHE_VARIABLE,
    GROUP,
    HOME_VARIABLE,
    SUBSCRIPTION,
    settings_from,
)
from mlflow_phi3.emulator.settings import WORKSPACE as PROJECT

MODEL = """
import mlflow
from mlflow.pyfunc import PythonModel


class Echo(PythonModel):
    def predict(self, context, model_input, params=None):
        return [
            {{"choices": [{{"index": 0, "message": {{"role": "assistant", "content":
              "{name}: " + row["messages"][-1]["content"]}}, "finish_reason": "stop"}}]}}
            for row in model_input.to_dict("records")
        ]


mlflow.models.set_model(Echo())
"""
SIGNATURE = """
  inputs: '[{"name": "messages", "type": "array", "items": {"type": "object", "properties":
    {"role": {"type": "string", "required": true}, "content": {"type": "string",
    "required": true}}}, "required": true}]'
"""
LABELLER = """
import mlflow
from mlflow.pyfunc import PythonModel


class Labeller(PythonModel):
    def predict(self, context, model_input, params=None):
        return [
            {"label": "defect" if "broke" in row["text"] else "praise", "score": 0.75}
            for row in model_input.to_dict("records")
        ]


mlflow.models.set_model(Labeller())
"""
TEXT_SIGNATURE = """
  inputs: '[{"name": "text", "type": "string", "required": true}]'
"""


def pytest_collection_modifyitems(items):
    """The SDK's clients cannot be closed: their sockets are left to the collector."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            for category in ("ResourceWarning", "pytest.PytestUnraisableExceptionWarning"):
                item.add_marker(pytest.mark.filterwarnings(f"ignore::{category}"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item, nextitem):
    """Collect them here, where their warnings are ignored, and not in the midst of another test."""
    done = yield
    if nextitem is None or nextitem.path != item.path:
        gc.collect()
    return done


class Emulator:
    """A running emulator and what tests ask of it beside Azure's own calls."""

    def __init__(self, settings, running, process):
        self.settings, self.running, self.process = settings, running, process
        self.environment = settings.environment(running.port)
        bundle = str(settings.home / "bundle.pem")
        self.http = httpx.Client(
            base_url=running.url, verify=ssl.create_default_context(cafile=bundle), timeout=60
        )

    def journal(self):
        return self.http.get("/emulator/journal").json()

    def changes(self):
        """Bodies of changes, in the shape that the published types are checked in."""
        return [
            {"m": e["method"], "path": e["path"], "api": e["api_version"], "body": e["body"]}
            for e in self.journal()
            if e["method"] in {"PUT", "PATCH"} and e["body"] and e["status"] < 300
        ]

    def fault(self, kind, path, **values):
        answer = self.http.post("/emulator/faults", json={"kind": kind, "path": path, **values})
        assert answer.status_code == 204, answer.text

    def waiting_faults(self):
        return self.http.get("/emulator/faults").json()

    def allow(self, *actions, but=()):
        """Say what may be done from now on, until the next test."""
        role = {"actions": [*actions], "notActions": [*but]}
        assert self.http.put("/emulator/permissions", json=[role]).status_code == 204

    def needed(self):
        """The actions, in small letters, that what was asked so far has needed."""
        calls = [(e["method"], e["path"], e["body"]) for e in self.journal()]
        return {action.lower() for call in calls for action in needed_actions(*call)}

    def clear(self):
        self.http.delete("/emulator/faults")
        self.http.delete("/emulator/journal")
        self.http.put("/emulator/permissions", json=[])

    def sweep(self):
        """Delete all endpoints."""
        self.clear()
        signed_in = {"Authorization": f"Bearer {self.token()}"}
        query = {"params": {"api-version": "2024-10-01-preview"}, "headers": signed_in}
        place = WORKSPACE.format(subscription=SUBSCRIPTION, group=GROUP, workspace=PROJECT)
        deadline = time.monotonic() + 60
        for kind in ("onlineEndpoints", "serverlessEndpoints"):
            while left := self.http.get(f"{place}/{kind}", **query).json()["value"]:
                assert time.monotonic() < deadline, left
                for endpoint in left:  # one that is being changed refuses, and is asked again
                    self.http.delete(endpoint["id"], **query)
                time.sleep(0.1)

    def token(self):
        settings = self.environment
        answer = self.http.post(
            f"/{settings['AZURE_TENANT_ID']}/oauth2/v2.0/token",
            data={
                "client_id": settings["AZURE_CLIENT_ID"],
                "client_secret": settings["AZURE_CLIENT_SECRET"],
                "scope": f"{self.running.url}/.default",
                "grant_type": "client_credentials",
            },
        )
        return answer.json()["access_token"]


def start(home: Path) -> Emulator:
    """Start an emulator, or fail with its log: it is never skipped."""
    environment = {**os.environ, HOME_VARIABLE: str(home)}
    settings = settings_from(environment)
    home.mkdir(parents=True, exist_ok=True)
    process = Guarded(
        [sys.executable, "-m", "mlflow_phi3.emulator"],
        log=home / "emulator.log",
        environment={**environment, CACHE_VARIABLE: str(settings.cache)},
        folder=Path(__file__).parents[2],
    )
    deadline = time.monotonic() + 280
    while (running := find_emulator(settings)) is None:
        if not process.is_running() or time.monotonic() > deadline:
            process.stop()
            pytest.fail(f"the emulator did not start: {process.tail()}")
        time.sleep(0.1)
    return Emulator(settings, running, process)


@pytest.fixture(scope="session")
def emulator(tmp_path_factory):
    """One for all: starting it takes seconds."""
    emulator = start(tmp_path_factory.mktemp("emulator"))
    yield emulator
    emulator.http.close()
    emulator.process.stop()


@pytest.fixture(scope="module", autouse=True)
def _swept(emulator):
    """No module meets the endpoints that another has left."""
    yield
    emulator.sweep()


@pytest.fixture(autouse=True)
def _clean(emulator, monkeypatch, store_uri):
    emulator.clear()
    monkeypatch.setenv(HOME_VARIABLE, str(emulator.settings.home))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store_uri)


@pytest.fixture
def start_emulator_at():
    """Start further emulators; they are ended with the test."""
    started = []

    def begin(home):
        started.append(start(home))
        return started[-1]

    yield begin
    for one in started:
        one.http.close()
        one.process.stop()


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """Folders of two small MLflow models that chat, of one that cannot load, and a classifier."""
    folder = tmp_path_factory.mktemp("models")
    chat = {"messages": [{"role": "user", "content": "hi"}]}
    kinds = {
        "one": (MODEL.format(name="one"), SIGNATURE, chat),
        "two": (MODEL.format(name="two"), SIGNATURE, chat),
        "broken": ("raise RuntimeError('no weights')", SIGNATURE, chat),
        "labels": (LABELLER, TEXT_SIGNATURE, {"text": "hi"}),
    }
    for name, (code, signature, example) in kinds.items():
        model = folder / name
        model.mkdir()
        (model / "model.py").write_text(code)
        (model / "MLmodel").write_text(
            "flavors:\n  python_function:\n    loader_module: mlflow.pyfunc.loaders.code_model\n"
            "    model_code_path: model.py\n    python_version: 3.11.0\n"
            "saved_input_example_info:\n  artifact_path: input_example.json\n"
            f"  type: json_object\nsignature:{signature}"
        )
        (model / "input_example.json").write_text(json.dumps(example))
    return {name: str(folder / name) for name in kinds}


@pytest.fixture
def run_printed():
    """Type what `try` prints into a new shell, the key's two lines first."""

    def run(shown):
        _, begun = shown.split("# The key, once\n")
        shell, program = begun.split("# Python\n")
        environment = {name: value for name, value in os.environ.items() if "CA_BUND" not in name}
        environment.pop("SSL_CERT_FILE", None)
        environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        typed = f"{shell}\npython - <<'EOF'\n{program}\nEOF\n"
        done = subprocess.run(
            ["bash", "-c", typed], env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.fixture
def client():
    from mlflow_phi3.plugins.deployments import AzureFoundryClient

    return AzureFoundryClient("azure-foundry:/local")


@pytest.fixture
def ask():
    return {"messages": [{"role": "user", "content": "hello"}]}
