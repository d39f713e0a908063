"""Asking endpoints: one client each, found by name, of whichever kind the endpoint is."""

import shlex
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

from mlflow_phi3.azure.client import Workspace
from mlflow_phi3.azure.online import OnlineService
from mlflow_phi3.azure.operation import READ_TIMEOUT_S, Deadline
from mlflow_phi3.azure.payload import alike, joined, to_chat, to_request
from mlflow_phi3.azure.scoring import ScoringClient
from mlflow_phi3.azure.serverless import CHAT, ServerlessService
from mlflow_phi3.deployment.examination import Examination, examine
from mlflow_phi3.deployment.names import Names
from mlflow_phi3.errors import AzureError, UsageError

_UNAUTHORIZED = 401


class Callers:
    """Clients of a project's endpoints; keys stay in here.

    Args:
        open_workspace: Returns the open project.
        target_uri: For messages.
    """

    def __init__(self, open_workspace: Callable[[], Workspace], target_uri: str) -> None:
        self._open = open_workspace
        self._uri = target_uri
        self._clients: dict[str, ScoringClient] = {}
        self._connecting = threading.Lock()

    def predict(self, names: Names, inputs: Any) -> dict[str, Any]:
        """Ask an endpoint (by its traffic) or one deployment of it.

        A key that was changed, or a token that is over, is replaced once by the one of now.
        """
        try:
            return self._predict(names, inputs)
        except AzureError as refused:
            if refused.status != _UNAUTHORIZED:
                raise
        return self._predict(names, inputs)

    def predict_stream(self, names: Names, inputs: Any) -> Iterator[dict[str, Any]]:
        """Yield a chat's answer in parts.

        Managed no-code deployments answer whole: they yield one part, in a stream's shape.
        """
        client = self.find(names.endpoint)
        if client.by_token:
            with self._forgetting(names.endpoint, client):
                yield from client.stream(to_chat(inputs), path=CHAT)
            return
        answer = self.predict(names, inputs)
        yield _as_chunk(answer) if answer.get("choices") else answer

    def examine(self, names: Names, examination: Examination, told: Callable[[str], None]) -> None:
        """Ask one deployment what it has to answer.

        Raises:
            GateError: An answer is not as it has to be.
        """
        where = f"deployment {names.endpoint}/{names.given}"
        examine(examination, partial(self.predict, names), where=where, told=told)

    def find(self, endpoint: str) -> ScoringClient:
        """Return the client of an endpoint.

        Raises:
            UsageError: There is no such endpoint, or it cannot be called yet.
        """
        with self._connecting:  # threads that share a new client ask for one key
            if endpoint not in self._clients:
                self._clients[endpoint] = self._connect(endpoint)
            return self._clients[endpoint]

    def forget(self, endpoint: str) -> None:
        """Give an endpoint's client up: it is gone, and one of the same name has other keys."""
        self._clients.pop(endpoint, None)

    def _predict(self, names: Names, inputs: Any) -> dict[str, Any]:
        client = self.find(names.endpoint)
        with self._forgetting(names.endpoint, client):
            if client.by_token:
                return dict(client.ask(to_chat(inputs), path=CHAT))
            return joined(
                [
                    (positions, client.ask(part, deployment=names.deployment))
                    for positions, part in alike(to_request(inputs))
                ]
            )

    @contextmanager
    def _forgetting(self, endpoint: str, client: ScoringClient) -> Iterator[None]:
        """Forget a client whose key is refused: the next call fetches the one that there is."""
        try:
            yield
        except AzureError as refused:
            # Another thread may have been refused too, and have fetched it already.
            if refused.status == _UNAUTHORIZED and self._clients.get(endpoint) is client:
                self.forget(endpoint)
            raise

    def _connect(self, endpoint: str) -> ScoringClient:
        workspace, deadline = self._open(), Deadline(READ_TIMEOUT_S)
        online = OnlineService(workspace, deadline)
        managed = online.get_endpoint(endpoint)
        if managed is not None and managed.scoring_uri:
            return ScoringClient(managed.scoring_uri, online.get_key(endpoint), workspace.trust())
        serverless = ServerlessService(workspace, deadline)
        billed = None if managed is not None else serverless.get(endpoint)
        if billed is not None and billed.uri:
            key = serverless.get_key(endpoint)
            return ScoringClient(billed.uri, key, workspace.trust(), by_token=True)
        raise UsageError(
            "PHI3-U737",
            "there is no such endpoint, or it is still being created",
            where=f"endpoint {endpoint}",
            fix=f"list them by mlflow deployments list -t {shlex.quote(self._uri)}",
        )


def _as_chunk(answer: Mapping[str, Any]) -> dict[str, Any]:
    parts = [
        {
            "index": choice.get("index", number),
            "delta": choice.get("message", {}),
            "finish_reason": choice.get("finish_reason"),
        }
        for number, choice in enumerate(answer["choices"])
    ]
    return {**answer, "object": "chat.completion.chunk", "choices": parts}
