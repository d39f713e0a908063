"""Serverless endpoints of models that Foundry tuned.

The SDK drops ``auth_mode`` and cannot express content safety (azure-ai-ml 1.35.2), so the body is
sent through the SDK's own pipeline: its sign-in, retries and cloud.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from mlflow_phi3.azure.client import Workspace
from mlflow_phi3.azure.operation import (
    CHANGING,
    Deadline,
    await_idle,
    beginning,
    finish,
    followed,
    state_of_deletion,
)
from mlflow_phi3.azure.pipeline import pipeline_of, read_list, send
from mlflow_phi3.errors import AzureError

_VERSION = "2024-10-01-preview"
"""The first version whose type has ``contentSafety``."""
_NOT_FOUND = 404
_PAUSE_S = 5.0
"""Between polls where the service does not tell."""
CHAT = "/v1/chat/completions"


@dataclass(frozen=True, slots=True)
class ServerlessEndpoint:
    """A serverless endpoint.

    Args:
        name: Unique in the project.
        model_id: ``azureml://locations/.../models/<name>/versions/<version>`` of a tuned model.
        content_safety: Whether Azure AI Content Safety filters what goes in and out.
        tags: Its tags.
        state: As told by Azure; empty when wanted.
        uri: Where it is called; empty when wanted.
    """

    name: str
    model_id: str
    content_safety: bool = True
    tags: Mapping[str, str] | None = None
    state: str = ""
    uri: str = ""


def serverless_body(wanted: ServerlessEndpoint, location: str) -> dict[str, Any]:
    """Return exactly what a PUT sends."""
    status = "Enabled" if wanted.content_safety else "Disabled"
    return {
        "location": location,
        "sku": {"name": "Consumption"},
        "tags": dict(wanted.tags or {}),
        "properties": {
            "authMode": "Key",
            "modelSettings": {"modelId": wanted.model_id},
            "contentSafety": {"contentSafetyStatus": status},
        },
    }


class ServerlessService:
    """All remote calls for the serverless endpoints of one project.

    Args:
        workspace: The open project.
        deadline: What all waiting shares.
    """

    def __init__(self, workspace: Workspace, deadline: Deadline) -> None:
        self._workspace = workspace
        self._deadline = deadline

    def renewed(self) -> "ServerlessService":
        """Return the same calls, with as much time again."""
        return ServerlessService(self._workspace, Deadline(self._deadline.timeout_s))

    def get(self, name: str) -> ServerlessEndpoint | None:
        """Return an endpoint, or None."""
        answer = self._send("GET", name)
        return None if answer is None else _to_endpoint(answer.http_response.json())

    def list_endpoints(self) -> list[ServerlessEndpoint]:
        """Return all serverless endpoints of the project."""
        url = f"{self._workspace.target.path}/serverlessEndpoints?api-version={_VERSION}"
        with self._workspace.session("endpoints") as ml:
            return [_to_endpoint(one) for one in read_list(ml, url)]

    def await_idle(self, name: str) -> ServerlessEndpoint | None:
        """Return an endpoint once it is not being changed any more, or None.

        Raises:
            DeadlinePassed: Time is over.
        """
        await_idle(lambda: self._busy(name), self._deadline, where=f"endpoint {name}")
        return self.get(name)

    def put(self, wanted: ServerlessEndpoint, *, wait: bool = True) -> None:
        """Create or change an endpoint.

        Raises:
            Refused: It was not begun.
            AzureError: It failed, or nobody knows how far it came.
        """
        body = serverless_body(wanted, self._workspace.location)
        if not wait:
            self._begin("PUT", wanted.name, body)
            return

        def state() -> str:
            found = self.get(wanted.name)
            told = found and serverless_body(found, self._workspace.location)
            return found.state if found and told == body else ""

        self._change("PUT", wanted.name, state, body)

    def delete(self, name: str) -> None:
        """Delete an endpoint; one that is gone is no error."""

        def state() -> str:
            return state_of_deletion(self.get(name))

        self._change("DELETE", name, state)

    def get_key(self, name: str) -> str:
        """Return what the endpoint is called with: keep it in memory only."""
        try:
            answer = self._send("POST", f"{name}/listKeys")
        except AzureError as error:
            if error.status != _NOT_FOUND:
                raise
            where = f"endpoint {name}"
            raise AzureError("PHI3-A711", "it was deleted meanwhile", where=where) from error
        return str(answer.http_response.json()["primaryKey"])

    def _busy(self, name: str) -> str:
        found = self.get(name)
        return f"{name} ({found.state})" if found and found.state in CHANGING else ""

    def _change(self, method: str, name: str, state: Callable[[], str], body: Any = None) -> None:
        """Begin a long-running operation, and wait for it as the SDK waits for its own."""
        from azure.core.polling import LROPoller
        from azure.mgmt.core.polling.arm_polling import ARMPolling

        where = f"endpoint {name}"
        with followed(state, lambda: self.await_idle(name), where=where):
            begun = self._begin(method, name, body)
            if begun is None:  # what shall be deleted is gone
                return
            with self._workspace.session(where) as ml:
                polling: Any = ARMPolling(_PAUSE_S)
                poller = LROPoller(pipeline_of(ml), begun, lambda answer: answer, polling)
                finish(poller, self._deadline, where=where)

    def _begin(self, method: str, name: str, body: Any = None) -> Any:
        with beginning():
            return self._send(method, name, body)

    def _send(self, method: str, path: str, body: Any = None) -> Any:
        """Send one request; None when what is read or deleted is not there."""
        place = f"{self._workspace.target.path}/serverlessEndpoints/{path}"
        with self._workspace.session(f"endpoint {path}") as ml:
            return send(ml, method, f"{place}?api-version={_VERSION}", body=body)


def _to_endpoint(found: Mapping[str, Any]) -> ServerlessEndpoint:
    properties = found["properties"]
    safety = (properties.get("contentSafety") or {}).get("contentSafetyStatus")
    return ServerlessEndpoint(
        name=str(found["name"]),
        model_id=str((properties.get("modelSettings") or {}).get("modelId") or ""),
        content_safety=safety != "Disabled",
        tags={str(k): str(v) for k, v in (found.get("tags") or {}).items()},
        state=str(properties.get("provisioningState") or ""),
        uri=str((properties.get("inferenceEndpoint") or {}).get("uri") or ""),
    )
