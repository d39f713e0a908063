"""The data collector of managed deployments: requests and answers as CloudEvents in storage."""

import datetime as dt
import json
import uuid
from typing import Any

from mlflow_phi3.emulator.arm import stamp
from mlflow_phi3.emulator.storage.datastore import Datastore
from mlflow_phi3.emulator.store import Resource, Store

_ROOT = "modelDataCollector"
_KINDS = {"request": "azureml.inference.request", "response": "azureml.inference.response"}


class Collector:
    """Writes what deployments that ask for it receive and answer.

    Args:
        store: Knows which do.
        datastore: Keeps it.
    """

    def __init__(self, store: Store, datastore: Datastore) -> None:
        self._store = store
        self._datastore = datastore

    def write(
        self,
        endpoint: str,
        deployment: str,
        request: bytearray,
        response: bytearray,
        at: dt.datetime,
    ) -> None:
        """Write one call as far as its deployment collects; a body that is not JSON is left out."""
        found = self._find(endpoint.lower(), deployment.lower())
        if found is None:
            return
        together = str(uuid.uuid4())
        for name, body in (("request", request), ("response", response)):
            if name not in _collections(found):
                continue
            event = _event(found["id"], _KINDS[name], body, at, together)
            if event is not None:
                self._datastore.append(_place(found["id"], name, at), event)

    def _find(self, endpoint: str, deployment: str) -> Resource | None:
        for found in self._store.of_kind("deployment"):
            parts = found["id"].lower().split("/")
            if (parts[-3], parts[-1]) == (endpoint, deployment):
                return found
        return None


def _collections(deployment: Resource) -> list[str]:
    collector = deployment["properties"].get("dataCollector") or {}
    return [
        name
        for name, one in (collector.get("collections") or {}).items()
        if str(one.get("dataCollectionMode") or "").lower() == "enabled"
    ]


def _place(deployment_id: str, name: str, at: dt.datetime) -> str:
    parts = deployment_id.split("/")
    return f"{_ROOT}/{parts[-3]}/{parts[-1]}/{name}/{at:%Y/%m/%d/%H}/instance-0.jsonl"


def _event(source: str, kind: str, body: bytearray, at: dt.datetime, together: str) -> bytes | None:
    try:
        data: Any = json.loads(body)
    except ValueError:
        return None
    event = {
        "specversion": "1.0",
        "id": str(uuid.uuid4()),
        "source": source,
        "type": kind,
        "datacontenttype": "application/json",
        "time": stamp(at),
        "data": data,
        "correlationid": together,
    }
    return json.dumps(event, ensure_ascii=False).encode() + b"\n"
