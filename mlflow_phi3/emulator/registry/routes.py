"""Discovery of the registry, and its models, as the SDK's registry client asks for them."""

from typing import Any

from mlflow_phi3.emulator.arm import envelope
from mlflow_phi3.emulator.registry.models import MODELS, REGIONS_TAG, REGISTRY, RegistryModel
from mlflow_phi3.emulator.router import Call, Refusal, Reply, Route

_SUBSCRIPTION = "00000000-0000-4000-8000-0000000000aa"
_GROUP = "registry-builtin-prod"
_MODELS = (
    "/mferp/managementfrontend/subscriptions/{subscription}/resourceGroups/{group}"
    "/providers/Microsoft.MachineLearningServices/registries/{registry}/models"
)
_SKU = "Standard_NC24ads_A100_v4"


def routes() -> list[Route]:
    """Return the routes of the registry; nothing in it can be changed."""
    return [
        Route("GET", "/registrymanagement/v1.0/registries/{registry}/discovery", _discovery),
        Route("GET", _MODELS + "/{name}/versions", _versions),
        Route("GET", _MODELS + "/{name}/versions/{version}", _version),
    ]


def _discovery(call: Call) -> Reply:
    _check_registry(call)
    return Reply(
        {
            "registryName": REGISTRY,
            "primaryRegion": "eastus",
            "regions": ["eastus", "eastus2"],
            "subscriptionId": _SUBSCRIPTION,
            "resourceGroup": _GROUP,
            "primaryRegionResourceProviderUri": f"{call.origin}/",
        }
    )


def _versions(call: Call) -> Reply:
    return Reply({"value": [_to_version(_find(call))]})


def _version(call: Call) -> Reply:
    model = _find(call)
    if call.names["version"] != model.version:
        raise Refusal(404, "UserError", f"Model {model.name}:{call.names['version']} not found.")
    return Reply(_to_version(model))


def _find(call: Call) -> RegistryModel:
    _check_registry(call)
    found = MODELS.get(call.names["name"].lower())
    if found is None:
        raise Refusal(
            404, "UserError", f"Model {call.names['name']} was not found in the registry."
        )
    return found


def _check_registry(call: Call) -> None:
    if call.names["registry"].lower() != REGISTRY:
        text = f"Registry {call.names['registry']} was not found."
        raise Refusal(404, "RegistryNotFound", text)


def _to_version(model: RegistryModel) -> dict[str, Any]:
    # How a registry names its own assets: not by the resource manager's paths.
    version_id = f"azureml://registries/{REGISTRY}/models/{model.name}/versions/{model.version}"
    tags = {"author": "Microsoft", "task": "chat-completion"}
    if model.regions:
        tags |= {"finetune_compute_allow_list": _SKU, REGIONS_TAG: ",".join(model.regions)}
    properties = {
        "description": "",
        "tags": tags,
        "properties": {"finetune-recommended-sku": _SKU, "inference-recommended-sku": _SKU},
        "isArchived": bool(model.retired_on),
        "flavors": {},
        "modelType": "mlflow_model",
        "modelUri": version_id,
    }
    kind = "Microsoft.MachineLearningServices/registries/models/versions"
    return {**envelope(version_id, properties), "type": kind}
