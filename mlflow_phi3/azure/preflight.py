"""What has to be there before a step can succeed, looked at before anything is spent."""

import datetime as dt
import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field

from mlflow_phi3.azure.blobs import open_container
from mlflow_phi3.azure.checks import (
    REMOTE,
    Check,
    Needs,
    check_clock,
    check_region,
    check_step,
    check_versions,
    cores_needed,
    untold_steps,
)
from mlflow_phi3.azure.client import Workspace
from mlflow_phi3.azure.names import region_name
from mlflow_phi3.azure.permissions import REGISTER, STEPS
from mlflow_phi3.azure.resource_manager import ResourceManager
from mlflow_phi3.azure.versions import (
    GROUPS,
    PERMISSIONS,
    QUOTAS,
    REGISTRATIONS,
    SUBSCRIPTIONS,
    WORKSPACES,
)
from mlflow_phi3.errors import AzureError

PROVIDERS: Mapping[str, tuple[str, ...]] = {
    "Microsoft.Network": ("infra", "deploy"),
    "Microsoft.MachineLearningServices": ("infra", "train", "deploy"),
    "Microsoft.CognitiveServices": ("infra",),
    "Microsoft.Storage": ("infra",),
    "Microsoft.KeyVault": ("infra",),
}
"""Resource providers that must be registered, and the steps that fail otherwise."""
_IN_PROJECT = tuple(step for step in STEPS if step != "infra")
"""Steps that need a project that is there."""


@dataclass(slots=True)
class Doctor:
    """Looks at one project.

    Args:
        account: Signed in, or about to.
        needs: What is wanted.
        now: This machine's clock.
        fix: Whether to mend what can be mended without spending anything.
    """

    account: Workspace
    needs: Needs
    now: Callable[[], dt.datetime]
    fix: bool = False
    _manager: ResourceManager = field(init=False)
    _subscribed: bool = False
    _location: str = ""
    _group_there: bool = False

    def __post_init__(self) -> None:
        self._manager = ResourceManager(self.account)

    def checks(self) -> Iterator[Check]:
        """Look, one thing after the other; what is told does not stop at the first failure."""
        yield from check_versions(self.needs)
        yield from self._check_subscription()
        yield self._guarded("resource group", REMOTE, self._check_group, needed=False)
        yield self._guarded("project", _IN_PROJECT, self._check_project)
        yield check_region(self.needs, self._location)
        yield from self._check_permissions()
        for namespace, steps in PROVIDERS.items():
            look = functools.partial(self._check_provider, namespace)
            yield self._guarded(f"provider {namespace}", steps, look, needed=False)
        yield self._guarded("quota", ("deploy",), self._check_quota, needed=False)
        yield self._guarded("storage", ("train", "deploy", "monitor"), self._check_storage)

    # each ----------------------------------------------------------------------------------

    def _check_subscription(self) -> Iterator[Check]:
        """Sign in, which the first call does, and look at subscription and clock."""
        target = self._manager.target
        name, needed = "subscription", "state Enabled, and you may see it"
        path = target.subscription_path
        listed = "az account list -o table lists yours; set AZURE_SUBSCRIPTION_ID to one of them"
        try:
            answer = self._manager.get(path, SUBSCRIPTIONS, where=path)
        except AzureError as refused:
            yield Check(name, "failed", refused.problem, needed, REMOTE, refused.fix or listed)
            return
        if answer is None:
            found = f"no subscription {target.subscription} in this tenant"
            yield Check(name, "failed", found, needed, REMOTE, listed)
            return
        state = str(answer.body.get("state") or "unknown")
        if state != "Enabled":
            mend = "ask its owner to enable it: portal, Subscriptions, Reactivate"
            yield Check(name, "failed", f"state {state}", needed, REMOTE, mend)
        else:
            self._subscribed = True
            yield Check(name, "ok", f"{answer.body.get('displayName')}, {state}", needed)
        yield check_clock(self.now(), answer.at)

    def _check_group(self) -> Check:
        target = self._manager.target
        needed = f"a resource group {target.group}"
        self._group_there = True  # so it is taken to be, where it may not be read
        where = f"resource group {target.group}"
        answer = self._manager.get(target.group_path, GROUPS, where=where)
        if answer is None:
            self._group_there = False
            mend = "mlflow-phi3 infra --location <region> creates it, with hub and project"
            found = "none of this name"
            return Check("resource group", "failed", found, needed, _IN_PROJECT, mend)
        return Check("resource group", "ok", f"in {answer.body.get('location')}", needed)

    def _check_project(self) -> Check:
        target = self._manager.target
        needed = f"a project {target.project}"
        answer = self._manager.get(target.path, WORKSPACES, where=target.path)
        if answer is None:
            mend = "mlflow-phi3 infra --location <region> creates it, with its hub"
            return Check("project", "failed", "none of this name", needed, _IN_PROJECT, mend)
        kind = str(answer.body.get("kind") or "Default")
        self._location = region_name(str(answer.body.get("location") or ""))
        if kind == "Hub":
            mend = "name a project of this hub, or create one by mlflow-phi3 infra --hub <this one>"
            return Check("project", "failed", "it is a hub", needed, _IN_PROJECT, mend)
        return Check("project", "ok", f"a {kind.lower()} in {self._location}", needed)

    def _check_permissions(self) -> Iterator[Check]:
        """One check a step: what it may not do, by the names of actions.

        A role may be given on the project alone: a resource group is what `infra` needs it on.
        """
        if not self._group_there:
            yield from untold_steps(STEPS, "no resource group to look at")
            return
        target = self._manager.target
        scope, place = target.group_path, f"resource group {target.group}"
        yield from self._check_steps(("infra",), scope, place)
        if self._location:
            scope, place = target.path, f"project {target.project}"
        yield from self._check_steps(_IN_PROJECT, scope, place)

    def _check_steps(self, steps: tuple[str, ...], scope: str, place: str) -> Iterator[Check]:
        path = f"{scope}/providers/Microsoft.Authorization/permissions"
        try:
            granted = self._manager.get_all(path, PERMISSIONS, where="permissions")
        except AzureError as refused:
            yield from untold_steps(steps, refused.problem, f"ask for Reader on {place}")
            return
        for step in steps:
            yield check_step(step, granted, place)

    def _check_provider(self, namespace: str) -> Check:
        steps = PROVIDERS[namespace]
        name, needed = f"provider {namespace}", "Registered"
        path = f"{self._manager.target.subscription_path}/providers/{namespace}"
        found = self._registration(path, name)
        if found == needed:
            return Check(name, "ok", found, needed)
        if not self.fix:
            mend = (
                f"mlflow-phi3 doctor --fix, or az provider register -n {namespace} "
                f"(needs {REGISTER.format(namespace=namespace)})"
            )
            return Check(name, "failed", found, needed, steps, mend)
        try:
            self._manager.post(f"{path}/register", REGISTRATIONS, where=name)
        except AzureError as refused:  # what --fix may not do is no fix
            return Check(name, "failed", f"{found}; {refused.problem}", needed, steps, refused.fix)
        found = self._registration(path, name)
        if found in {needed, "Registering"}:
            return Check(name, "fixed", f"{found}, now", needed)
        mend = f"look at it by az provider show -n {namespace}"
        return Check(name, "failed", f"{found}, also after registering it", needed, steps, mend)

    def _registration(self, path: str, name: str) -> str:
        answer = self._manager.get(path, REGISTRATIONS, where=name)
        return "no such provider" if answer is None else str(answer.body.get("registrationState"))

    def _check_quota(self) -> Check:
        needs = self.needs
        if not self._location:
            return Check("quota", "skipped", "no project to look at", needs.instance_type)
        place = (
            f"{self._manager.target.subscription_path}"
            f"/providers/Microsoft.MachineLearningServices/locations/{self._location}"
        )
        sizes = self._manager.get_all(f"{place}/vmSizes", QUOTAS, where="machine types")
        wanted = needs.instance_type.lower()
        size = next((one for one in sizes if str(one["name"]).lower() == wanted), None)
        if size is None:
            mend = f"az ml compute list-sizes -l {self._location} lists what there is"
            return Check(
                "quota",
                "failed",
                f"no {needs.instance_type} in {self._location}",
                "a machine type that the region has",
                ("deploy",),
                mend,
            )
        cores = cores_needed(needs.instance_type, int(size["vCPUs"]), needs.instance_count)
        family = str(size["family"])
        rows = self._manager.get_all(f"{place}/usages", QUOTAS, where="quota")
        row = next((r for r in rows if r["name"]["value"].lower() == family.lower()), None)
        left = int(row["limit"]) - int(row["currentValue"]) if row else 0
        needed = f"{cores} cores of {family} for {needs.instance_count} x {needs.instance_type}"
        found = f"{left} of {row['limit'] if row else 0} left in {self._location}"
        if left >= cores:
            return Check("quota", "ok", found, needed)
        mend = (
            f"ask for {cores - left} more cores of {family} (portal: the project's Quota page), "
            "or take a smaller --instance-type; a serverless endpoint needs none"
        )
        return Check("quota", "failed", found, needed, ("deploy",), mend)

    def _check_storage(self) -> Check:
        needed = "the project's default datastore answers"
        if not self._location:
            return Check("storage", "skipped", "no project to look at", needed)
        with self.account.session("storage") as ml, closing(open_container(ml)) as container:
            found = container.get_container_properties().name
        return Check("storage", "ok", f"container {found}", needed)

    def _guarded(
        self, name: str, steps: tuple[str, ...], look: Callable[[], Check], *, needed: bool = True
    ) -> Check:
        """Run a check; what the service answers instead of an answer is what was found.

        Args:
            name: What is looked at.
            steps: What cannot succeed without it.
            look: The check.
            needed: Whether a step needs to see it too; where none does, not being allowed to is no
                failure.
        """
        if not self._subscribed:
            return Check(name, "skipped", "no subscription to look at", "")
        try:
            return look()
        except AzureError as refused:
            denied = refused.azure_code == "AuthorizationFailed"
            if denied and not needed:
                return Check(name, "skipped", "you may not look at it", "no step needs to")
            storage = name == "storage" and not denied
            mend = _STORAGE_FIX if storage else refused.fix
            return Check(name, "failed", refused.problem, "an answer", steps, mend)


_STORAGE_FIX = (
    "check that the storage account allows your network (portal: its Networking page, add your "
    "address) and key access, or ask for Storage Blob Data Contributor on it"
)
