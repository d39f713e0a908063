"""Tags by which MLflow leads to what is in Azure, and what is in Azure leads back."""

from collections.abc import Mapping

PROJECT_TAG = "azure.target"
"""Of a run or a model version: path of the project that it trained or is deployed in."""
ENDPOINT_TAG = "azure.endpoint"
DEPLOYMENT_TAG = "azure.deployment"
SCORING_TAG = "azure.scoring_uri"
ASSET_TAG = "azure.model_id"
"""Of a model version: the asset that was made of it."""
TUNED_TAG = "azure.tuned_model"
"""Of a model version that Foundry tuned: its ``azureml://locations/...`` id."""
TUNED_STATE_TAG = "azure.tuned_model_state"
"""Of such a version: ``deleted`` once the model itself is gone from Azure."""
STATE_TAG = "azure.state"
"""Of a model version: how its deployment stands in Azure, which comes and goes."""
DEPLOYED = "deployed"
DELETED = "deleted"
EXPIRES_TAG = "azure.expires_at"
"""Of an endpoint, and of the version that it serves: when it may be deleted."""
MODEL_TAG = "phi3.model"
"""Of a model or a deployment in Azure: the registered model that it is."""
VERSION_TAG = "phi3.version"


def place_tags(found: Mapping[str, object], project: str) -> dict[str, str]:
    """Return the tags of a version by which MLflow leads to where it runs.

    Args:
        found: How its endpoint stands: ``endpoint`` and ``scoring_uri`` count.
        project: Path of the project in Azure.
    """
    return {
        PROJECT_TAG: project,
        ENDPOINT_TAG: str(found["endpoint"]),
        SCORING_TAG: str(found["scoring_uri"]),
        STATE_TAG: DEPLOYED,
    }
