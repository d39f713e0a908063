"""Managed online endpoints and deployments, through the SDK."""

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from mlflow_phi3.azure.client import Workspace
from mlflow_phi3.azure.kept import (
    entities_of,
    kept_of_deployment,
    kept_of_endpoint,
    name_assets,
)
from mlflow_phi3.azure.operation import (
    CHANGING,
    Deadline,
    await_idle,
    beginning,
    finish,
    followed,
    state_of_deletion,
)

_READS_SECRETS = "enforce_access_to_default_secret_stores"
"""Property of an endpoint by which its identity may read the project's connections."""

_MODEL_FOLDER = "AZUREML_MODEL_DIR"
"""A variable that the service adds to its answers; with another model, it is another."""

TAG_LENGTH = 256
"""Characters of a tag's value, at most: the resource manager refuses more."""

_REQUEST_TIMEOUT_MS = 5000
"""What the service takes where nobody has set it (azure-ai-ml 1.35.2, OnlineRequestSettings)."""

_COLLECT_TAG = "phi3.collect_data"
"""Tag of a deployment that collects, ``true``: the SDK (azure-ai-ml 1.35.2) sends the mode of a
collection as ``enabled``, and reads it as off unless the service has made ``Enabled`` of it."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An endpoint as it is in Azure, or as it is wanted.

    Args:
        name: Unique in the region.
        state: ``Succeeded``, ``Creating``, ``Updating``, ``Failed`` ...; empty when wanted.
        scoring_uri: Where it is called; empty while it is being created.
        traffic: Percent by deployment, only those above 0.
        tags: Its tags.
        auth_mode: ``key``, ``aml_token`` or ``aad_token``.
        reads_secrets: Whether its deployments' variables may refer to the project's connections;
            settled at its creation.
        mirror: Percent of requests that are copied to a deployment whose answers nobody gets.
        kept: What else Azure has of it, by the SDK's names: it is sent back as it came, since a PUT
            without it takes it away.
    """

    name: str
    state: str = ""
    scoring_uri: str = ""
    traffic: Mapping[str, int] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    auth_mode: str = "key"
    reads_secrets: bool = False
    mirror: Mapping[str, int] = field(default_factory=dict)
    kept: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_made(self) -> bool:
        """Whether it has come to be: one whose creation failed has no address."""
        return bool(self.scoring_uri)


@dataclass(frozen=True, slots=True)
class Deployment:
    """A deployment as it is in Azure, or as it is wanted.

    Args:
        name: Unique in its endpoint.
        model: Resource id of the model version.
        instance_type: Machine type.
        instance_count: How many machines.
        tags: Its tags.
        variables: Environment variables of the scoring process.
        request_timeout_s: How long one request may take, seconds.
        collect_data: Whether Azure's data collector keeps requests and answers.
        kept: As of an endpoint.
        state: As of an endpoint.
    """

    name: str
    model: str
    instance_type: str
    instance_count: int
    tags: Mapping[str, str]
    variables: Mapping[str, str]
    request_timeout_s: int
    collect_data: bool
    kept: Mapping[str, Any]
    state: str = ""


class OnlineService:
    """All remote calls for endpoints and deployments of one project.

    Args:
        workspace: The open project.
        deadline: What all waiting shares.
    """

    def __init__(self, workspace: Workspace, deadline: Deadline) -> None:
        self._workspace = workspace
        self._deadline = deadline
        self.target = workspace.target

    def renewed(self) -> "OnlineService":
        """Return the same calls, with as much time again."""
        return OnlineService(self._workspace, Deadline(self._deadline.timeout_s))

    # reading -------------------------------------------------------------------------------

    def get_endpoint(self, name: str) -> Endpoint | None:
        """Return an endpoint, or None."""
        with self._workspace.session(f"endpoint {name}") as ml, _absent():
            return _to_endpoint(ml.online_endpoints.get(name))
        return None

    def list_endpoints(self) -> list[Endpoint]:
        """Return all endpoints of the project."""
        with self._workspace.session("endpoints") as ml:
            return [_to_endpoint(found) for found in ml.online_endpoints.list()]

    def list_deployments(self, endpoint: str) -> list[Deployment]:
        """Return the deployments of an endpoint; none when there is no endpoint."""
        with self._workspace.session(f"endpoint {endpoint}") as ml, _absent():
            return [_to_deployment(found) for found in ml.online_deployments.list(endpoint)]
        return []

    def get_key(self, endpoint: str) -> str:
        """Return what the endpoint is called with: keep it in memory, never write it anywhere."""
        with self._workspace.session(f"endpoint {endpoint}") as ml:
            keys = ml.online_endpoints.get_keys(endpoint)
            return str(getattr(keys, "primary_key", None) or keys.access_token)

    def get_logs(self, endpoint: str, name: str, lines: int) -> str:
        """Return the end of a deployment's container log; empty when there is none yet."""
        with self._workspace.session(f"deployment {endpoint}/{name}") as ml:
            return str(ml.online_deployments.get_logs(name, endpoint, lines))

    def await_idle(self, endpoint: str) -> None:
        """Wait until neither the endpoint nor a deployment of it is changing.

        Raises:
            DeadlinePassed: Time is over.
        """
        await_idle(lambda: self._busy(endpoint), self._deadline, where=f"endpoint {endpoint}")

    # writing -------------------------------------------------------------------------------

    def put_endpoint(self, endpoint: Endpoint) -> None:
        """Create or change an endpoint: all of its traffic, tags and authentication.

        Raises:
            Refused: It was not begun.
            AzureError: It failed, or nobody knows how far it came.
        """
        where, wanted = f"endpoint {endpoint.name}", _changed_by_put(endpoint)

        def state() -> str:
            found = self.get_endpoint(endpoint.name)
            return found.state if found and _changed_by_put(found) == wanted else ""

        with self._followed(endpoint.name, state, where):
            with beginning(), self._workspace.session(where) as ml:
                poller = ml.online_endpoints.begin_create_or_update(endpoint_entity(endpoint))
            with self._workspace.session(where):
                finish(poller, self._deadline, where=where)

    def delete_endpoint(self, name: str) -> None:
        """Delete an endpoint and its deployments; one that is gone is no error."""
        where = f"endpoint {name}"

        def state() -> str:
            return state_of_deletion(self.get_endpoint(name))

        with (
            self._followed(name, state, where),
            self._workspace.session(where) as ml,
            _absent(),
        ):
            finish(ml.online_endpoints.begin_delete(name), self._deadline, where=where)

    def put_deployment(self, endpoint: str, deployment: Deployment) -> None:
        """Create or change a deployment.

        Raises:
            Refused: It was not begun.
            AzureError: It failed, or nobody knows how far it came.
        """
        where, wanted = f"deployment {endpoint}/{deployment.name}", replace(deployment, state="")

        def state() -> str:
            found = self._find_deployment(endpoint, deployment.name)
            return found.state if found and replace(found, state="") == wanted else ""

        with self._followed(endpoint, state, where):
            operation = self.begin_deployment(endpoint, deployment)
            with self._workspace.session(where):
                finish(operation, self._deadline, where=where)

    def begin_deployment(self, endpoint: str, deployment: Deployment) -> Any:
        """Begin to create or change a deployment; return the SDK's operation.

        Raises:
            Refused: It was not begun.
        """
        where = f"deployment {endpoint}/{deployment.name}"
        with beginning(), self._workspace.session(where) as ml:
            entity = deployment_entity(endpoint, deployment)
            name_assets(entity)
            return ml.online_deployments.begin_create_or_update(entity)

    def delete_deployment(self, endpoint: str, name: str) -> None:
        """Delete a deployment, and end its copies of requests; one that is gone is no error."""
        known = self.get_endpoint(endpoint)
        if known is not None and known.mirror.get(name):
            self.put_endpoint(replace(known, mirror={}))
        where = f"deployment {endpoint}/{name}"

        def state() -> str:
            return state_of_deletion(self._find_deployment(endpoint, name))

        with (
            self._followed(endpoint, state, where),
            self._workspace.session(where) as ml,
            _absent(),
        ):
            poller = ml.online_deployments.begin_delete(name, endpoint)
            finish(poller, self._deadline, where=where)

    # showing -------------------------------------------------------------------------------

    def body_of(self, wanted: Endpoint | Deployment, endpoint: str = "") -> dict[str, Any]:
        """Return exactly what a PUT would send, for a dry run."""
        with self._workspace.session("request"):
            if isinstance(wanted, Endpoint):
                rest = endpoint_entity(wanted)._to_rest_online_endpoint(  # noqa: SLF001 - as the SDK
                    location=self._workspace.location
                )
            else:
                entity = deployment_entity(endpoint, wanted)
                rest = entity._to_rest_object(location=self._workspace.location)  # noqa: SLF001 - the body that the SDK would send
            # The SDK has two generations of models, and sends them so.
            if hasattr(rest, "serialize"):
                return dict(rest.serialize())
            return dict(rest.as_dict(exclude_readonly=True))

    def _followed(
        self, endpoint: str, state: Callable[[], str], where: str
    ) -> contextlib.AbstractContextManager[None]:
        return followed(state, lambda: self.await_idle(endpoint), where=where)

    def _find_deployment(self, endpoint: str, name: str) -> Deployment | None:
        return next((d for d in self.list_deployments(endpoint) if d.name == name), None)

    def _busy(self, endpoint: str) -> str:
        found = self.get_endpoint(endpoint)
        if found is None:
            return ""
        things: list[Endpoint | Deployment] = [found, *self.list_deployments(endpoint)]
        for thing in things:
            if thing.state in CHANGING:
                return f"{thing.name} ({thing.state})"
        return ""


def endpoint_entity(endpoint: Endpoint) -> Any:
    """Return the SDK's object; fresh, as one read before would echo read-only properties."""
    from azure.ai.ml.entities import ManagedOnlineEndpoint

    return ManagedOnlineEndpoint(
        name=endpoint.name,
        auth_mode=endpoint.auth_mode,
        traffic=dict(endpoint.traffic),
        mirror_traffic=_copies(endpoint),
        tags=dict(endpoint.tags),
        properties={_READS_SECRETS: "enabled"} if endpoint.reads_secrets else {},
        **endpoint.kept,
    )


def deployment_entity(endpoint: str, deployment: Deployment) -> Any:
    """Return the SDK's object."""
    from azure.ai.ml.entities import ManagedOnlineDeployment

    return ManagedOnlineDeployment(
        name=deployment.name,
        endpoint_name=endpoint,
        model=deployment.model,
        instance_type=deployment.instance_type,
        instance_count=deployment.instance_count,
        tags={**deployment.tags, **({_COLLECT_TAG: "true"} if deployment.collect_data else {})},
        environment_variables=dict(deployment.variables),
        **entities_of(
            deployment.kept,
            request_timeout_s=deployment.request_timeout_s,
            collects=deployment.collect_data,
        ),
    )


def _copies(endpoint: Endpoint) -> dict[str, int]:
    """Return its mirrored traffic: what gets requests itself cannot get copies of them too."""
    return {n: share for n, share in endpoint.mirror.items() if not endpoint.traffic.get(n)}


def _changed_by_put(endpoint: Endpoint) -> tuple[dict[str, int], dict[str, int], dict[str, str]]:
    """Return what our changes of an endpoint change, by which one is recognised."""
    return dict(endpoint.traffic), _copies(endpoint), dict(endpoint.tags)


def _absent() -> contextlib.suppress:
    """What is not there is None, not an error."""
    from azure.core.exceptions import ResourceNotFoundError

    return contextlib.suppress(ResourceNotFoundError)


def _to_endpoint(found: Any) -> Endpoint:
    return Endpoint(
        name=str(found.name),
        state=_state(found),
        scoring_uri=str(found.scoring_uri or ""),
        traffic={str(k): int(v) for k, v in (found.traffic or {}).items() if int(v)},
        tags={str(k): str(v) for k, v in (found.tags or {}).items()},
        auth_mode=str(found.auth_mode or "key").lower(),
        reads_secrets=(found.properties or {}).get(_READS_SECRETS) == "enabled",
        mirror={str(k): int(v) for k, v in (found.mirror_traffic or {}).items() if int(v)},
        kept=kept_of_endpoint(found),
    )


def _to_deployment(found: Any) -> Deployment:
    timeout_ms = getattr(found.request_settings, "request_timeout_ms", None)
    tags = {str(k): str(v) for k, v in (found.tags or {}).items()}
    tagged = tags.pop(_COLLECT_TAG, "") == "true"
    collections = found.data_collector.collections if found.data_collector else {}
    collects = any(tagged or one.enabled == "true" for one in collections.values())
    variables = {str(k): str(v) for k, v in (found.environment_variables or {}).items()}
    variables.pop(_MODEL_FOLDER, None)
    return Deployment(
        name=str(found.name),
        model=str(found.model or ""),
        instance_type=str(found.instance_type or ""),
        instance_count=int(found.instance_count or 1),
        tags=tags,
        variables=variables,
        request_timeout_s=int(timeout_ms or _REQUEST_TIMEOUT_MS) // 1000,
        collect_data=collects,
        state=_state(found),
        kept=kept_of_deployment(found, collects=collects),
    )


def _state(found: Any) -> str:
    return str(getattr(found.provisioning_state, "value", found.provisioning_state) or "")
