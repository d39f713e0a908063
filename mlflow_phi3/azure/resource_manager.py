"""Azure's resource manager, for what azure-ai-ml has no word for.

Requests go through the SDK's own pipeline: its sign-in, retries and cloud.
"""

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

from mlflow_phi3.azure.client import Workspace
from mlflow_phi3.azure.operation import CHANGING, Deadline, await_idle
from mlflow_phi3.azure.pipeline import read_list, send
from mlflow_phi3.errors import AzureError

_BUSY = CHANGING | {"Accepted", "InProgress", "Moving", "Registering", "ResolvingDNS", "Running"}
LOST = frozenset({"Canceled", "Failed"})
_AGAIN = "run the same command again, when nobody else deletes it"


@dataclass(frozen=True, slots=True)
class Answer:
    """What the resource manager said.

    Args:
        body: Parsed JSON; empty when there is none.
        at: The service's clock when it answered, or None when it did not tell.
    """

    body: Mapping[str, Any]
    at: dt.datetime | None


class ResourceManager:
    """Calls of one subscription.

    Args:
        account: Signed in; the project need not be there.
    """

    def __init__(self, account: Workspace) -> None:
        self._account = account
        self.target = account.target

    def get(self, path: str, version: str, *, where: str, query: str = "") -> Answer | None:
        """Return a resource, or None when it is not there.

        Args:
            path: From ``/subscriptions`` on, or the whole address at another of Azure's services.
            version: API version; empty for a service that has none.
            where: What is asked about, for messages.
            query: More of the query, ``name=value`` joined by ``&``.

        Raises:
            AzureError: Refused, or no answer.
        """
        asked = "&".join(filter(None, (f"api-version={version}" if version else "", query)))
        return self._send("GET", f"{path}?{asked}", where)

    def get_all(self, path: str, version: str, *, where: str) -> list[dict[str, Any]]:
        """Return all items of a list; none when what the list is of is not there.

        Raises:
            AzureError: As :meth:`get`.
        """
        with self._account.session(where) as ml:
            return read_list(ml, f"{path}?api-version={version}")

    def delete(self, path: str, version: str, *, where: str) -> None:
        """Delete a resource; one that is gone is no error.

        Raises:
            AzureError: As :meth:`get`.
        """
        self._send("DELETE", f"{path}?api-version={version}", where)

    def post(self, path: str, version: str, *, where: str) -> Answer | None:
        """Ask for an action.

        Raises:
            AzureError: As :meth:`get`, and what it is asked of is not there.
        """
        return self._send("POST", f"{path}?api-version={version}", where)

    def put(
        self, path: str, version: str, body: Mapping[str, Any], *, where: str, deadline: Deadline
    ) -> Answer:
        """Create or change a resource and wait until that has ended.

        Raises:
            AzureError: As :meth:`get`; what it belongs to is not there, it is gone again, or Azure
                could not make it.
            DeadlinePassed: Time is over.
        """
        answer = self._send("PUT", f"{path}?api-version={version}", where, body)
        if answer is not None and is_busy(answer.body):
            answer = self.await_idle(path, version, where=where, deadline=deadline)
        if answer is None:
            raise AzureError("PHI3-A723", "it was deleted meanwhile", where=where, fix=_AGAIN)
        if state_of(answer.body) in LOST:
            raise AzureError(
                "PHI3-A724",
                f"Azure ended it as {state_of(answer.body)}",
                where=where,
                fix="look at the resource group's activity log, then run the same command again",
            )
        return answer

    def await_idle(
        self, path: str, version: str, *, where: str, deadline: Deadline
    ) -> Answer | None:
        """Return a resource once it is not being changed any more, or None.

        Raises:
            AzureError: As :meth:`get`.
            DeadlinePassed: Time is over.
        """
        answer = None

        def busy() -> str:
            nonlocal answer
            answer = self.get(path, version, where=where)
            if answer is None or not is_busy(answer.body):
                return ""
            return f"{path.rsplit('/', 1)[1]} ({state_of(answer.body)})"

        await_idle(busy, deadline, where=where)
        return answer

    def _send(self, method: str, url: str, where: str, body: Any = None) -> Answer | None:
        with self._account.session(where) as ml:
            found = send(ml, method, url, body=body)
        if found is None:
            return None
        answer = found.http_response
        return Answer(
            answer.json() if answer.content else {},
            _date(answer.headers.get("Date", "")),
        )


def state_of(body: Mapping[str, Any]) -> str:
    """Return how the making of a resource stands, as its description says; else empty."""
    return str((body.get("properties") or {}).get("provisioningState") or "")


def is_busy(body: Mapping[str, Any]) -> bool:
    """Whether a resource is being made or changed, as its description says."""
    return state_of(body) in _BUSY


def _date(text: str) -> dt.datetime | None:
    try:
        return parsedate_to_datetime(text)
    except ValueError:
        return None
