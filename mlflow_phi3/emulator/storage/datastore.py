"""The project's datastore: a container of the blob service, at the service's addresses."""

import base64
import datetime as dt
import hashlib
import hmac
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlencode
from xml.etree import ElementTree as ET

import httpx

from mlflow_phi3.emulator.storage.azurite import ACCOUNT

DATASTORE = "workspaceblobstore"
CONTAINER = "azureml-blobstore"
_PATHS = re.compile(r"/paths/(.+)$")
_VERSION = "2022-11-02"
_LIFE = dt.timedelta(hours=8)


@dataclass(frozen=True, slots=True)
class Datastore:
    """The one datastore there is.

    Args:
        url: Address of the blob service, without the account.
        key: The account's key, base64.
    """

    url: str
    key: str

    def sas(self) -> str:
        """Return an account SAS token: the whole account, for some hours.

        Source: "Create an account SAS", string-to-sign of version 2020-12-06 and later.
        """
        expiry = (dt.datetime.now(dt.UTC) + _LIFE).strftime("%Y-%m-%dT%H:%M:%SZ")
        permissions = "rwdlacup"
        fields = [ACCOUNT, permissions, "b", "sco", "", expiry, "", "", _VERSION, ""]
        text = "".join(f"{field}\n" for field in fields)
        digest = hmac.new(base64.b64decode(self.key), text.encode(), hashlib.sha256).digest()
        return urlencode(
            {
                "sv": _VERSION,
                "ss": "b",
                "srt": "sco",
                "sp": permissions,
                "se": expiry,
                "sig": base64.b64encode(digest).decode(),
            }
        )

    def create(self) -> None:
        """Create the container; one that exists is left as it is."""
        with self._client() as client:
            done = client.put(self._at("", "restype=container"))
            if done.status_code != httpx.codes.CONFLICT:
                done.raise_for_status()

    def append(self, name: str, content: bytes) -> None:
        """Add bytes to a file; it is made when there is none."""
        with self._client() as client:
            made = client.put(
                self._at(name), headers={"x-ms-blob-type": "AppendBlob", "If-None-Match": "*"}
            )
            if made.status_code not in {httpx.codes.CONFLICT, httpx.codes.PRECONDITION_FAILED}:
                made.raise_for_status()
            client.put(self._at(name, "comp=appendblock"), content=content).raise_for_status()

    def fetch(self, address: str, folder: Path) -> bool:
        """Copy what lies at an address into a folder; tell whether there was anything.

        The address of one file copies it to the folder's own path.
        """
        place, found = _PATHS.search(address), False
        if place is None:
            return False
        prefix = place.group(1)
        with self._client() as client:
            for name in self._names(client, prefix):
                rest = name.removeprefix(prefix)
                if rest and "/" not in (rest[0], prefix[-1]):
                    continue  # a neighbour whose name begins so
                target = folder / rest.lstrip("/")
                if not target.resolve().is_relative_to(folder.resolve()):
                    continue  # a name with ``..`` leads out of the folder
                target.parent.mkdir(parents=True, exist_ok=True)
                with client.stream("GET", self._at(name)) as answer, target.open("wb") as file:
                    answer.raise_for_status()
                    for part in answer.iter_bytes(1 << 20):
                        file.write(part)
                found = True
        return found

    def store(self, folder: Path, prefix: str) -> str:
        """Copy a folder's files beneath a prefix; return its address."""
        with self._client() as client:
            for path in sorted(p for p in folder.rglob("*") if p.is_file()):
                name = f"{prefix}/{path.relative_to(folder).as_posix()}"
                headers = {
                    "x-ms-blob-type": "BlockBlob",
                    "content-length": str(path.stat().st_size),
                }
                with path.open("rb") as file:
                    client.put(self._at(name), content=file, headers=headers).raise_for_status()
        return f"azureml://datastores/{DATASTORE}/paths/{prefix}"

    def _names(self, client: httpx.Client, prefix: str) -> Iterator[str]:
        marker = ""
        while True:
            wanted = {"restype": "container", "comp": "list", "prefix": prefix, "marker": marker}
            answer = client.get(self._at("", urlencode(wanted)))
            answer.raise_for_status()
            page = ET.fromstring(answer.content)  # noqa: S314 - our own child process wrote it
            for blob in page.iter("Blob"):
                yield blob.findtext("Name", "")
            marker = page.findtext("NextMarker") or ""
            if not marker:
                return

    def _client(self) -> httpx.Client:
        # Plain http on loopback: the certificates of the system would be read for nothing.
        return httpx.Client(
            headers={"x-ms-version": _VERSION},
            timeout=60.0,
            trust_env=False,
            verify=False,  # noqa: S501 - as above
        )

    def _at(self, name: str, query: str = "") -> str:
        """Address of a file; without a name, of the container."""
        path = f"{CONTAINER}/{quote(name)}" if name else CONTAINER
        return f"{self.url}/{ACCOUNT}/{path}?" + f"{query}&{self.sas()}".lstrip("&")
