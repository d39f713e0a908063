"""What a caller's words on content safety mean; values in, values out."""

from mlflow_phi3.azure.online import TAG_LENGTH, Deployment
from mlflow_phi3.azure.safety import ENDPOINT_VARIABLE, variables_for
from mlflow_phi3.config.deploy import DeployConfig

OFF_TAG = "phi3.content_safety_off"
"""Tag of a deployment or serverless endpoint without content safety: why."""


def safety_variables(config: DeployConfig) -> dict[str, str] | None:
    """Return a managed deployment's variables: none when it is off, None to keep what is there."""
    if config.content_safety is False:
        return {}
    name = config.content_safety_connection
    return variables_for(name) if name else None


def safety_tags(config: DeployConfig) -> dict[str, str]:
    """Return the tag that says why content safety is off, empty when it is on.

    No tag is for keeping what is there.
    """
    if config.content_safety is False:
        return {OFF_TAG: config.content_safety_reason[:TAG_LENGTH]}
    return {OFF_TAG: ""} if config.content_safety or config.content_safety_connection else {}


def missing_safety(deployment: Deployment) -> str:
    """Return what to tell of a managed deployment that nothing filters; empty when that is meant.

    Args:
        deployment: As it is to be.
    """
    if OFF_TAG in deployment.tags or ENDPOINT_VARIABLE in deployment.variables:
        return ""
    return (
        "no content safety: managed compute has none of its own; name a connection to Azure AI "
        "Content Safety by -C content_safety_connection="
    )
