"""The subscription, its regions, quota, machine types and resource providers; knows no HTTP."""

import re
from typing import Any

from mlflow_phi3.emulator.endpoints.rules import capacity
from mlflow_phi3.emulator.endpoints.skus import CORES, QUOTA_CORES
from mlflow_phi3.emulator.router import Refusal
from mlflow_phi3.emulator.store import Resource, Store
from mlflow_phi3.emulator.subscription.locations import LOCATIONS

_PROVIDERS = (
    "Microsoft.MachineLearningServices",
    "Microsoft.CognitiveServices",
    "Microsoft.Storage",
    "Microsoft.KeyVault",
    "Microsoft.Network",
)
_REGISTERED = frozenset(_PROVIDERS) - {"Microsoft.Network"}
"""What a project could not exist without; that the network's is missing is the usual surprise."""
_STATE = "/emulator/subscription"


class Subscription:
    """One subscription's view.

    Args:
        store: Where its state, providers' states and deployments are kept.
        only: The id of the only subscription there is.
    """

    def __init__(self, store: Store, only: str) -> None:
        self._store = store
        self._only = only

    def get(self, subscription: str) -> Resource:
        """Return the subscription.

        Raises:
            Refusal: 404 for any other.
        """
        if subscription != self._only:
            text = f"The subscription '{subscription}' could not be found."
            raise Refusal(404, "SubscriptionNotFound", text)
        return {
            "id": f"/subscriptions/{subscription}",
            "subscriptionId": subscription,
            "displayName": "mlflow-phi3 emulator",
            "state": (self._store.get(_STATE) or {"state": "Enabled"})["state"],
        }

    def locations(self, subscription: str) -> list[Resource]:
        """Return the regions of the subscription, without the names for people.

        Raises:
            Refusal: 404 for any other.
        """
        place = self.get(subscription)["id"]
        return [
            {
                "id": f"{place}/locations/{name}",
                "name": name,
                "type": "Region",
                "metadata": {"regionType": "Physical"},
            }
            for name in LOCATIONS
        ]

    def set_state(self, state: str) -> None:
        """Say in which state the subscription is from now on, to practise one that is over."""
        self._store.put(_STATE, "subscription", {"state": state})

    def usages(self, usages_id: str, location: str) -> list[dict[str, Any]]:
        """Return how many cores managed endpoints use in a region, in all and by machine type."""
        used = dict.fromkeys(CORES, 0)
        for deployment in self._store.of_kind("deployment"):
            if deployment["location"] == location:
                kind = deployment["properties"]["instanceType"]
                used[kind] += CORES[kind] * capacity(deployment)
        rows = {"Total Dedicated vCPUs": sum(used.values())}
        for name, cores in used.items():
            rows[family(name)] = rows.get(family(name), 0) + cores
        return [
            {
                "id": f"{usages_id}/{name.replace(' ', '')}",
                "type": "Microsoft.MachineLearningServices/usages",
                "unit": "Count",
                "currentValue": cores,
                "limit": QUOTA_CORES,
                "name": {"value": name, "localizedValue": name},
            }
            for name, cores in rows.items()
        ]

    def sizes(self) -> list[dict[str, Any]]:
        """Return the machine types."""
        return [
            {
                "name": name,
                "family": family(name),
                "vCPUs": cores,
                "gpus": 1 if "_NC" in name else 0,
                "premiumIO": True,
                "lowPriorityCapable": False,
                "supportedComputeTypes": ["ManagedOnlineEndpoint"],
            }
            for name, cores in CORES.items()
        ]

    def provider(self, provider_id: str) -> Resource:
        """Return a resource provider and whether it is registered.

        Raises:
            Refusal: 404 for one that Azure does not have.
        """
        name = _proper(provider_id)
        state = "Registered" if name in _REGISTERED else "NotRegistered"
        return self._store.get(provider_id) or _provider(provider_id, name, state)

    def set_provider(self, provider_id: str, state: str) -> Resource:
        """Register a resource provider, or take its registration back.

        Raises:
            Refusal: 404 for one that Azure does not have.
        """
        made = _provider(provider_id, _proper(provider_id), state)
        self._store.put(provider_id, "provider", made)
        return made


def family(instance_type: str) -> str:
    """Return the name under which Azure counts the cores of a machine type's kin."""
    _, size, *rest = instance_type.split("_")
    letters = re.sub(r"\d+", "", size).upper()
    return f"standard{letters}{''.join(rest)}Family"


def _proper(provider_id: str) -> str:
    """The name of a provider as Azure spells it."""
    sent = provider_id.rsplit("/", 1)[1]
    for name in _PROVIDERS:
        if name.lower() == sent.lower():
            return name
    text = f"The resource namespace '{sent}' is invalid."
    raise Refusal(404, "InvalidResourceNamespace", text)


def _provider(provider_id: str, name: str, state: str) -> Resource:
    return {
        "id": provider_id,
        "namespace": name,
        "registrationPolicy": "RegistrationRequired",
        "registrationState": state,
        "resourceTypes": [],
    }
