"""Changes are whole: whoever else makes one at that moment, and wherever the emulator is killed."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from mlflow_phi3.emulator import lifecycle
from mlflow_phi3.emulator.assets.state import Assets
from mlflow_phi3.emulator.endpoints.keys import Keys
from mlflow_phi3.emulator.endpoints.state import Endpoints
from mlflow_phi3.emulator.faults import Faults
from mlflow_phi3.emulator.operation import Operations
from mlflow_phi3.emulator.router import WORKSPACE, Refusal
from mlflow_phi3.emulator.serverless.state import Serverless
from mlflow_phi3.emulator.settings import CACHE_VARIABLE, HOME_VARIABLE, settings_from
from mlflow_phi3.emulator.store import Store

MINE, THEIRS = (
    WORKSPACE.format(subscription="s", group="g", workspace=name) for name in ("mine", "theirs")
)
CUT_OFF = """
import os, signal, sys
from pathlib import Path
from mlflow_phi3.emulator.store import Store

store = Store(Path(sys.argv[1]))
store.put("/before", "x", {})
with store.transaction():
    store.put("/within", "x", {})
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "s.sqlite")
    yield store
    store.close()


@pytest.fixture
def assets(store):
    """Two projects with a model of one name, which a fine-tuning job has made."""
    assets = Assets(store, account="account")
    for workspace in (MINE, THEIRS):
        assets.create_workspace(workspace, location="eastus2", kind="Project")
        made = {"modelUri": "azureml://x", "jobName": "j"}
        assets.put_version(f"{workspace}/models/chat/versions/1", made)
    return assets


def test_what_is_refused_on_the_way_has_changed_nothing(store):
    store.put("/a", "x", {"n": 1})
    with pytest.raises(Refusal), store.transaction():
        store.put("/a", "x", {"n": 2})
        with store.transaction():
            store.put("/b", "x", {})
        raise Refusal(409, "Conflict", "no")
    assert (store.get("/a"), store.get("/b")) == ({"n": 1}, None)


def test_what_a_kill_has_cut_off_has_changed_nothing(tmp_path):
    path = tmp_path / "killed.sqlite"
    done = subprocess.run([sys.executable, "-c", CUT_OFF, path], check=False)
    assert done.returncode == -signal.SIGKILL
    store = Store(path)
    assert (store.get("/before"), store.get("/within")) == ({}, None)
    store.close()


def test_both_keys_can_be_replaced_at_once(store, monkeypatch):
    keys = Keys(store)
    keys.create("/e")
    before, read, both = keys.get("/e"), Keys.get, threading.Barrier(2)

    def slowly(self, endpoint_id):
        found = read(self, endpoint_id)
        with contextlib.suppress(threading.BrokenBarrierError):
            both.wait(0.3)
        return found

    monkeypatch.setattr(Keys, "get", slowly)
    threads = [threading.Thread(target=keys.replace, args=("/e", name, None)) for name in before]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    monkeypatch.undo()
    after = keys.get("/e")
    assert [after[name] != before[name] for name in before] == [True, True]


class Slow:
    """Scoring processes of which one is deleted while it starts."""

    def __init__(self, store):
        self.store, self.served = store, set()

    def deploy(self, deployment_id, _model, _variables):
        self.store.delete(deployment_id)
        self.stop(deployment_id)
        self.served.add(deployment_id)

    def stop(self, deployment_id):
        self.served.discard(deployment_id)


@pytest.mark.parametrize("kind", [Endpoints, Serverless])
def test_what_is_deleted_while_it_starts_again_is_not_served(store, assets, kind):
    own = store.need(MINE)["properties"]["workspaceId"]
    model = f"azureml://locations/eastus2/workspaces/{own}/models/chat/versions/1"
    running = {"provisioningState": "Succeeded"}
    for path, name, properties in (
        ("onlineEndpoints/e", "endpoint", {}),
        (
            "onlineEndpoints/e/deployments/d",
            "deployment",
            {"model": f"{MINE}/models/chat/versions/1"},
        ),
        ("serverlessEndpoints/e", "serverless", {"modelSettings": {"modelId": model}}),
    ):
        place = f"{MINE}/{path}"
        store.put(place, name, {"id": place, "name": "e", "properties": {**running, **properties}})
    fleet = Slow(store)
    kind(store, Operations(store, Faults()), fleet, base="").resume()
    deadline = time.monotonic() + 20
    while [one for one in store.of_kind("operation") if one["status"] != "Succeeded"]:
        assert time.monotonic() < deadline, store.of_kind("operation")
        time.sleep(0.01)
    assert fleet.served == set()


def test_a_model_of_another_project_does_not_keep_ones_own(store, assets):
    deployment = {
        "name": "blue",
        "properties": {"model": f"azureml:{THEIRS}/models/chat/versions/1"},
    }
    store.put(f"{THEIRS}/onlineEndpoints/e/deployments/blue", "deployment", deployment)
    with pytest.raises(Refusal, match=r"deployed \(blue\)"):
        assets.delete_version(f"{THEIRS}/models/chat/versions/1")
    assert assets.delete_version(f"{MINE}/models/chat/versions/1")
    assert not assets.delete_version(f"{MINE}/models/chat/versions/1")


def test_one_that_stops_while_it_is_looked_for_is_no_error(tmp_path, monkeypatch):
    settings = settings_from({HOME_VARIABLE: str(tmp_path)})
    settings.record.write_text(f'{{"pid": {os.getpid()}, "port": 1, "url": "https://localhost:1"}}')

    def goes(_settings):
        settings.record.unlink()
        return True

    monkeypatch.setattr(lifecycle, "_is_locked", goes)
    lifecycle.find_emulator(settings)
    assert lifecycle.find_emulator(settings) is None


def test_a_secret_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    settings = settings_from({HOME_VARIABLE: str(tmp_path), CACHE_VARIABLE: str(tmp_path)})

    def full(*_):
        raise OSError("no space left on device")

    with monkeypatch.context() as disk:
        for write in ("write_text", "write_bytes"):
            disk.setattr(Path, write, full)
        with pytest.raises(OSError, match="no space"):
            settings.secret("client")
    assert len(settings.secret("client")) == 64
