"""What the registry says of each Phi model; facts of public documents, 2026-02.

The live service keeps the regions in the tag ``maas-finetuning-deploy-regions`` and the machines
in the properties ``finetune-recommended-sku`` and ``inference-recommended-sku``.
"""

from dataclasses import dataclass

REGISTRY = "azureml"
REGIONS_TAG = "maas-finetuning-deploy-regions"
_REGIONS = ("eastus2", "eastus", "northcentralus", "southcentralus", "westus", "westus3")
_RETIRED_ON = "2025-08-30"


@dataclass(frozen=True, slots=True)
class RegistryModel:
    """One base model.

    Args:
        name: As in the registry.
        version: Its only version here.
        regions: Where Foundry tunes it; empty where it does not.
        retired_on: ISO day on which its serverless offer ended, or empty.
        replacement: What to take instead of a retired one.
    """

    name: str
    version: str = "1"
    regions: tuple[str, ...] = ()
    retired_on: str = ""
    replacement: str = ""


def _retired(name: str, replacement: str) -> RegistryModel:
    return RegistryModel(name, retired_on=_RETIRED_ON, replacement=replacement)


MODELS = {
    model.name.lower(): model
    for model in (
        RegistryModel("Phi-4-mini-instruct", regions=_REGIONS),
        RegistryModel("Phi-4", regions=_REGIONS),
        RegistryModel("Phi-4-reasoning"),
        _retired("Phi-3-mini-4k-instruct", "Phi-4-mini-instruct"),
        _retired("Phi-3-mini-128k-instruct", "Phi-4-mini-instruct"),
        _retired("Phi-3.5-mini-instruct", "Phi-4-mini-instruct"),
        _retired("Phi-3-medium-4k-instruct", "Phi-4"),
        _retired("Phi-3-medium-128k-instruct", "Phi-4"),
    )
}
"""By lower-case name."""
