"""What `doctor` finds: one check as a value, and the decisions that need no service."""

import datetime as dt
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from packaging.specifiers import SpecifierSet

from mlflow_phi3.azure.permissions import STEPS, missing_actions

State = Literal["ok", "failed", "fixed", "skipped"]

REMOTE = tuple(STEPS)
"""Steps that ask Azure for something."""
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
        wanted_versions: Wanted versions by package, such as ``>=1.35``.
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


def check_versions(needs: Needs) -> Iterator[Check]:
    """Hold the installed packages against the versions that are wanted."""
    for package, needed in needs.wanted_versions.items():
        found = needs.versions.get(package, "")
        if found and SpecifierSet(needed).contains(found, prereleases=True):
            yield Check(f"package {package}", "ok", found, needed)
        else:
            mend = f"pip install --upgrade '{package}{needed}'"
            yield Check(
                f"package {package}", "failed", found or "not installed", needed, REMOTE, mend
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
    return Check("clock", "failed", found, needed, REMOTE, mend)


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


def check_step(step: str, granted: Sequence[Mapping[str, Any]], scope: str) -> Check:
    """Hold what someone may do against what a step needs.

    Args:
        step: A word of our command.
        granted: Permissions as Azure tells them.
        scope: On what they hold, in words.
    """
    name, needed = _named(step)
    missing = missing_actions(granted, STEPS[step])
    if not missing:
        return Check(name, "ok", "all granted", needed)
    mend = f"ask an owner of {scope} for a role that grants these: {_ROLES.get(step, _DEVELOPER)}"
    return Check(name, "failed", f"not granted: {', '.join(missing)}", needed, (step,), mend)


def untold_steps(steps: Iterable[str], why: str, mend: str = "") -> Iterator[Check]:
    """Yield a check for each step whose permissions are not known.

    Args:
        steps: Words of our command.
        why: What was found instead.
        mend: How they become known; empty when that is another check's to tell.
    """
    for step in steps:
        name, needed = _named(step)
        if mend:
            yield Check(name, "failed", why, needed, (step,), mend)
        else:
            yield Check(name, "skipped", why, needed)


_DEVELOPER = "Azure AI Developer, or a custom role"
_ROLES = {
    "infra": "Contributor, or a custom role",
    "monitor": "Monitoring Reader and Azure AI Developer, or a custom role",
}


def _named(step: str) -> tuple[str, str]:
    return f"permissions: {step}", f"{len(STEPS[step])} actions"
