"""What the emulator itself needs of blob storage's REST API: SAS, containers, reading, writing."""

import base64
import datetime as dt
import hashlib
import hmac
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlencode
from xml.etree import ElementTree as ET

import httpx

_VERSION = "2022-11-02"
_LIFE = dt.timedelta(hours=8)


@dataclass(frozen=True, slots=True)
class Blobs:
    """One account of a blob service.

    Args:
        url: Address of the service, without the account.
        account: Account name.
        key: Account key, base64.
    """

    url: str
    account: str
    key: str

    def sas(self) -> str:
        """Return an account SAS token: the whole account, for some hours.

        Source: "Create an account SAS", string-to-sign of version 2020-12-06 and later.
        """
        expiry = (dt.datetime.now(dt.UTC) + _LIFE).strftime("%Y-%m-%dT%H:%M:%SZ")
        permissions = "rwdlacup"
        fields = [self.account, permissions, "b", "sco", "", expiry, "", "", _VERSION, ""]
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

    def create_container(self, container: str) -> None:
        """Create a container; one that exists is left as it is."""
        with self._client() as client:
            done = client.put(self._at(container, "restype=container"))
            if done.status_code != httpx.codes.CONFLICT:
                done.raise_for_status()

    def append(self, container: str, name: str, content: bytes) -> None:
        """Add bytes to an append blob; it is made when there is none."""
        address = f"{container}/{quote(name)}"
        with self._client() as client:
            made = client.put(
                self._at(address, ""),
                headers={"x-ms-blob-type": "AppendBlob", "If-None-Match": "*"},
            )
            if made.status_code not in {httpx.codes.CONFLICT, httpx.codes.PRECONDITION_FAILED}:
                made.raise_for_status()
            client.put(self._at(address, "comp=appendblock"), content=content).raise_for_status()

    def download(self, container: str, prefix: str, folder: Path) -> int:
        """Copy every blob beneath a prefix into a folder; return how many there were."""
        count = 0
        with self._client() as client:
            for name in self._names(client, container, prefix):
                target = folder / name.removeprefix(prefix).lstrip("/")
                if not target.resolve().is_relative_to(folder.resolve()):
                    continue  # a name with ``..`` leads out of the folder
                target.parent.mkdir(parents=True, exist_ok=True)
                address = self._at(f"{container}/{quote(name)}", "")
                with client.stream("GET", address) as answer, target.open("wb") as file:
                    answer.raise_for_status()
                    for part in answer.iter_bytes(1 << 20):
                        file.write(part)
                count += 1
        return count

    def upload(self, container: str, prefix: str, folder: Path) -> None:
        """Copy a folder's files beneath a prefix."""
        with self._client() as client:
            for path in sorted(p for p in folder.rglob("*") if p.is_file()):
                name = f"{prefix}/{path.relative_to(folder).as_posix()}"
                headers = {
                    "x-ms-blob-type": "BlockBlob",
                    "content-length": str(path.stat().st_size),
                }
                with path.open("rb") as file:
                    address = self._at(f"{container}/{quote(name)}", "")
                    client.put(address, content=file, headers=headers).raise_for_status()

    def _names(self, client: httpx.Client, container: str, prefix: str) -> Iterator[str]:
        marker = ""
        while True:
            wanted = {"restype": "container", "comp": "list", "prefix": prefix, "marker": marker}
            answer = client.get(self._at(container, urlencode(wanted)))
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

    def _at(self, path: str, query: str) -> str:
        joined = f"{query}&" if query else ""
        return f"{self.url}/{self.account}/{path}?{joined}{self.sas()}"
