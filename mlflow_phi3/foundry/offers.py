"""Where Foundry tunes a model: the registry's word of today, else the catalog's."""

from collections.abc import Mapping
from dataclasses import dataclass

from mlflow_phi3.azure.registry import Offer
from mlflow_phi3.modeling.catalog import PhiModel, refusal

NOW = "now"
_LISTED = "mlflow-phi3 models --live --for foundry lists what it tunes"


@dataclass(frozen=True, slots=True)
class Tuning:
    """Whether Foundry tunes a model.

    Args:
        regions: Where; empty where it does not.
        source: Who says so: the registry, or the catalog.
        as_of: Month of the catalog's list, None where it has none; ``now`` of the registry.
        why_not: Why it does not; empty where it does.
        instead: What to do then; empty where it does.
        version: Newest version in the registry; empty where nobody asked, or it has none.
    """

    regions: tuple[str, ...]
    source: str
    as_of: str | None
    why_not: str = ""
    instead: str = ""
    version: str = ""


def tuning_of(model: PhiModel, offers: Mapping[str, Offer] | None) -> Tuning:
    """Return whether, and where, Foundry tunes a model.

    What the catalog refuses, retired models above all, is refused whatever the registry offers.
    Of all others the registry's word counts where it answers, also where that is a no.

    Args:
        model: Its entry of the catalog.
        offers: What the registry has of the models that it was asked for, by their names; None
            where it was not asked, or did not answer.
    """
    why, instead = refusal(model)
    if offers is None:
        return Tuning(model.finetuning_regions, "the catalog", model.finetuning_as_of, why, instead)
    offer = offers.get(model.name)
    if not why:
        why = _refusal(model.name, offer)
        instead = _LISTED if why else ""
    regions = () if why or offer is None else offer.regions
    version = "" if offer is None else offer.version
    return Tuning(regions, "the registry", NOW, why, instead, version)


def _refusal(name: str, offer: Offer | None) -> str:
    """Why what the registry says of a model is a no; else empty."""
    if offer is None:
        return f"the registry does not have {name}"
    if offer.archived:
        return f"{name} is not offered any more"
    return "" if offer.regions else f"the registry names no region that tunes {name}"
