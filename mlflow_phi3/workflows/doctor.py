"""``doctor``: what is needed, gathered, and held against what is there."""

import datetime as dt
from importlib import metadata

from packaging.requirements import Requirement

from mlflow_phi3.azure.checks import Check, Needs
from mlflow_phi3.azure.client import Workspace
from mlflow_phi3.azure.preflight import Doctor
from mlflow_phi3.azure.registry import look_up_offers
from mlflow_phi3.errors import AzureError
from mlflow_phi3.foundry.offers import Tuning, tuning_of
from mlflow_phi3.foundry.project import Place
from mlflow_phi3.modeling.catalog import PhiModel

_PACKAGES = ("azure-ai-ml", "azure-identity", "azure-storage-blob", "mlflow")


def examine(
    place: Place, model: PhiModel, *, instance_type: str, instance_count: int, fix: bool
) -> list[Check]:
    """Look at a project, one thing after the other.

    Args:
        place: The project; it need not be there.
        model: What is to be tuned by Foundry.
        instance_type: Machine type to be deployed on.
        instance_count: How many machines.
        fix: Whether to mend what can be mended without spending anything.
    """
    account = place.open_account()
    tuning = look_up_tuning(account, model)
    needs = Needs(
        model=model.name,
        regions=tuning.regions,
        regions_as_of=f"{tuning.source}, {tuning.as_of}",
        refusal=tuning.why_not,
        instead=tuning.instead,
        instance_type=instance_type,
        instance_count=instance_count,
        versions=installed_versions(),
        wanted_versions=wanted_versions(),
    )
    return list(Doctor(account, needs, lambda: dt.datetime.now(dt.UTC), fix).checks())


def look_up_tuning(account: Workspace, model: PhiModel) -> Tuning:
    """Return whether Foundry tunes a model: by the catalog where the registry does not answer."""
    try:
        return tuning_of(model, look_up_offers(account, (model.name,)))
    except AzureError:  # what is wrong with the account is the checks' to tell
        return tuning_of(model, None)


def wanted_versions() -> dict[str, str]:
    """The versions of the packages that are looked at which this package asks for."""
    asked = map(Requirement, metadata.requires("mlflow-phi3") or ())
    return {one.name: str(one.specifier) for one in asked if one.name in _PACKAGES}


def installed_versions() -> dict[str, str]:
    """Versions of the packages that are looked at; those that are missing are left out."""
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
