"""What has to be there before a step can succeed, looked at before anything is spent."""

import datetime as dt
import functools
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from mlflow_phi3.azure.blobs import open_container
from mlflow_phi3.azure.client import Workspace
from mlflow_phi3.azure.manager import ResourceManager
from mlflow_phi3.azure.permissions import REGISTER, STEPS, missing_actions
from mlflow_phi3.errors import AzureError

State = Literal["ok", "failed", "fixed", "skipped"]

PROVIDERS: Mapping[str, tuple[str, ...]] = {
    "Microsoft.Network": ("infra", "deploy"),
    "Microsoft.MachineLearningServices": ("infra", "train", "deploy"),
    "Microsoft.CognitiveServices": ("infra",),
    "Microsoft.Storage": ("infra",),
    "Microsoft.KeyVault": ("infra",),
}
"""Resource providers that must be registered, and the steps that fail otherwise."""
_ALL_STEPS = tuple(STEPS)
_REMOTE = ("infra", "train", "deploy", "monitor", "delete")
_SKEW_S = 300.0
"""Sign-in refuses tokens that are older or newer than its clock by more (Entra: five minutes)."""
_EXEMPT = re.compile(r"Standard_(NC\d+ads_A100_v4|ND96a\w+|ND40rs_v2)", re.IGNORECASE)
_RESERVE = 1.2
"""Managed endpoints need a fifth more quota for upgrades, but for large GPU machines.

Source: "Manage resources and quotas: virtual machine quota allocation for deployment" (2025-12).
"""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at.

    Args:
        name: What.
        state: ``ok``, ``failed``, ``fixed``, or ``skipped`` when an earlier one made it pointless.
        found: What is there.
        needed: What has to be there.
        blocks: Which of our steps cannot succeed without it.
        fix: The mend; empty unless it failed.
    """

    name: str
    state: State
    found: str
    needed: str
    blocks: tuple[str, ...] = ()
    fix: str = ""


@dataclass(frozen=True, slots=True)
class Needs:
    """What the person wants to do.

    Args:
        model: The model to be tuned.
        regions: Where Foundry tunes it.
        regions_as_of: Who says so, and of when.
        refusal: Why Foundry does not tune it at all; empty where it does.
        instead: What to do then.
        instance_type: Machine type to be deployed on.
        instance_count: How many.
        versions: Installed version by package; empty text where it is not installed.
        wanted_versions: Least version by package.
    """

    model: str
    regions: tuple[str, ...]
    refusal: str
    instead: str
    instance_type: str
    instance_count: int
    versions: Mapping[str, str] = field(default_factory=dict)
    wanted_versions: Mapping[str, str] = field(default_factory=dict)
    regions_as_of: str = ""


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
        yield self._guarded("resource group", _REMOTE, self._check_group, needed=False)
        yield self._guarded("project", ("train", "deploy", "monitor"), self._check_project)
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
        path = f"/subscriptions/{target.subscription}"
        listed = "az account list -o table lists yours; set AZURE_SUBSCRIPTION_ID to one of them"
        try:
            answer = self._manager.get(path, "2022-12-01", where=path)
        except AzureError as refused:
            yield Check(name, "failed", refused.problem, needed, _REMOTE, refused.fix or listed)
            return
        if answer is None:
            found = f"no subscription {target.subscription} in this tenant"
            yield Check(name, "failed", found, needed, _REMOTE, listed)
            return
        state = str(answer.body.get("state") or "unknown")
        if state != "Enabled":
            mend = "ask its owner to enable it: portal, Subscriptions, Reactivate"
            yield Check(name, "failed", f"state {state}", needed, _REMOTE, mend)
        else:
            self._subscribed = True
            yield Check(name, "ok", f"{answer.body.get('displayName')}, {state}", needed)
        yield check_clock(self.now(), answer.at)

    def _check_group(self) -> Check:
        target = self._manager.target
        needed = f"a resource group {target.group}"
        path = f"/subscriptions/{target.subscription}/resourceGroups/{target.group}"
        self._group_there = True  # so it is taken to be, where it may not be read
        answer = self._manager.get(path, "2021-04-01", where=f"resource group {target.group}")
        if answer is None:
            self._group_there = False
            mend = "mlflow-phi3 infra --location <region> creates it, with hub and project"
            return Check(
                "resource group", "failed", "none of this name", needed, ("train", "deploy"), mend
            )
        return Check("resource group", "ok", f"in {answer.body.get('location')}", needed)

    def _check_project(self) -> Check:
        target = self._manager.target
        needed = f"a project {target.project}"
        answer = self._manager.get(target.path, "2024-10-01-preview", where=target.path)
        if answer is None:
            blocked = ("train", "deploy", "monitor")
            mend = "mlflow-phi3 infra --location <region> creates it, with its hub"
            return Check("project", "failed", "none of this name", needed, blocked, mend)
        kind = str(answer.body.get("kind") or "Default")
        self._location = str(answer.body.get("location") or "").replace(" ", "").lower()
        if kind == "Hub":
            mend = "name a project of this hub, or create one by mlflow-phi3 infra --hub <this one>"
            return Check("project", "failed", "it is a hub", needed, ("train", "deploy"), mend)
        return Check("project", "ok", f"a {kind.lower()} in {self._location}", needed)

    def _check_permissions(self) -> Iterator[Check]:
        """One check a step: what it may not do, by the names of actions."""
        if not self._group_there:
            for step in _ALL_STEPS:
                yield Check(
                    f"permissions: {step}",
                    "skipped",
                    "no resource group to look at",
                    _count(STEPS[step]),
                )
            return
        target = self._manager.target
        path = (
            f"/subscriptions/{target.subscription}/resourceGroups/{target.group}"
            "/providers/Microsoft.Authorization/permissions"
        )
        try:
            answer = self._manager.get(path, "2022-04-01", where="permissions")
        except AzureError as refused:
            yield Check(
                "permissions",
                "failed",
                refused.problem,
                "to read your permissions",
                _REMOTE,
                "ask for Reader on the resource group",
            )
            return
        granted = list(answer.body.get("value") or ()) if answer else []
        for step, actions in STEPS.items():
            missing = missing_actions(granted, actions)
            name, needed = f"permissions: {step}", _count(actions)
            if not missing:
                yield Check(name, "ok", "all granted", needed)
                continue
            mend = (
                f"ask an owner of resource group {target.group} for a role that grants these: "
                f"{_role(step)}"
            )
            yield Check(name, "failed", f"not granted: {', '.join(missing)}", needed, (step,), mend)

    def _check_provider(self, namespace: str) -> Check:
        steps = PROVIDERS[namespace]
        name, needed = f"provider {namespace}", "Registered"
        path = f"/subscriptions/{self._manager.target.subscription}/providers/{namespace}"
        found = self._registration(path, name)
        if found == needed:
            return Check(name, "ok", found, needed)
        if not self.fix:
            mend = (
                f"mlflow-phi3 doctor --fix, or az provider register -n {namespace} "
                f"(needs {REGISTER.format(namespace=namespace)})"
            )
            return Check(name, "failed", found, needed, steps, mend)
        self._manager.post(f"{path}/register", "2021-04-01", where=name)
        found = self._registration(path, name)
        if found in {needed, "Registering"}:
            return Check(name, "fixed", f"{found}, now", needed)
        mend = f"look at it by az provider show -n {namespace}"
        return Check(name, "failed", f"{found}, also after registering it", needed, steps, mend)

    def _registration(self, path: str, name: str) -> str:
        answer = self._manager.get(path, "2021-04-01", where=name)
        return "no such provider" if answer is None else str(answer.body.get("registrationState"))

    def _check_quota(self) -> Check:
        needs = self.needs
        if not self._location:
            return Check("quota", "skipped", "no project to look at", needs.instance_type)
        place = (
            f"/subscriptions/{self._manager.target.subscription}"
            f"/providers/Microsoft.MachineLearningServices/locations/{self._location}"
        )
        version = "2024-10-01"
        sizes = self._manager.get(f"{place}/vmSizes", version, where="machine types")
        size = _find(sizes, "name", needs.instance_type)
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
        usages = self._manager.get(f"{place}/usages", version, where="quota")
        rows = [*((usages.body if usages else {}).get("value") or ())]
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
        with self.account.session("storage") as ml:
            container = open_container(ml)
            try:
                found = container.get_container_properties().name
            finally:
                container.close()
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


def check_versions(needs: Needs) -> Iterator[Check]:
    """Hold the installed packages against the least versions."""
    for package, least in needs.wanted_versions.items():
        found = needs.versions.get(package, "")
        needed = f">= {least}"
        if found and _numbers(found) >= _numbers(least):
            yield Check(f"package {package}", "ok", found, needed)
        else:
            mend = f"pip install --upgrade '{package}>={least}'"
            yield Check(
                f"package {package}", "failed", found or "not installed", needed, _REMOTE, mend
            )


def check_clock(now: dt.datetime, told: dt.datetime | None) -> Check:
    """Compare this machine's clock with the service's."""
    needed = f"within {_SKEW_S:.0f} s of Azure's clock"
    if told is None:
        return Check("clock", "skipped", "the service did not tell its time", needed)
    skew_s = (now - told).total_seconds()
    found = f"{abs(skew_s):.0f} s {'ahead' if skew_s > 0 else 'behind'}"
    if abs(skew_s) <= _SKEW_S:
        return Check("clock", "ok", found, needed)
    mend = "set the clock: timedatectl set-ntp true, or ask whoever runs this machine"
    return Check("clock", "failed", found, needed, _REMOTE, mend)


def check_region(needs: Needs, location: str) -> Check:
    """Hold the project's region against the model's."""
    name = f"model {needs.model}"
    if needs.refusal:
        return Check(
            name, "failed", needs.refusal, "a model that Foundry tunes", ("train",), needs.instead
        )
    told = f" ({needs.regions_as_of})" if needs.regions_as_of else ""
    needed = f"a project in {', '.join(needs.regions)}{told}"
    if not location:
        return Check(name, "skipped", "no project to look at", needed)
    if location in needs.regions:
        return Check(name, "ok", location, needed)
    infra = f"mlflow-phi3 infra --project <new name> --location {needs.regions[0]}"
    mend = f"create a project there: {infra}"
    return Check(name, "failed", f"the project is in {location}", needed, ("train",), mend)


def cores_needed(instance_type: str, cores: int, count: int) -> int:
    """Return the quota that a managed deployment takes, its reserve for upgrades included."""
    reserve = 1.0 if _EXEMPT.fullmatch(instance_type) else _RESERVE
    return math.ceil(count * reserve) * cores


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])


def _count(actions: tuple[str, ...]) -> str:
    return f"{len(actions)} actions"


def _role(step: str) -> str:
    if step == "infra":
        return "Contributor, or a custom role"
    if step == "monitor":
        return "Monitoring Reader and Azure AI Developer, or a custom role"
    return "Azure AI Developer, or a custom role"


def _find(answer: Any, key: str, value: str) -> Mapping[str, Any] | None:
    rows = (answer.body if answer else {}).get("value") or ()
    found: Mapping[str, Any] | None = next(
        (row for row in rows if str(row[key]).lower() == value.lower()), None
    )
    return found
