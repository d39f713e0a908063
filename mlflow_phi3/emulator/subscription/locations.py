"""The regions that a subscription may use."""

from mlflow_phi3.emulator.router import Refusal

LOCATIONS = (
    "australiacentral",
    "australiaeast",
    "australiasoutheast",
    "austriaeast",
    "belgiumcentral",
    "brazilsouth",
    "canadacentral",
    "canadaeast",
    "centralindia",
    "centralus",
    "chilecentral",
    "eastasia",
    "eastus",
    "eastus2",
    "francecentral",
    "germanywestcentral",
    "indonesiacentral",
    "israelcentral",
    "italynorth",
    "japaneast",
    "japanwest",
    "koreacentral",
    "koreasouth",
    "malaysiawest",
    "mexicocentral",
    "newzealandnorth",
    "northcentralus",
    "northeurope",
    "norwayeast",
    "polandcentral",
    "qatarcentral",
    "southafricanorth",
    "southcentralus",
    "southeastasia",
    "southindia",
    "spaincentral",
    "swedencentral",
    "switzerlandnorth",
    "uaenorth",
    "uksouth",
    "ukwest",
    "westcentralus",
    "westeurope",
    "westindia",
    "westus",
    "westus2",
    "westus3",
)
"""Source: "List of Azure regions" (2025-11), the physical ones that need no request for access."""


def check_location(location: str, *, of: str = "type") -> None:
    """Refuse a region that there is not.

    Args:
        location: Its name.
        of: ``group`` for a resource group, which has words of its own.

    Raises:
        Refusal: 400, as the resource manager words it.
    """
    if location in LOCATIONS:
        return
    listed = f"List of available regions is '{','.join(LOCATIONS)}'."
    text = f"The provided location '{location}' is not available for resource {of}. {listed}"
    raise Refusal(400, f"LocationNotAvailableForResource{of.capitalize()}", text)
