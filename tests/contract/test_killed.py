"""A command that is killed at any point: run again, it goes on, and nothing is left twice."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest

from mlflow_phi3.emulator.settings import HOME_VARIABLE

POINTS = [
    ("PUT", "/devstoreaccount1/"),
    ("PUT", "/models/[^/]+/versions/"),
    ("PUT", "/onlineEndpoints/killed$"),
    ("PUT", "/onlineEndpoints/killed/deployments/blue$"),
    ("POST", "/listKeys"),
    ("POST", "/online/killed/score"),
    ("GET", "mfeOperationsStatus"),  # of the traffic: nothing else is left to wait for
]
"""In the order of a first deployment: each run comes to its point and dies there."""

# Does it once in words, so that all is imported; then a child of its own for each command.
CLIENTS = """
import os, signal, sys
import azure.storage.blob
from mlflow_phi3.plugins.deployments import AzureFoundryClient

warm = AzureFoundryClient("azure-foundry:/local")
warm.create_deployment("warm", sys.argv[1], config={"dry_run": "true"})
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        AzureFoundryClient("azure-foundry:/local").create_deployment("killed", line.strip())
        os._exit(0)
    print(child, flush=True)
"""


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    """Where the processes say what they do."""
    return tmp_path_factory.mktemp("killed") / "said"


@pytest.fixture(scope="module")
def start_create(emulator, models, store_uri, said):
    """Begin to create the deployment in a process of its own; returns its id."""
    home = {HOME_VARIABLE: str(emulator.settings.home), "MLFLOW_TRACKING_URI": store_uri}
    with said.open("w") as told:
        parent = subprocess.Popen(
            [sys.executable, "-c", CLIENTS, models["one"]],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=told,
            env={**os.environ, **home},
            text=True,
        )

    def begin(model):
        parent.stdin.write(f"{model}\n")
        parent.stdin.flush()
        return int(parent.stdout.readline())

    yield begin
    parent.communicate(timeout=30)


def wait_for(condition, what):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def test_a_create_killed_at_each_point_is_completed_by_the_next(
    client, emulator, models, ask, tmp_path, start_create
):
    model = tmp_path / "model"  # content that was never sent, or the upload would be skipped
    shutil.copytree(models["one"], model)
    (model / "salt.txt").write_text("killed")
    for method, path in POINTS:
        emulator.fault("hold", path, method=method)
        asked = len(emulator.journal())
        child = start_create(model)
        wait_for(lambda: emulator.waiting_faults() == [], f"no {method} {path}")
        os.kill(child, signal.SIGKILL)
        emulator.http.delete("/emulator/faults")
        # What was asked for arrives all the same: the next run meets it.
        matching = [method, path]
        wait_for(lambda m=matching, n=asked: was_answered(emulator, n, *m), "no answer")
    assert client.create_deployment("killed", str(model))["traffic"] == {"blue": 100}
    assert client.predict("killed", ask)["choices"][0]["message"]["content"] == "one: hello"
    made = [e for e in emulator.journal() if e["method"] == "PUT" and e["status"] == 201]
    kinds = [e["path"].split("/")[9::2] for e in made if "/workspaces/" in e["path"]]
    assert kinds == [
        ["models", "versions"],
        ["onlineEndpoints"],
        ["onlineEndpoints", "deployments"],
    ]
    client.delete_deployment("killed")
    assert client.list_endpoints() == []


def test_a_create_that_the_system_stops_tells_what_stays(
    client, emulator, models, said, start_create
):
    emulator.fault("hold", "/listKeys", method="POST")
    child = start_create(models["one"])
    wait_for(lambda: emulator.waiting_faults() == [], "no key was asked for")
    os.kill(child, signal.SIGTERM)
    emulator.http.delete("/emulator/faults")
    stays = (
        "deployment killed/blue stays, and is billed: mlflow deployments delete -t azure-foundry"
    )
    wait_for(lambda: "interrupted" in said.read_text(), said.read_text())
    wait_for(lambda: stays in said.read_text(), said.read_text())
    client.delete_deployment("killed")


def was_answered(emulator, since, method, path):
    entries = emulator.journal()[since:]
    return any(e["method"] == method and re.search(path, e["path"], re.IGNORECASE) for e in entries)
