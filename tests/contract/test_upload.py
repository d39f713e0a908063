"""Large models: parallel blocks, going on after a cut, flat memory, nothing sent twice."""

import os
import threading

import psutil
import pytest

from mlflow_phi3.azure.assets import name_asset, upload_model
from mlflow_phi3.azure.blobs import BLOCK_BYTES, upload_folder
from mlflow_phi3.azure.client import open_workspace
from mlflow_phi3.azure.target import find_target


@pytest.fixture(scope="module")
def workspace(emulator, tmp_path_factory):
    environment = emulator.environment
    target = find_target("azure-foundry", environment, tmp_path_factory.mktemp("nowhere"))
    return open_workspace(target, environment)


def sent_blobs(emulator):
    return [
        e for e in emulator.journal() if e["method"] == "PUT" and "/azureml-blobstore/" in e["path"]
    ]


class Cut(Exception):  # noqa: N818 - not an error
    pass


def test_an_upload_goes_on_where_it_was_cut(workspace, emulator, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "small.txt").write_text("x")
    (folder / "weights.bin").write_bytes(os.urandom(BLOCK_BYTES * 12 + 5))
    total = BLOCK_BYTES * 12 + 6
    done = []

    def cut_in_the_middle(size_bytes):
        done.append(size_bytes)
        if sum(done) > total / 2:
            raise Cut

    with pytest.raises(Cut):
        upload_folder(workspace, folder, "a-digest", progress=cut_in_the_middle)
    before = len(sent_blobs(emulator))
    assert before >= 7
    emulator.http.delete("/emulator/journal")
    arrived = []
    place = upload_folder(workspace, folder, "a-digest", progress=arrived.append)
    assert place.endswith("/paths/LocalUpload/a-digest/model")
    assert sum(arrived) == total
    # 2 + 13 blocks and commits for everything; at least what arrived before is not sent again.
    assert len(sent_blobs(emulator)) <= 16 - before
    emulator.http.delete("/emulator/journal")
    upload_folder(workspace, folder, "a-digest", progress=arrived.append)
    assert sent_blobs(emulator) == []


def test_the_same_content_is_registered_once(workspace, emulator, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "MLmodel").write_text("flavors: {}")
    asset = name_asset("some model!", "7", folder)
    assert (asset.name, asset.version[:2]) == ("some-model", "7-")
    assert upload_model(workspace, asset, folder, {"a": "b"})
    emulator.http.delete("/emulator/journal")
    assert not upload_model(workspace, asset, folder, {"a": "b"})
    assert not [e for e in emulator.journal() if e["method"] == "PUT"]


def test_a_throttled_upload_arrives(workspace, emulator, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "weights.bin").write_bytes(b"abc")
    emulator.fault("status", "/devstoreaccount1/", method="PUT", status=503)
    emulator.fault("drop", "/devstoreaccount1/", method="PUT")
    arrived = []
    upload_folder(workspace, folder, "throttled", progress=arrived.append)
    assert sum(arrived) == 3
    assert emulator.waiting_faults() == []


class PeakMemory:
    """The most that this process took beyond what it had."""

    def __enter__(self):
        self._process, self._stop, self.size_bytes = psutil.Process(), threading.Event(), 0
        self._before = self._process.memory_info().rss
        self._watcher = threading.Thread(target=self._watch)
        self._watcher.start()
        return self

    def _watch(self):
        while not self._stop.wait(0.02):
            now = self._process.memory_info().rss - self._before
            self.size_bytes = max(self.size_bytes, now)

    def __exit__(self, *_):
        self._stop.set()
        self._watcher.join()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_gigabytes_are_cut_resumed_and_sent_once_with_flat_memory(
    workspace, emulator, tmp_path
):
    size_bytes, blocks = 2 * 2**30, 2 * 2**30 // BLOCK_BYTES
    folder = tmp_path / "model"
    folder.mkdir()
    with (folder / "weights.bin").open("wb") as file:
        for number in range(blocks):  # no two blocks alike
            file.write(number.to_bytes(8) * (BLOCK_BYTES // 8))
    asset = name_asset("large", "1", folder)
    done = []

    def cut_at_a_quarter(part_bytes):
        done.append(part_bytes)
        if sum(done) > size_bytes / 4:
            raise Cut

    with PeakMemory() as memory:
        with pytest.raises(Cut):
            upload_model(workspace, asset, folder, {}, progress=cut_at_a_quarter)
        first = len(sent_blobs(emulator))
        assert blocks / 4 <= first < blocks / 2  # a cut ends it: the rest is not sent first
        arrived = []
        assert upload_model(workspace, asset, folder, {}, progress=arrived.append)
        assert sum(arrived) == size_bytes
        assert len(sent_blobs(emulator)) <= blocks + 1  # and the list of blocks: none went twice
        emulator.http.delete("/emulator/journal")
        assert not upload_model(workspace, asset, folder, {})
        assert sent_blobs(emulator) == []
    print(f"peak {memory.size_bytes / 2**20:.0f} MiB")
    assert memory.size_bytes < 300 * 2**20


def test_a_datastore_without_secrets_is_opened_as_whoever_signed_in(workspace, emulator, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "weights.bin").write_bytes(b"abc")
    arrived = []
    emulator.http.put("/emulator/datastore", json={"credentialsType": "None"})
    try:
        upload_folder(workspace, folder, "keyless", progress=arrived.append)
    finally:
        emulator.http.put("/emulator/datastore", json={"credentialsType": "AccountKey"})
    assert sum(arrived) == 3
    assert not [e for e in emulator.journal() if e["path"].endswith("/listSecrets")]
