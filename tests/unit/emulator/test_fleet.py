import threading

import pytest

from mlflow_phi3.emulator.endpoints.fleet import Fleet
from mlflow_phi3.emulator.operation import OperationFailed

MODEL = {"properties": {"modelUri": "azureml://datastores/d/paths/model"}}


class Files:
    """Holds what a model's address leads to."""

    def __init__(self, *names):
        self.names = names

    def fetch(self, _address, folder):
        for name in self.names:
            (folder / name).write_text("")
        return bool(self.names)


@pytest.mark.parametrize(
    ("files", "told"),
    [((), "no model"), (("weights",), "no MLmodel file"), (("MLmodel",), "^$")],
    ids=["nothing", "no model", "no fork server"],
)
def test_what_could_not_be_started_leaves_no_files(tmp_path, files, told):
    fleet = Fleet(tmp_path / "deployments", Files(*files))
    fleet._fork_server._process.kill()
    fleet._fork_server._process.wait()

    with pytest.raises(OperationFailed, match=told):
        fleet.deploy("/chat/blue", MODEL, {})

    assert not [path for path in (tmp_path / "deployments").iterdir() if path.is_dir()]
    fleet.close()


def test_what_a_restart_has_begun_does_not_replace_what_was_asked_for_since(tmp_path):
    fleet = Fleet(tmp_path / "deployments", Files())
    begun, asked, gate = [], threading.Event(), threading.Event()

    def fetch(_address, folder):
        begun.append(threading.current_thread().name)
        asked.set()
        gate.wait(20)
        return False

    fleet._datastore.fetch = fetch

    def deploy():
        with pytest.raises(OperationFailed):
            fleet.deploy("/chat/blue", MODEL, {})

    threads = [threading.Thread(target=deploy, name=name) for name in ("restart", "update")]
    threads[0].start()
    assert asked.wait(20)
    threads[1].start()
    threads[1].join(0.3)
    assert begun == ["restart"]
    gate.set()
    for thread in threads:
        thread.join(20)
    assert begun == ["restart", "update"]
    fleet.close()
