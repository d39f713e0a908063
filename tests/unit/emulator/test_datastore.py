import os

import pytest

from mlflow_phi3.emulator.settings import settings_from
from mlflow_phi3.emulator.storage.azurite import Azurite, account_key, install_azurite
from mlflow_phi3.emulator.storage.datastore import Datastore


@pytest.fixture(scope="module")
def datastore(tmp_path_factory):
    key = account_key("secret")
    entry = install_azurite(settings_from(os.environ).cache)
    azurite = Azurite(entry, tmp_path_factory.mktemp("blobs"), key)
    datastore = Datastore(azurite.url, key)
    datastore.create()
    datastore.create()
    yield datastore
    azurite.stop()


@pytest.fixture
def found(tmp_path):
    folder = tmp_path / "found"
    folder.mkdir()
    return folder


def test_what_the_datastore_keeps_is_found_at_the_address_that_it_tells(datastore, tmp_path, found):
    (tmp_path / "made" / "data").mkdir(parents=True)
    (tmp_path / "made" / "data" / "a +ü.txt").write_text("weights")
    address = datastore.store(tmp_path / "made", "azureml/j/registered_model")
    assert address == "azureml://datastores/workspaceblobstore/paths/azureml/j/registered_model"
    assert datastore.fetch(address, found)
    assert (found / "data" / "a +ü.txt").read_text() == "weights"
    assert datastore.fetch(f"{address}/data/a +ü.txt", found / "one")
    assert (found / "one").read_text() == "weights"
    assert not datastore.fetch(f"{address}/none", found)
    assert not datastore.fetch("https://elsewhere/MLmodel", found)


def test_a_neighbour_whose_name_begins_alike_is_left(datastore, found):
    for name in ("alike/train.jsonl", "alike/train.jsonl.bak", "alike/train/a", "alike/training/b"):
        datastore.append(name, b"x")
    place = "azureml://datastores/workspaceblobstore/paths/alike"
    assert datastore.fetch(f"{place}/train.jsonl", found / "file")
    assert datastore.fetch(f"{place}/train", found / "folder")
    assert datastore.fetch(f"{place}/train/", found / "slash")
    assert (found / "file").read_text() == "x"
    for name in ("folder", "slash"):
        assert [path.name for path in (found / name).iterdir()] == ["a"]


def test_what_is_appended_comes_after_what_is_there(datastore, found):
    for line in (b"one\n", b"two\n"):
        datastore.append("lines/instance-0.jsonl", line)
    assert datastore.fetch("azureml://x/paths/lines/instance-0.jsonl", found / "lines")
    assert (found / "lines").read_text() == "one\ntwo\n"
