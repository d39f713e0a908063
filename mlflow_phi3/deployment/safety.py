"""What a caller's words on content safety mean; values in, values out."""

from collections.abc import Mapping
from typing import Any

from mlflow_phi3.azure.online import TAG_LENGTH, Deployment
from mlflow_phi3.azure.safety import ENDPOINT_VARIABLE, variables_for
from mlflow_phi3.config.deploy import DeployConfig
from mlflow_phi3.deployment.mlmodel import asks_safety
from mlflow_phi3.errors import UsageError

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


def check_asks(mlmodel: Mapping[str, Any], config: DeployConfig, *, where: str) -> None:
    """Refuse a connection to content safety for a model that would not ask it.

    Args:
        mlmodel: Content of the model's ``MLmodel`` file.
        config: What is wanted.
        where: How the model was named.

    Raises:
        UsageError: It is no chat that was registered here.
    """
    if config.content_safety_connection and not asks_safety(mlmodel):
        raise UsageError(
            "PHI3-U720",
            "only chats that were registered here ask Content Safety; this model asks nobody",
            where=where,
            fix="leave content_safety_connection out, or filter in front of the endpoint",
        )


def missing_safety(deployment: Deployment, mlmodel: Mapping[str, Any]) -> str:
    """Return what to tell of a managed deployment that nothing filters; empty when that is meant.

    Args:
        deployment: As it is to be.
        mlmodel: Content of the ``MLmodel`` file of what it is to serve.
    """
    if OFF_TAG in deployment.tags:
        return ""
    if not asks_safety(mlmodel):
        return (
            "no content safety: managed compute has none of its own, and this model, which is no "
            "chat that was registered here, asks nobody"
        )
    if ENDPOINT_VARIABLE in deployment.variables:
        return ""
    return (
        "no content safety: managed compute has none of its own; name a connection to Azure AI "
        "Content Safety by -C content_safety_connection="
    )
