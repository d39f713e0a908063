"""Serverless endpoints of models that Foundry tuned.

The SDK drops ``auth_mode`` and cannot express content safety (azure-ai-ml 1.35.2), so the body is
sent through the SDK's own pipeline: its sign-in, retries and cloud.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mlflow_phi3.azure.client import Workspace
from mlflow_phi3.azure.operation import CHANGING, Deadline, DeadlinePassed
from mlflow_phi3.errors import AzureError

_VERSION = "2024-10-01-preview"
"""The first version whose type has ``contentSafety``."""
_NOT_FOUND = 404
_LONGEST_PAUSE_S = 10.0
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

    def get(self, name: str) -> ServerlessEndpoint | None:
        """Return an endpoint, or None."""
        answer = self._send("GET", name)
        return None if answer is None else _to_endpoint(answer.json())

    def list(self) -> "list[ServerlessEndpoint]":
        """Return all serverless endpoints of the project."""
        answer = self._send("GET", "")
        return [] if answer is None else [_to_endpoint(one) for one in answer.json()["value"]]

    def await_idle(self, name: str) -> ServerlessEndpoint | None:
        """Return an endpoint once it is not being changed any more, or None.

        Raises:
            DeadlinePassed: Time is over.
        """
        pause_s = 0.2
        while (found := self.get(name)) is not None and found.state in CHANGING:
            if self._deadline.left_s() <= 0:
                raise DeadlinePassed(
                    "PHI3-A714",
                    f"it is still {found.state} after {self._deadline.timeout_s:.0f} s",
                    where=f"endpoint {name}",
                    fix="run the same command again, with a longer -C timeout_s=",
                )
            time.sleep(min(pause_s, self._deadline.left_s()))
            pause_s = min(pause_s * 1.5, _LONGEST_PAUSE_S)
        return found

    def put(self, wanted: ServerlessEndpoint, *, wait: bool = True) -> None:
        """Create or change an endpoint."""
        body = serverless_body(wanted, self._workspace.location)
        answer = self._send("PUT", wanted.name, body)
        if wait:
            self._finish(answer, wanted.name)

    def delete(self, name: str) -> None:
        """Delete an endpoint; one that is gone is no error."""
        answer = self._send("DELETE", name)
        if answer is not None:
            self._finish(answer, name)

    def get_key(self, name: str) -> str:
        """Return what the endpoint is called with: keep it in memory only."""
        answer = self._send("POST", f"{name}/listKeys")
        if answer is None:
            raise AzureError("PHI3-A711", "it was deleted meanwhile", where=f"endpoint {name}")
        return str(answer.json()["primaryKey"])

    def _send(self, method: str, path: str, body: Any = None) -> Any:
        """Send one request through the SDK's pipeline; None when the resource is not there."""
        address = f"{self._workspace.target.path}/serverlessEndpoints"
        url = (
            f"{address}/{path}?api-version={_VERSION}"
            if path
            else f"{address}?api-version={_VERSION}"
        )
        return self._request(method, url, path or "serverless endpoints", body)

    def _request(self, method: str, url: str, where: str, body: Any = None) -> Any:
        from azure.core.exceptions import HttpResponseError  # noqa: PLC0415 - loaded by now
        from azure.core.rest import HttpRequest  # noqa: PLC0415

        with self._workspace.session(f"endpoint {where}") as ml:
            generated = ml.serverless_endpoints._service_client  # noqa: SLF001 - see above
            pipeline, settings = generated._client, generated._config  # noqa: SLF001
            address = pipeline.format_url(url, endpoint=settings.base_url)
            request = (
                HttpRequest(method, address, json=body) if body else HttpRequest(method, address)
            )
            answer = pipeline.send_request(request)
            if answer.status_code == _NOT_FOUND:
                return None
            if answer.status_code >= 400:
                from azure.mgmt.core.exceptions import ARMErrorFormat  # noqa: PLC0415

                raise HttpResponseError(response=answer, error_format=ARMErrorFormat)
            return answer

    def _finish(self, begun: Any, name: str) -> None:
        """Poll the operation that an answer names until it has ended.

        Raises:
            AzureError: It failed.
            DeadlinePassed: Time is over.
        """
        headers = begun.headers
        url = headers.get("Azure-AsyncOperation") or headers.get("Location")
        pause_s = float(headers.get("retry-after-ms", 1000)) / 1000
        while url:
            if self._deadline.left_s() <= 0:
                raise DeadlinePassed(
                    "PHI3-A712",
                    f"not finished after {self._deadline.timeout_s:.0f} s; it goes on in Azure",
                    where=f"endpoint {name}",
                    fix="run the same command again to take it up, with a longer -C timeout_s=",
                )
            time.sleep(min(pause_s, self._deadline.left_s()))
            pause_s = min(pause_s * 1.5, _LONGEST_PAUSE_S)
            answer = self._request("GET", url, name)
            if answer is None or answer.status_code == 204:
                return
            state = answer.json().get("status") if answer.content else "InProgress"
            if state == "Succeeded":
                return
            if state in {"Failed", "Canceled"}:
                error = answer.json().get("error") or {}
                raise AzureError(
                    "PHI3-A713",
                    str(error.get("message") or f"the operation ended {state}").rstrip(". "),
                    where=f"endpoint {name}",
                    fix="change what the service names, then run it again",
                    azure_code=str(error.get("code") or ""),
                    request_id=str(answer.headers.get("x-ms-request-id", "")),
                )


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
