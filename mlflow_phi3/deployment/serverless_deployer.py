"""Serverless deployment as a whole: one tuned model, billed by the token, and what follows."""

import datetime as dt
from collections.abc import Callable
from typing import Any

from mlflow_phi3.azure.client import Workspace
from mlflow_phi3.azure.operation import READ_TIMEOUT_S, Deadline
from mlflow_phi3.azure.serverless import ServerlessEndpoint, ServerlessService, serverless_body
from mlflow_phi3.config.deploy import DeployConfig
from mlflow_phi3.deployment.callers import Callers
from mlflow_phi3.deployment.examination import HELLO, Examination
from mlflow_phi3.deployment.names import Names
from mlflow_phi3.deployment.reap import Gone, find_expired, find_gone, note_replaced
from mlflow_phi3.deployment.report import describe_removal
from mlflow_phi3.deployment.serverless import (
    FLAVOR,
    check_whole,
    deploy_serverless,
    describe_serverless,
    describe_serverless_plan,
    plan_serverless,
    to_serverless,
)
from mlflow_phi3.deployment.wanted import check_purpose, golden_queries
from mlflow_phi3.tracking.deployment_registry import DeploymentRegistry
from mlflow_phi3.tracking.tags import MODEL_TAG, VERSION_TAG, place_tags
from mlflow_phi3.tracking.versions import Version


class ServerlessDeployer:
    """The serverless endpoints of one target.

    Args:
        open_workspace: Opens the target, once.
        callers: Ask endpoints.
        registry: Is told where versions run.
        told: Gets lines of progress.
    """

    def __init__(
        self,
        open_workspace: Callable[[], Workspace],
        callers: Callers,
        registry: DeploymentRegistry,
        told: Callable[[str], None],
    ) -> None:
        self._open, self._callers, self._told = open_workspace, callers, told
        self.registry = registry

    def service(self, timeout_s: float) -> ServerlessService:
        """Return the remote calls, which all together may wait so long."""
        return ServerlessService(self._open(), Deadline(timeout_s))

    def deploy(
        self, names: Names, version: Version, model_id: str, config: DeployConfig, *, new: bool
    ) -> dict[str, Any]:
        """Bring a tuned model to where it is wanted, or change the settings of what is there.

        Args:
            names: Where.
            version: The model's version in MLflow; an empty one when only settings are changed.
            model_id: The model in Azure.
            config: How.
            new: True for ``create``, which does not touch what runs another model.

        Raises:
            Phi3Error: It cannot be done; what was made is taken back.
        """
        check_whole(names)
        examination = Examination(golden_queries(config, None) or (HELLO,))
        service, endpoint = self.service(config.timeout_s), names.endpoint
        known = service.await_idle(endpoint)
        where, running = f"serverless endpoint {endpoint}", [known.model_id] if known else []
        check_purpose(where, running, model_id, exists=known is not None, new=new)
        tags = {MODEL_TAG: version.name, VERSION_TAG: version.version} if version.name else {}
        asked = ServerlessEndpoint(endpoint, model_id, tags=tags)
        wanted = to_serverless(asked, config, known, now=dt.datetime.now(dt.UTC))
        if config.dry_run:
            base = version.tags.get("phi3.base_model", "")
            self._show(wanted, known, usd_per_hour=config.usd_per_hour, base=base)
            return {"name": f"{endpoint} (dry run)", "flavor": FLAVOR, "left": []}

        def check() -> None:
            if config.verify:
                self._told(f"check the answers of {endpoint}")
                self._callers.examine(names, examination, self._told)

        found = deploy_serverless(
            service, wanted, known, check, wait=config.synchronous, told=self._told
        )
        if version.name and not found["left"]:
            target = self._open().target.path
            note_replaced(endpoint, lambda: [wanted], target, self.registry)
            tags = place_tags(found, target)
            self.registry.tag_version(version.name, version.version, tags)
        return found

    def remove(self, names: Names, config: DeployConfig) -> list[Gone]:
        """Delete an endpoint, if there is one; the version that is gone by that."""
        service, endpoint = self.service(config.timeout_s), names.endpoint
        known = None if names.deployment else service.await_idle(endpoint)
        if config.dry_run:
            steps = [f"delete serverless endpoint {endpoint}"] if known else []
            self._told(describe_removal(names, steps))
        if config.dry_run or names.deployment:
            return []
        return self._delete(endpoint, known, service)

    def reap(self, name: str, now: dt.datetime, timeout_s: float) -> list[Gone] | None:
        """Delete an endpoint if its time is over once it is idle; None where it is not."""
        service = self.service(timeout_s)
        known = service.await_idle(name)
        if known is None or not find_expired([known], now):
            return None
        return self._delete(name, known, service)

    def list_services(self) -> list[dict[str, Any]]:
        """Return how all endpoints stand."""
        return [
            describe_serverless(found) for found in self.service(READ_TIMEOUT_S).list_endpoints()
        ]

    def _show(
        self,
        wanted: ServerlessEndpoint,
        known: ServerlessEndpoint | None,
        *,
        usd_per_hour: float | None,
        base: str,
    ) -> None:
        workspace, action = self._open(), plan_serverless(wanted, known)
        path = f"{workspace.target.path}/serverlessEndpoints/{wanted.name}"
        request = (f"PUT {path}", serverless_body(wanted, workspace.location))
        plan = describe_serverless_plan(action, request, usd_per_hour=usd_per_hour, base=base)
        self._told(plan)

    def _delete(
        self, name: str, known: ServerlessEndpoint | None, service: ServerlessService
    ) -> list[Gone]:
        self._callers.forget(name)
        service.delete(name)
        return find_gone(name, [known] if known else [])
