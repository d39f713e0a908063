import shutil

from mlflow_phi3.emulator.storage.datastore import Datastore


class Folders:
    """A storage account whose containers are folders."""

    def __init__(self, home):
        self.home = home

    def upload(self, container, prefix, folder):
        shutil.copytree(folder, self.home / container / prefix)

    def download(self, container, prefix, folder):
        found = list((self.home / container / prefix).glob("*"))
        for path in found:
            shutil.copy(path, folder / path.name)
        return len(found)


def test_what_the_datastore_keeps_is_found_at_the_address_that_it_tells(tmp_path):
    datastore = Datastore(Folders(tmp_path / "account"))
    for name in ("made", "found"):
        (tmp_path / name).mkdir()
    (tmp_path / "made" / "MLmodel").write_text("flavors")
    address = datastore.store(tmp_path / "made", "azureml/j/registered_model")
    assert address == "azureml://datastores/workspaceblobstore/paths/azureml/j/registered_model"
    assert datastore.fetch(address, tmp_path / "found")
    assert (tmp_path / "found" / "MLmodel").read_text() == "flavors"
    assert not datastore.fetch(f"{address}/none", tmp_path / "found")
    assert not datastore.fetch("https://elsewhere/MLmodel", tmp_path / "found")
