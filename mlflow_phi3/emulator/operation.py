"""Long-running operations: one small state machine, InProgress to Succeeded or Failed.

Headers as recorded from the service (a deployment PUT, 2022): 201 with ``Azure-AsyncOperation``
for creations and updates, 202 with ``Location`` for deletions, ``x-ms-async-operation-timeout``.
"""

import threading
import uuid
from collections.abc import Callable, Mapping
from enum import StrEnum
from urllib.parse import urlencode

from mlflow_phi3.emulator.arm import now
from mlflow_phi3.emulator.faults import Faults
from mlflow_phi3.emulator.router import Call, Refusal, Reply, Route
from mlflow_phi3.emulator.store import Resource, Store

_PLACE = "/subscriptions/{subscription}/providers/Microsoft.MachineLearningServices/locations"
_KIND = "operation"
_POLL_MS = "200"
"""What a poller is told to wait, milliseconds."""
FAILED = {"provisioningState": "Failed"}
"""What a resource is left as by an operation that failed."""


class Status(StrEnum):
    """States of an operation, as the service spells them."""

    IN_PROGRESS = "InProgress"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"


class OperationFailed(Exception):  # noqa: N818 - an outcome
    """The work of an operation cannot be done.

    Args:
        code: Azure's error code.
        message: The root cause, for the person who asked.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class Operations:
    """Starts operations and tells how they stand.

    Args:
        store: Where they are kept.
        faults: Asked whether an operation shall fail or never end.
    """

    def __init__(self, store: Store, faults: Faults) -> None:
        self._store = store
        self._faults = faults
        self._stopping = threading.Event()
        for lost in store.of_kind(_KIND):
            if lost["status"] == Status.IN_PROGRESS:
                why = {"code": "InternalServerError", "message": "The service was restarted."}
                self._finish(lost, Status.FAILED, why)

    def begin(
        self, resource_id: str, work: Callable[[], None], failed: Mapping[str, str] = FAILED
    ) -> str:
        """Run work on a thread of its own and return the operation's name.

        Args:
            resource_id: What is being changed; faults are matched against it.
            work: The change; OperationFailed makes the operation Failed.
            failed: Properties that the resource has once the work has failed.
        """
        name = f"oe:{uuid.uuid4()}"
        record: Resource = {
            "id": f"/operations/{name}",
            "name": name,
            "resource": resource_id,
            "status": Status.IN_PROGRESS,
            "startTime": now(),
        }
        self._save(record)
        threading.Thread(
            target=self._run, args=(record, work, failed), daemon=True, name=name
        ).start()
        return name

    def begun(self, call: Call, body: Resource, new: bool, name: str) -> Reply:
        """Answer a request that creates or changes a resource of a workspace.

        Args:
            call: The request.
            body: The resource.
            new: Whether it is being created.
            name: The operation, for pollers to ask after.
        """
        told = self._headers(call, "Azure-AsyncOperation", f"mfeOperationsStatus/{name}")
        return Reply.to_put(body, new, {**told, "Location": f"{call.origin}{call.path}"})

    def accepted(self, call: Call, name: str | None) -> Reply:
        """Answer a request that asks for no resource: a deletion, or an action.

        Args:
            call: The request, about something in a workspace.
            name: The operation, for pollers to ask after; None where there is nothing to do.
        """
        if name is None:
            return Reply(status=204)
        told = self._headers(call, "Location", f"mfeOperationResults/{name}")
        return Reply(status=202, headers=told)

    def routes(self) -> list[Route]:
        """Return the routes that pollers ask."""
        return [
            Route("GET", _PLACE + "/{location}/mfeOperationsStatus/{operation}", self._status),
            Route("GET", _PLACE + "/{location}/mfeOperationResults/{operation}", self._result),
        ]

    def stop(self) -> None:
        """Write no more down, and let operations go that a fault keeps from ending."""
        self._stopping.set()
        self._faults.release()

    def _headers(self, call: Call, where: str, path: str) -> dict[str, str]:
        place = _PLACE.format(subscription=call.names["subscription"])
        location = self._store.need(call.workspace_id)["location"]
        version = f"api-version={call.query.get('api-version', '')}"
        return {
            "x-ms-async-operation-timeout": "PT30M",
            "retry-after-ms": _POLL_MS,
            where: f"{call.origin}{place}/{location}/{path}?{version}",
        }

    def _run(self, record: Resource, work: Callable[[], None], failed: Mapping[str, str]) -> None:
        error: Mapping[str, str] | None = None
        try:
            self._faults.during_operation(record["resource"])
            work()
        except OperationFailed as why:
            error = {"code": why.code, "message": why.message}
        except Exception as bug:  # noqa: BLE001 - a thread's end must be told to the poller
            error = {"code": "InternalServerError", "message": f"{type(bug).__name__}: {bug}"}
        if self._stopping.is_set():
            return
        if error is not None:
            self._store.patch(record["resource"], **failed)
        self._finish(record, Status.FAILED if error else Status.SUCCEEDED, error)

    def _finish(self, record: Resource, status: Status, error: Mapping[str, str] | None) -> None:
        record = {**record, "status": status, "endTime": now()}
        self._save({**record, "error": error} if error else record)

    def _save(self, record: Resource) -> None:
        self._store.put(record["id"], _KIND, record)

    def _status(self, call: Call) -> Reply:
        record = self._get(call)
        told = {name: value for name, value in record.items() if name != "resource"}
        return Reply(told, headers={"retry-after-ms": _POLL_MS})

    def _result(self, call: Call) -> Reply:
        record = self._get(call)
        if record["status"] == Status.IN_PROGRESS:
            again = f"{call.origin}{call.path}?{urlencode(call.query)}"
            told = {"Location": again, "retry-after-ms": _POLL_MS}
            return Reply(status=202, headers=told)
        if record["status"] == Status.FAILED:
            raise Refusal(409, record["error"]["code"], record["error"]["message"])
        return Reply(status=204)

    def _get(self, call: Call) -> Resource:
        name = call.names["operation"]
        return self._store.need(f"/operations/{name}", "OperationNotFound", "No operation {name}.")
