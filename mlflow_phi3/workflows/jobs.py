"""``show`` and ``delete``: a job or a tuned model, in Azure and in MLflow."""

from collections.abc import Callable
from typing import Any

from mlflow_phi3.azure.finetuning import JobState, TunedModel
from mlflow_phi3.azure.hyperparameters import from_azure
from mlflow_phi3.foundry.tuned import Inventory, Removal, plan_removal
from mlflow_phi3.tracking.tracker import open_tracker
from mlflow_phi3.tracking.tuned import find_tuned, mark_deleted


def describe(inventory: Inventory, name: str) -> dict[str, Any]:
    """Return all that is known of a job or a tuned model, by its names for people.

    Raises:
        UsageError: There is none of this name, or more than one.
        AzureError: No answer.
    """
    found = inventory.find(name)
    return (
        _job_facts(inventory, found)
        if isinstance(found, JobState)
        else _model_facts(inventory, found)
    )


def find_removal(inventory: Inventory, name: str, *, cascade: bool) -> Removal:
    """Return what has to go with a job or a tuned model.

    Raises:
        UsageError: As :func:`plan_removal`; or there is none of this name, or more than one.
        AzureError: No answer.
    """
    found = inventory.find(name)
    deployed = inventory.deployed(found) if isinstance(found, TunedModel) else []
    return plan_removal(found, deployed, cascade=cascade)


def remove(inventory: Inventory, removal: Removal, told: Callable[[str], None]) -> None:
    """Delete it in Azure, then say so on the versions that are linked to it.

    Args:
        inventory: The project's jobs and models.
        removal: What goes.
        told: Gets a line for people before each step.

    Raises:
        AzureError: A step failed; those after it were not begun.
    """
    inventory.remove(removal, told)
    if removal.model is not None:
        mark_deleted(open_tracker(), removal.model.id)


def _job_facts(inventory: Inventory, job: JobState) -> dict[str, Any]:
    latest = {point.key: point.value for point in inventory.service.metrics(job.name)}
    why = inventory.service.why_failed(job.name) if job.status == "Failed" else ""
    return {
        "job": job.name,
        "status": job.status,
        "why": why,
        "base model": job.base,
        "makes": job.output,
        **from_azure(job.hyperparameters),
        **{key: round(value, 6) for key, value in latest.items()},
        "created": job.created,
        "portal": job.url,
    }


def _model_facts(inventory: Inventory, model: TunedModel) -> dict[str, Any]:
    deployed = inventory.deployed(model)
    versions = find_tuned(open_tracker(), model.id)
    return {
        "model": f"{model.name}:{model.version}",
        "id": model.id,
        "base model": model.base,
        "job": model.job,
        "served by": [str(place) for place in deployed],
        "in MLflow": [f"models:/{version.name}/{version.version}" for version in versions],
    }
