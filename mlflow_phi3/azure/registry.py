"""The public registry ``azureml``: what Foundry offers today, whatever a file of ours says."""

from dataclasses import dataclass

from mlflow_phi3.azure.client import Workspace
from mlflow_phi3.azure.names import region_name

REGISTRY = "azureml"
_REGIONS_TAG = "maas-finetuning-deploy-regions"


@dataclass(frozen=True, slots=True)
class Offer:
    """A base model as the registry has it now.

    Args:
        name: Its name.
        version: Newest version.
        regions: Where Foundry tunes it; empty where it does not.
        archived: Whether it is hidden: retired.
    """

    name: str
    version: str
    regions: tuple[str, ...]
    archived: bool


def look_up_offers(account: Workspace, names: tuple[str, ...]) -> dict[str, Offer]:
    """Ask the registry for models by name; those it does not have are left out.

    Args:
        account: Signed in; the project need not be there.
        names: As in the registry.

    Raises:
        AzureError: The registry refuses or does not answer.
    """
    from azure.ai.ml import MLClient
    from azure.core.exceptions import HttpResponseError

    found: dict[str, Offer] = {}
    with account.session(f"registry {REGISTRY}") as ml:
        registry = MLClient(
            ml._credential,  # noqa: SLF001 - the one that the account signed in with
            registry_name=REGISTRY,
            enable_telemetry=False,
        )
        for name in names:
            try:
                model = registry.models.get(name, label="latest")
            except HttpResponseError as error:
                if error.status_code != 404:  # the list behind a label raises no subclass for it
                    raise
                continue
            regions = str((model.tags or {}).get(_REGIONS_TAG) or "")
            found[name] = Offer(
                name=name,
                version=str(model.version),
                regions=tuple(region_name(r) for r in regions.split(",") if r.strip()),
                archived=bool(getattr(model, "_is_archived", False)),
            )
    return found
