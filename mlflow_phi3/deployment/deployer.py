"""Deployment as a whole: which kind of endpoint is meant, and what is done with both kinds."""

import datetime as dt
from collections.abc import Callable, Sequence
from typing import Any

from mlflow_phi3.azure.client import Workspace
from mlflow_phi3.azure.online import OnlineService
from mlflow_phi3.azure.operation import READ_TIMEOUT_S
from mlflow_phi3.azure.serverless import ServerlessEndpoint
from mlflow_phi3.config.deploy import DeployConfig
from mlflow_phi3.deployment.callers import Callers
from mlflow_phi3.deployment.managed_deployer import ManagedDeployer
from mlflow_phi3.deployment.names import Names
from mlflow_phi3.deployment.reap import Gone, find_expired, note_deleted, note_replaced
from mlflow_phi3.deployment.serverless import (
    check_splits,
    describe_serverless,
    find_mode,
    name_taken,
)
from mlflow_phi3.deployment.serverless_deployer import ServerlessDeployer
from mlflow_phi3.errors import AzureError
from mlflow_phi3.foundry.project import open_project
from mlflow_phi3.tracking.deployment_registry import DeploymentRegistry
from mlflow_phi3.tracking.tags import TUNED_TAG
from mlflow_phi3.tracking.versions import Version, find_version


class Deployer:
    """One target and what can be done with it.

    Args:
        target_uri: As MLflow's ``--target``.
        told: Gets lines of progress.
    """

    def __init__(self, target_uri: str, *, told: Callable[[str], None]) -> None:
        self._uri = target_uri
        self._told = told
        self._workspace: Workspace | None = None
        self.callers = Callers(self._open, target_uri)
        self.registry = DeploymentRegistry()
        self.managed = ManagedDeployer(
            self._open, target_uri, self.callers, self.registry, told, check_free=self.check_free
        )
        self.serverless = ServerlessDeployer(self._open, self.callers, self.registry, told)

    def deploy(
        self, names: Names, model_uri: str, config: DeployConfig, *, new: bool
    ) -> dict[str, Any]:
        """Bring a model to where it is wanted.

        Args:
            names: Where.
            model_uri: Which model; empty changes only settings.
            config: How.
            new: True for ``create``, which does not touch what runs another model.

        Raises:
            Phi3Error: It cannot be done; what was made is taken back.
        """
        if not model_uri:
            billed = self._find_billed(names.endpoint, config.timeout_s)
            if billed is None:
                return self.managed.change(names, config)
            same = billed.model_id
            return self.serverless.deploy(names, Version(), same, config, new=False)
        version = find_version(model_uri)
        if find_mode(version.tags, config, model_uri) == "managed":
            return self.managed.deploy(names, model_uri, config, new=new)
        if self.managed.service(config.timeout_s).get_endpoint(names.endpoint) is not None:
            raise name_taken(names.endpoint, "managed")
        return self.serverless.deploy(names, version, version.tags[TUNED_TAG], config, new=new)

    def remove(self, names: Names, config: DeployConfig) -> None:
        """Delete a service, or one deployment of an endpoint; what is gone is no error.

        Raises:
            PreflightError: It is deleted, but the registry could not be told.
        """
        billed = self._find_billed(names.endpoint, config.timeout_s)
        deployer = self.managed if billed is None else self.serverless
        gone = deployer.remove(names, config)
        self._note(gone, [] if names.deployment or config.dry_run else [names.endpoint])

    def describe(self, names: Names) -> dict[str, Any]:
        """Return how a service or a deployment stands, without secrets.

        Raises:
            UsageError: There is none.
        """
        billed = None if names.deployment else self._find_billed(names.endpoint, READ_TIMEOUT_S)
        return self.managed.describe(names) if billed is None else describe_serverless(billed)

    def list_services(self) -> list[dict[str, Any]]:
        """Return how all endpoints stand."""
        return [*self.managed.list_services(), *self.serverless.list_services()]

    def reap(self, now: dt.datetime, *, dry_run: bool, timeout_s: float) -> list[str]:
        """Delete the endpoints whose time is over; return their names.

        One that cannot be deleted does not keep the others alive, and what is only noted waits.
        One whose end is put off while it is waited for is left alone.

        Raises:
            AzureError: One or more could not be deleted; each was told.
            PreflightError: They are deleted, but the registry could not be told.
        """
        managed = self.managed.service(timeout_s)
        billed = self.serverless.service(timeout_s)
        # By kind: elsewhere than here, one of each may have been given the same name.
        expired = [(e.name, self.managed.reap) for e in find_expired(managed.list_endpoints(), now)]
        over = find_expired(billed.list_endpoints(), now)
        expired += [(e.name, self.serverless.reap) for e in over]
        if dry_run:
            return [name for name, _ in expired]
        names: list[str] = []
        deleted: list[Gone] = []
        failed: list[AzureError] = []
        for name, reap in expired:
            try:
                gone = reap(name, now, timeout_s)
            except AzureError as error:
                self._told(str(error))
                failed.append(error)
                continue
            if gone is None:
                self._told(f"endpoint {name} is left: its end was put off, or it is gone by now")
            else:
                names.append(name)
                deleted += gone
        self._note(deleted, names)
        if failed:
            raise failed[0]
        return names

    def movable(self, endpoint: str, timeout_s: float) -> OnlineService:
        """Return the remote calls for an endpoint whose traffic can be moved.

        Raises:
            UsageError: It is serverless.
        """
        check_splits(endpoint, self._find_billed(endpoint, timeout_s))
        return self.managed.service(timeout_s)

    def check_free(self, endpoint: str, timeout_s: float) -> None:
        """Refuse a managed endpoint with the name of a serverless one.

        Raises:
            UsageError: There is one.
        """
        if self.serverless.service(timeout_s).get(endpoint) is not None:
            raise name_taken(endpoint, "serverless")

    def _find_billed(self, endpoint: str, timeout_s: float) -> ServerlessEndpoint | None:
        """Return the serverless endpoint of a name, unless a managed one has it."""
        if self.managed.service(timeout_s).get_endpoint(endpoint) is not None:
            return None
        return self.serverless.service(timeout_s).get(endpoint)

    def _note(self, gone: list[Gone], endpoints: Sequence[str]) -> None:
        """Tell the registry what runs no more, and that nothing does at ``endpoints``.

        There a version may be noted that one which never came to run has replaced.
        """
        target = self._open().target.path
        note_deleted(gone, target, self.registry)
        for endpoint in endpoints:
            note_replaced(endpoint, list, target, self.registry)

    def _open(self) -> Workspace:
        if self._workspace is None:
            self._workspace = open_project(self._uri)
        return self._workspace
