"""Names of tags that several rooms write or read: what leads to Azure and back, and digests."""

from collections.abc import Mapping

PROJECT_TAG = "azure.target"
"""Of a run or a model version: path of the project that it trained or is deployed in."""
TARGET_TAG = "azure.target_uri"
"""Of a run: the same project as a command names it (``--target``)."""
JOB_TAG = "azure.job_name"
"""Of a run: the fine-tuning job that trains for it."""
JOB_STATUS_TAG = "azure.job_status"
JOB_URL_TAG = "azure.job_url"
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
TRIAL_RUN_TAG = "phi3.trial_run"
"""Of a model version: the run of the training that it came from."""
DATASET_TAG = "phi3.dataset_sha256"
"""Of a run: digest of all rows of all splits."""
TEMPLATE_TAG = "phi3.template_sha256"
"""Of a run: digest of the chat template that they were rendered by."""


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
