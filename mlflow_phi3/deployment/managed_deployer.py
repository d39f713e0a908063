"""Managed deployment as a whole: from a model's files to machines that answer, and what follows."""

import contextlib
import datetime as dt
import shlex
from collections.abc import Callable
from functools import partial
from typing import Any

from mlflow_phi3.azure.assets import ModelAsset, name_asset, upload_model
from mlflow_phi3.azure.client import Workspace
from mlflow_phi3.azure.online import Deployment, OnlineService
from mlflow_phi3.azure.operation import CHANGING, READ_TIMEOUT_S, Deadline
from mlflow_phi3.config.deploy import DeployConfig
from mlflow_phi3.deployment.actions import PutDeployment, in_words
from mlflow_phi3.deployment.callers import Callers
from mlflow_phi3.deployment.examination import CERTIFICATE, Examination
from mlflow_phi3.deployment.mlmodel import check_portable
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
from mlflow_phi3.deployment.reap import (
    Gone,
    find_expired,
    find_gone,
    let_expire,
    note_deleted,
    note_replaced,
    put_off_end,
)
from mlflow_phi3.deployment.report import (
    FLAVOR,
    NOTHING_TO_DO,
    describe,
    describe_plan,
    describe_removal,
    requests_of,
    upload_bar,
)
from mlflow_phi3.deployment.rollout import get_current, roll_out
from mlflow_phi3.deployment.safety import check_asks, missing_safety
from mlflow_phi3.deployment.wanted import (
    check_managed,
    deployed_tags,
    golden_queries,
    model_tags,
    to_changed,
    to_wanted,
)
from mlflow_phi3.errors import Phi3Error, UsageError
from mlflow_phi3.files import folder_bytes
from mlflow_phi3.serving.certificate import ARTIFACT, Certificate
from mlflow_phi3.tracking.deployment_registry import DeploymentRegistry
from mlflow_phi3.tracking.model_files import OpenedModel, opened_model, read_example


class ManagedDeployer:
    """The managed endpoints of one target.

    Args:
        open_workspace: Opens the target, once.
        target_uri: For messages.
        callers: Ask endpoints.
        registry: Is told where versions run.
        told: Gets lines of progress.
        check_free: Refuses (endpoint, seconds) for a name that an endpoint of another kind has.
    """

    def __init__(
        self,
        open_workspace: Callable[[], Workspace],
        target_uri: str,
        callers: Callers,
        registry: DeploymentRegistry,
        told: Callable[[str], None],
        *,
        check_free: Callable[[str, float], None],
    ) -> None:
        self._open, self._callers, self._told = open_workspace, callers, told
        self._uri, self._check_free = target_uri, check_free
        self.registry = registry

    def service(self, timeout_s: float) -> OnlineService:
        """Return the remote calls, which all together may wait so long."""
        return OnlineService(self._open(), Deadline(timeout_s))

    def deploy(
        self, names: Names, model_uri: str, config: DeployConfig, *, new: bool
    ) -> dict[str, Any]:
        """Bring a model to where it is wanted.

        Args:
            names: Where.
            model_uri: Which model.
            config: How.
            new: True for ``create``, which does not touch what runs another model.

        Raises:
            Phi3Error: It cannot be done; what was made is taken back.
        """
        service = self.service(config.timeout_s)
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
            begun = any(isinstance(action, PutDeployment) for action in plan.actions)
            if config.synchronous or not begun:
                self.registry.tag(model, deployed_tags(found, self._open().target, asset, wanted))
                self._note_outdated(names.endpoint, service)
            return found

    def change(self, names: Names, config: DeployConfig) -> dict[str, Any]:
        """Change the settings of what is there; its model stays.

        Raises:
            Phi3Error: It cannot be done; what was made is taken back.
        """
        service = self.service(config.timeout_s)
        current = get_current(service, names.endpoint)
        wanted = to_changed(names, config, current)
        examination = Examination()
        if wanted.verify:
            examination = self._examination_of(current.find(wanted.deployment), config)
        plan = plan_deployment(current, wanted)
        if not (names.deployment or config.keep_previous):
            plan = without_idle(plan, current)
        if config.dry_run:
            return self._show(plan, service, None, config.usd_per_hour)
        return self._run(plan, current, names, service, config, examination=examination)

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
            examination = self._examination_of(deployment, config)
            self._callers.examine(Names(endpoint, deployment.name), examination, self._told)

    def remove(self, names: Names, config: DeployConfig) -> list[Gone]:
        """Delete an endpoint, or one deployment of it; the versions that are gone by that."""
        service = self.service(config.timeout_s)
        current = get_current(service, names.endpoint)
        plan = plan_removal(current, names.deployment)
        if config.dry_run:
            self._told(describe_removal(names, [in_words(action) for action in plan.actions]))
            return []
        return self._remove(names, plan, current, service)

    def reap(self, name: str, now: dt.datetime, timeout_s: float) -> list[Gone] | None:
        """Delete an endpoint if its time is over once it is idle; None where it is not."""
        service = self.service(timeout_s)
        current = get_current(service, name)
        if current.endpoint is None or not find_expired([current.endpoint], now):
            return None
        return self._remove(Names(name), plan_removal(current), current, service)

    def describe(self, names: Names) -> dict[str, Any]:
        """Return how an endpoint or a deployment of it stands, without secrets.

        Raises:
            UsageError: There is none.
        """
        service = self.service(READ_TIMEOUT_S)
        endpoint = service.get_endpoint(names.endpoint)
        found = [] if endpoint is None else service.list_deployments(names.endpoint)
        if endpoint is None or (
            names.deployment and names.deployment not in {d.name for d in found}
        ):
            raise UsageError(
                "PHI3-U735",
                "there is no such deployment",
                where=names.given,
                fix=f"list them by mlflow deployments list -t {shlex.quote(self._uri)}",
            )
        return describe(endpoint, found, names.deployment)

    def list_services(self) -> list[dict[str, Any]]:
        """Return how all endpoints stand."""
        service = self.service(READ_TIMEOUT_S)
        return [describe(e, service.list_deployments(e.name)) for e in service.list_endpoints()]

    def list_deployments(self, endpoint: str) -> list[dict[str, Any]]:
        """Return the deployments of one endpoint."""
        service = self.service(READ_TIMEOUT_S)
        found = service.get_endpoint(endpoint)
        if found is None:
            return []
        deployments = service.list_deployments(endpoint)
        return [describe(found, deployments, deployment.name) for deployment in deployments]

    # inner ---------------------------------------------------------------------------------

    def _plan(
        self, wanted: Wanted, service: OnlineService, config: DeployConfig, *, new: bool
    ) -> tuple[Current, Plan]:
        """Return what is there now, and how to get from it to what is wanted."""
        current = get_current(service, wanted.endpoint)
        if current.endpoint is None:
            self._check_free(wanted.endpoint, config.timeout_s)
        check_managed(current, wanted, new=new)
        return current, plan_deployment(current, wanted)

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
            self._callers.examine(Names(endpoint, name), examination, self._told)

        if not plan.actions:
            self._told(NOTHING_TO_DO)
        elif config.ttl_hours is not None:  # or it could be reaped before it is there
            put_off_end(names.endpoint, service, config.ttl_hours)
        try:
            rest = roll_out(plan, service, check, told=self._told, wait=config.synchronous)
        except Exception:
            with contextlib.suppress(Phi3Error):  # the first error is the one to show
                self._note_replaced(before, service)
            raise
        self._note_replaced(before, service)
        if config.ttl_hours is not None:
            let_expire(names.endpoint, service, config.ttl_hours)
        left = [in_words(action) for action in rest]
        for action in left:
            self._told(f"left for the same command run again: {action}")
        found = self.describe(names)
        return {**found, "name": names.given, "deployment": plan.deployment, "left": left}

    def _note_replaced(self, before: Current, service: OnlineService) -> None:
        """Tell the registry of the versions that a rollout has removed, come through or not."""
        if before.endpoint is not None and before.deployments:
            name = before.endpoint.name
            now = service.list_deployments(name)
            changing = {found.name for found in now if found.state in CHANGING}
            kept = [found for found in before.deployments if found.name in changing]
            gone = find_gone(name, before.deployments, [*now, *kept])
            note_deleted(gone, self._open().target.path, self.registry)

    def _note_outdated(self, endpoint: str, service: OnlineService) -> None:
        """Tell the registry of the versions that a command which did not wait has replaced."""
        list_running = partial(service.list_deployments, endpoint)
        note_replaced(endpoint, list_running, self._open().target.path, self.registry)

    def _remove(
        self, names: Names, plan: Plan, current: Current, service: OnlineService
    ) -> list[Gone]:
        roll_out(plan, service, lambda _endpoint, _name: None, told=self._told)
        left: list[Deployment] = []
        if names.deployment:
            left = [d for d in current.deployments if d.name != names.deployment]
        else:
            self._callers.forget(names.endpoint)
        return find_gone(names.endpoint, current.deployments, left)

    def _examination_of(self, deployment: Deployment | None, config: DeployConfig) -> Examination:
        """Return what a deployment that is there is asked: as when it was made."""
        version = self.registry.find(*version_of(deployment))
        example = None if config.golden else read_example(version)
        return self._examination(config, example, version.run_id)

    def _examination(self, config: DeployConfig, example: Any, run_id: str) -> Examination:
        """Return what a deployment of a model is asked."""

        def keep(certificate: Certificate) -> None:
            self.registry.write_json(run_id, certificate.to_json(), CERTIFICATE)

        return Examination(
            queries=golden_queries(config, example),
            registered=self.registry.read_json(run_id, ARTIFACT) if config.parity else None,
            keep=keep,
        )

    def _upload(self, model: OpenedModel, asset: ModelAsset) -> None:
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
        requests = requests_of(plan, asset, service)
        self._told(describe_plan(plan, requests, usd_per_hour=usd_per_hour))
        return {"name": f"{plan.deployment} (dry run)", "flavor": FLAVOR, "left": []}
