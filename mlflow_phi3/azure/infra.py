"""Hub and project of Azure AI Foundry: looked at, and created where they are missing."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from mlflow_phi3.azure.client import Workspace, open_account
from mlflow_phi3.azure.infra_plan import AI_SEARCH, CurrentInfra, Step, own_hub
from mlflow_phi3.azure.infra_wanted import SKIP, WantedInfra
from mlflow_phi3.azure.operation import Deadline, finish
from mlflow_phi3.azure.resource_manager import LOST, ResourceManager, is_busy, state_of
from mlflow_phi3.azure.versions import ACCOUNTS, GROUPS, SUBSCRIPTIONS, WORKSPACES
from mlflow_phi3.errors import AzureError

_DENIED = 403


class Builder:
    """Looks at and creates hub and project.

    Args:
        account: Signed in; the project need not be there.
        deadline: What all waiting shares.
    """

    def __init__(self, account: Workspace, deadline: Deadline) -> None:
        self._account = account
        self._deadline = deadline
        self._manager = ResourceManager(account)

    def choose_hub(self, wanted: WantedInfra) -> WantedInfra:
        """Return what is wanted, with a hub: as told, else the project's own, else <project>-hub.

        Raises:
            AzureError: Refused, or no answer.
        """
        if wanted.hub:
            return wanted
        own = own_hub(self._get(wanted.target.path, WORKSPACES))
        if own is None:
            return replace(wanted, hub=f"{wanted.target.project}-hub")
        return replace(wanted, hub=own["name"], hub_group=own["group"])

    def look(self, wanted: WantedInfra) -> CurrentInfra:
        """Return what is there.

        Raises:
            AzureError: Refused, or no answer.
        """
        group = self._get(wanted.target.group_path, GROUPS)
        hub = self._get(wanted.hub_target.path, WORKSPACES)
        account = None
        if wanted.ai_services != SKIP:
            account = self._get(wanted.account_path, ACCOUNTS)
        if account is not None and state_of(account) in LOST:
            account = None  # another PUT makes it
        return CurrentInfra(
            group,
            hub,
            self._get(wanted.target.path, WORKSPACES),
            account,
            {} if hub is None else self._connections(wanted),
            self._locations(wanted) if wanted.location else (),
        )

    def await_idle(
        self, current: CurrentInfra, wanted: WantedInfra, tell: Callable[[str], None]
    ) -> CurrentInfra:
        """Return what is there once nothing of it is being made any more, by whomever.

        Raises:
            AzureError: Refused, or no answer.
            DeadlinePassed: Time is over.
        """
        busy = [
            (path, version)
            for found, path, version in (
                (current.account, wanted.account_path, ACCOUNTS),
                (current.hub, wanted.hub_target.path, WORKSPACES),
                (current.project, wanted.target.path, WORKSPACES),
            )
            if found is not None and is_busy(found)
        ]
        for path, version in busy:
            name = path.rsplit("/", 1)[1]
            tell(f"wait for {name}, which is being made")
            self._manager.await_idle(path, version, where=name, deadline=self._deadline)
        return self.look(wanted) if busy else current

    def build(
        self,
        steps: tuple[Step, ...],
        wanted: WantedInfra,
        location: str,
        tell: Callable[[str], None],
    ) -> None:
        """Create what a plan names; run again after a failure, it goes on where it stopped.

        Raises:
            AzureError: Refused, or it failed.
        """
        for step in steps:
            tell(str(step))
            match step.kind:
                case "resource group":
                    self._put(step, GROUPS, {"location": location})
                case "AI Services account":
                    body = {
                        "location": location,
                        "kind": "AIServices",
                        "sku": {"name": "S0"},
                        "identity": {"type": "SystemAssigned"},
                        "properties": {"customSubDomainName": step.name},
                    }
                    self._put(step, ACCOUNTS, body)
                case "hub" | "project":
                    self._create_workspace(step, wanted, location)
                case "connection":
                    self._connect(step, wanted)

    def _create_workspace(self, step: Step, wanted: WantedInfra, location: str) -> None:
        from azure.ai.ml.entities import Hub, Project

        made = (
            Hub(name=step.name, location=location)
            if step.kind == "hub"
            else Project(name=step.name, location=location, hub_id=wanted.hub_target.path)
        )
        where = f"{step.kind} {step.name}"
        with self._account.session(where) as ml:
            finish(ml.workspaces.begin_create(made), self._deadline, where=where)

    def _connect(self, step: Step, wanted: WantedInfra) -> None:
        from azure.ai.ml.entities import (
            AzureAISearchConnection,
            AzureAIServicesConnection,
        )

        hub = open_account(wanted.hub_target, self._account.environment)
        if step.name == AI_SEARCH:
            made: Any = AzureAISearchConnection(name=step.name, endpoint=wanted.search)
        else:
            account = self._get(wanted.account_path, ACCOUNTS) or {}
            made = AzureAIServicesConnection(
                name=step.name,
                endpoint=str((account.get("properties") or {}).get("endpoint") or ""),
                ai_services_resource_id=wanted.account_path,
            )
        with hub.session(f"connection {step.name}") as ml:
            ml.connections.create_or_update(made)

    def _locations(self, wanted: WantedInfra) -> tuple[str, ...]:
        """Names of the regions; none where they may not be read: Azure refuses a wrong one too."""
        path = f"{wanted.target.subscription_path}/locations"
        try:
            found = self._manager.get_all(path, SUBSCRIPTIONS, where="locations")
        except AzureError as refused:
            if refused.status != _DENIED:
                raise
            return ()
        return tuple(str(one["name"]).lower() for one in found)

    def _connections(self, wanted: WantedInfra) -> dict[str, str]:
        path = f"{wanted.hub_target.path}/connections"
        found = self._manager.get_all(path, WORKSPACES, where=f"connections of {wanted.hub}")
        return {str(one["name"]): _leads_to(one.get("properties") or {}) for one in found}

    def _get(self, path: str, version: str) -> Mapping[str, Any] | None:
        answer = self._manager.get(path, version, where=path.rsplit("/", 1)[1])
        return None if answer is None else answer.body

    def _put(self, step: Step, version: str, body: Mapping[str, Any]) -> None:
        where = f"{step.kind} {step.name}"
        self._manager.put(step.path, version, body, where=where, deadline=self._deadline)


def _leads_to(connection: Mapping[str, Any]) -> str:
    resource = (connection.get("metadata") or {}).get("ResourceId")
    return str(resource or connection.get("target") or "")
