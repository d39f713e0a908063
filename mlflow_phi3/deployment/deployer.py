"""Deployment as a whole: from a model's name to an endpoint that answers, and all that follows."""

import contextlib
import datetime as dt
from collections.abc import Callable
from typing import Any

from mlflow_phi3.azure.assets import ModelAsset, name_asset, upload_model
from mlflow_phi3.azure.client import Workspace
from mlflow_phi3.azure.online import Deployment, OnlineService
from mlflow_phi3.azure.operation import Deadline
from mlflow_phi3.azure.portable import check_portable
from mlflow_phi3.config.deploy import DeployConfig
from mlflow_phi3.deployment.actions import PutDeployment, in_words
from mlflow_phi3.deployment.callers import Callers
from mlflow_phi3.deployment.examination import CERTIFICATE, Examination
from mlflow_phi3.deployment.names import Names
from mlflow_phi3.deployment.plan import (
    Current,
    Plan,
    Wanted,
    plan_deployment,
    plan_removal,
    without_idle,
)
from mlflow_phi3.deployment.promote import version_of
from mlflow_phi3.deployment.reap import Gone, find_expired, find_gone, let_expire, note_deleted
from mlflow_phi3.deployment.report import (
    describe,
    describe_plan,
    describe_removal,
    requests_of,
    upload_bar,
)
from mlflow_phi3.deployment.rollout import get_current, roll_out
from mlflow_phi3.deployment.safety import check_asks, missing_safety
from mlflow_phi3.deployment.serverless import (
    check_kind,
    check_splits,
    describe_serverless,
    find_mode,
)
from mlflow_phi3.deployment.serverless_deployer import ServerlessDeployer
from mlflow_phi3.deployment.wanted import (
    check_managed,
    deployed_tags,
    golden_queries,
    model_tags,
    to_changed,
    to_wanted,
)
from mlflow_phi3.errors import AzureError, Phi3Error, UsageError
from mlflow_phi3.files import folder_bytes
from mlflow_phi3.foundry.project import open_project
from mlflow_phi3.serving.certificate import ARTIFACT, Certificate
from mlflow_phi3.tracking.deployed import (
    DeployedModel,
    DeploymentRegistry,
    Version,
    find_version,
    opened_model,
)
from mlflow_phi3.tracking.tuned import TUNED_TAG

FLAVOR = "python_function"
_READ_TIMEOUT_S = 300.0


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
        self.serverless = ServerlessDeployer(self._open, self.callers, self.registry, told)

    # deployments ---------------------------------------------------------------------------

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
        service = self.service(config.timeout_s)
        if not model_uri:
            return self._change(names, config, service)
        version = find_version(model_uri)
        if find_mode(version.tags, config, model_uri) == "serverless":
            there = service.get_endpoint(names.endpoint) is not None
            check_kind(names.endpoint, "managed", there=there)
            tuned = version.tags[TUNED_TAG]
            return self.serverless.deploy(names, version, tuned, config, new=new)
        with opened_model(model_uri) as model:
            check_portable(model.mlmodel, where=model_uri)
            check_asks(model.mlmodel, config, where=model_uri)
            examination = self._examination(config, model.example, model.run_id)
            asset = name_asset(model.name or names.endpoint, model.version, model.folder)
            wanted = to_wanted(names, config, self._open().target, model, asset)
            current, plan = self._plan(wanted, service, config, new=new)
            puts = [action for action in plan.actions if isinstance(action, PutDeployment)]
            if puts and (warning := missing_safety(puts[0].deployment, model.mlmodel)):
                self._told(warning)
            if config.dry_run:
                return self._show(plan, service, asset, config.usd_per_hour)
            if puts:
                self._upload(model, asset)  # for minutes: another command may have been here
                current, plan = self._plan(wanted, service, config, new=new)
            found = self._run(plan, current, names, service, config, examination=examination)
            if not found["left"]:
                self.registry.tag(model, deployed_tags(found, self._open().target, asset, wanted))
            return found

    def examine(self, endpoint: str, config: DeployConfig, deployment: Deployment) -> None:
        """Ask a deployment what its version has to answer, as when it was made.

        Args:
            endpoint: Whose it is.
            config: Its ``verify``, ``golden`` and ``parity`` count.
            deployment: Which one.

        Raises:
            GateError: An answer is not as it has to be.
        """
        if config.verify:
            version = self.registry.find(*version_of(deployment))
            example = None if config.golden else self.registry.read_example(version)
            examination = self._examination(config, example, version.run_id)
            self.callers.examine(Names(endpoint, deployment.name), examination, self._told)

    def remove(self, names: Names, config: DeployConfig) -> None:
        """Delete a service, or one deployment of an endpoint; what is gone is no error.

        Raises:
            PreflightError: It is deleted, but the registry could not be told.
        """
        self._note(self._remove(names, config))

    def describe(self, names: Names) -> dict[str, Any]:
        """Return how a service or a deployment stands, without secrets.

        Raises:
            UsageError: There is none.
        """
        service = self.service(_READ_TIMEOUT_S)
        endpoint = service.get_endpoint(names.endpoint)
        if endpoint is None and not names.deployment:
            billed = self.serverless.service(_READ_TIMEOUT_S).get(names.endpoint)
            if billed is not None:
                return describe_serverless(billed)
        found = [] if endpoint is None else service.list_deployments(names.endpoint)
        if endpoint is None or (
            names.deployment and names.deployment not in {d.name for d in found}
        ):
            raise UsageError(
                "PHI3-U735",
                "there is no such deployment",
                where=names.given,
                fix=f"list them by mlflow deployments list -t {self._uri}",
            )
        return describe(Current(endpoint, tuple(found)), names.deployment, FLAVOR)

    def list_services(self) -> list[dict[str, Any]]:
        """Return all endpoints."""
        service = self.service(_READ_TIMEOUT_S)
        billed = self.serverless.service(_READ_TIMEOUT_S)
        return [
            describe(Current(e, tuple(service.list_deployments(e.name))), "", FLAVOR)
            for e in service.list_endpoints()
        ] + [describe_serverless(e) for e in billed.list_endpoints()]

    def list_deployments(self, endpoint: str) -> list[dict[str, Any]]:
        """Return the deployments of one endpoint."""
        service = self.service(_READ_TIMEOUT_S)
        found = service.get_endpoint(endpoint)
        deployments = tuple(service.list_deployments(endpoint)) if found else ()
        return [describe(Current(found, deployments), d.name, FLAVOR) for d in deployments]

    # clean-up ------------------------------------------------------------------------------

    def reap(self, now: dt.datetime, *, dry_run: bool, timeout_s: float) -> list[str]:
        """Delete the endpoints whose time is over; return their names.

        One that cannot be deleted does not keep the others alive, and what is only noted waits.
        One whose end is put off while it is waited for is left alone.

        Raises:
            AzureError: One or more could not be deleted; each was told.
            PreflightError: They are deleted, but the registry could not be told.
        """
        managed, billed = self.service(timeout_s), self.serverless.service(timeout_s)
        # By kind: elsewhere than here, one of each may have been given the same name.
        expired = [(e.name, self._reap) for e in find_expired(managed.list_endpoints(), now)]
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
        self._note(deleted)
        if failed:
            raise failed[0]
        return names

    def service(self, timeout_s: float) -> OnlineService:
        """Return the remote calls, which all together may wait so long."""
        return OnlineService(self._open(), Deadline(timeout_s))

    def movable(self, endpoint: str, timeout_s: float) -> OnlineService:
        """Return the remote calls, as :meth:`service`, for an endpoint whose traffic can be moved.

        Raises:
            UsageError: It is serverless.
        """
        service = self.service(timeout_s)
        if service.get_endpoint(endpoint) is None:
            check_splits(endpoint, self.serverless.service(timeout_s).get(endpoint))
        return service

    def check_free(self, endpoint: str, timeout_s: float) -> None:
        """Refuse a managed endpoint with the name of a serverless one.

        Raises:
            UsageError: There is one.
        """
        there = self.serverless.service(timeout_s).get(endpoint) is not None
        check_kind(endpoint, "serverless", there=there)

    # inner ---------------------------------------------------------------------------------

    def _remove(self, names: Names, config: DeployConfig) -> list[Gone]:
        """Delete; the versions that are gone by that."""
        service = self.service(config.timeout_s)
        current = get_current(service, names.endpoint)
        if current.endpoint is None:
            return self.serverless.remove(names, config)
        plan, left = Plan(names.endpoint, ()), []
        if names.deployment:
            plan = plan_removal(current, names.deployment)
            left = [d for d in current.deployments if d.name != names.deployment]
        if config.dry_run:
            self._told(describe_removal(names, current, plan))
            return []
        if not names.deployment:
            return self._delete(names.endpoint, current, service)
        roll_out(plan, service, lambda _endpoint, _name: None, told=self._told)
        return find_gone(names.endpoint, current.deployments, left)

    def _reap(self, name: str, now: dt.datetime, timeout_s: float) -> list[Gone] | None:
        """Delete an endpoint if its time is over once it is idle; None where it is not."""
        service = self.service(timeout_s)
        current = get_current(service, name)
        if current.endpoint is None or not find_expired([current.endpoint], now):
            return None
        return self._delete(name, current, service)

    def _delete(self, name: str, current: Current, service: OnlineService) -> list[Gone]:
        self._told(f"delete endpoint {name} with its deployments")
        service.delete_endpoint(name)
        self.callers.forget(name)
        return find_gone(name, current.deployments)

    def _note(self, gone: list[Gone]) -> None:
        if gone:
            note_deleted(gone, self._open().target.path, self.registry)

    def _plan(
        self, wanted: Wanted, service: OnlineService, config: DeployConfig, *, new: bool
    ) -> tuple[Current, Plan]:
        """Return what is there now, and how to get from it to what is wanted."""
        current = get_current(service, wanted.endpoint)
        if current.endpoint is None:
            self.check_free(wanted.endpoint, config.timeout_s)
        check_managed(current, wanted, new=new)
        return current, plan_deployment(current, wanted)

    def _change(self, names: Names, config: DeployConfig, service: OnlineService) -> dict[str, Any]:
        current = get_current(service, names.endpoint)
        if current.endpoint is None:
            billed = self.serverless.service(config.timeout_s).get(names.endpoint)
            if billed is not None:
                same = billed.model_id
                return self.serverless.deploy(names, Version(), same, config, new=False)
        examination = Examination(golden_queries(config, None))
        plan = plan_deployment(current, to_changed(names, config, current))
        if not (names.deployment or config.keep_previous):
            plan = without_idle(plan, current)
        if config.dry_run:
            return self._show(plan, service, None, config.usd_per_hour)
        return self._run(plan, current, names, service, config, examination=examination)

    def _run(
        self,
        plan: Plan,
        before: Current,
        names: Names,
        service: OnlineService,
        config: DeployConfig,
        *,
        examination: Examination,
    ) -> dict[str, Any]:
        def check(endpoint: str, name: str) -> None:
            self.callers.examine(Names(endpoint, name), examination, self._told)

        if not plan.actions:
            self._told("nothing to do: it is as wanted")
        elif config.ttl_hours is not None:  # or it could be reaped before it is there
            let_expire(names.endpoint, service, config.ttl_hours, only_later=True)
        try:
            outcome = roll_out(plan, service, check, told=self._told, wait=config.synchronous)
        except Exception:
            with contextlib.suppress(Phi3Error):  # the first error is the one to show
                self._note_replaced(before, service)
            raise
        self._note_replaced(before, service)
        if config.ttl_hours is not None:
            let_expire(names.endpoint, service, config.ttl_hours)
        left = [in_words(action) for action in outcome.left]
        for action in left:
            self._told(f"left for the same command run again: {action}")
        found = self.describe(names)
        return {**found, "name": names.given, "deployment": plan.deployment, "left": left}

    def _note_replaced(self, before: Current, service: OnlineService) -> None:
        """Tell the registry of the versions that a rollout has removed, come through or not."""
        if before.endpoint is not None and before.deployments:
            name = before.endpoint.name
            self._note(find_gone(name, before.deployments, service.list_deployments(name)))

    def _examination(self, config: DeployConfig, example: Any, run_id: str) -> Examination:
        """Return what a deployment of a model is asked."""

        def keep(certificate: Certificate) -> None:
            self.registry.write_json(run_id, certificate.to_json(), CERTIFICATE)

        return Examination(
            queries=golden_queries(config, example),
            registered=self.registry.read_json(run_id, ARTIFACT) if config.parity else None,
            keep=keep,
        )

    def _upload(self, model: DeployedModel, asset: ModelAsset) -> None:
        self._told(f"upload model {asset.name}:{asset.version}")
        with upload_bar(folder_bytes(model.folder)) as progress:
            sent = upload_model(
                self._open(), asset, model.folder, model_tags(model), progress=progress
            )
        if not sent:
            self._told("the same content is there already: nothing was sent")

    def _show(
        self,
        plan: Plan,
        service: OnlineService,
        asset: ModelAsset | None,
        usd_per_hour: float | None,
    ) -> dict[str, Any]:
        requests = requests_of(plan, self._open().target, asset, service)
        self._told(describe_plan(plan, requests, usd_per_hour=usd_per_hour))
        return {"name": f"{plan.deployment} (dry run)", "flavor": FLAVOR, "left": []}

    def _open(self) -> Workspace:
        if self._workspace is None:
            self._workspace = open_project(self._uri)
        return self._workspace
