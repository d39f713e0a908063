"""The project's datastore: the service's addresses, and the files that lie there."""

import re
from dataclasses import dataclass
from pathlib import Path

from mlflow_phi3.emulator.storage.blobs import Blobs

DATASTORE = "workspaceblobstore"
CONTAINER = "azureml-blobstore"
_PATHS = re.compile(r"/paths/(.+)$")


@dataclass(frozen=True, slots=True)
class Datastore:
    """The one datastore there is, a container of the storage account.

    Args:
        blobs: The account.
    """

    blobs: Blobs

    def fetch(self, address: str, folder: Path) -> bool:
        """Copy what lies at an address into a folder; tell whether there was anything.

        The address of one file copies it to the folder's own path.
        """
        place = _PATHS.search(address)
        return place is not None and self.blobs.download(CONTAINER, place.group(1), folder) > 0

    def store(self, folder: Path, prefix: str) -> str:
        """Copy a folder's files beneath a prefix; return its address."""
        self.blobs.upload(CONTAINER, prefix, folder)
        return f"azureml://datastores/{DATASTORE}/paths/{prefix}"

    def append(self, name: str, content: bytes) -> None:
        """Add bytes to a file; it is made when there is none."""
        self.blobs.append(CONTAINER, name, content)
