"""What a caller's words on content safety mean; values in, values out."""

from collections.abc import Mapping

from mlflow_phi3.azure.safety import ENDPOINT_VARIABLE, variables_for
from mlflow_phi3.config.deploy import DeployConfig

OFF_TAG = "phi3.content_safety_off"
"""Tag of a deployment or serverless endpoint without content safety: why."""

_TAG_LENGTH = 256
"""Characters of a tag's value, at most."""


def safety_variables(config: DeployConfig) -> dict[str, str] | None:
    """Return a managed deployment's variables: none when it is off, None to keep what is there."""
    if not config.content_safety:
        return {}
    name = config.content_safety_connection
    return variables_for(name) if name else None


def safety_tags(config: DeployConfig) -> dict[str, str]:
    """Return the tag that says why content safety is off; none when it is on."""
    return {} if config.content_safety else {OFF_TAG: config.content_safety_reason[:_TAG_LENGTH]}


def missing_safety(config: DeployConfig, variables: Mapping[str, str]) -> str:
    """Return what to tell of a managed deployment that nothing filters; empty when that is meant.

    Args:
        config: What the caller wants.
        variables: Those that the deployment is to have.
    """
    if not config.content_safety or ENDPOINT_VARIABLE in variables:
        return ""
    return (
        "no content safety: managed compute has none of its own; name a connection to Azure AI "
        "Content Safety by -C content_safety_connection="
    )
