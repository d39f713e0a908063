"""Models that were tuned elsewhere: versions that hold a link in the place of weights."""

from collections.abc import Mapping

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion

from mlflow_phi3.tracking.registry import ensure_registered, set_challenger
from mlflow_phi3.tracking.run import Run
from mlflow_phi3.tracking.tags import DELETED, STATE_TAG, TUNED_STATE_TAG, TUNED_TAG
from mlflow_phi3.tracking.tracker import Tracker


def register_tuned(
    run: Run, *, name: str, model_id: str, tags: Mapping[str, object], description: str
) -> ModelVersion:
    """Make a model in Azure a version of the registered model ``name``, once.

    Its source is the run's ``azure`` folder: the weights are Foundry's, and stay there.

    Args:
        run: The run that followed its training.
        name: Registered model.
        model_id: Address of the model in Azure.
        tags: Further tags of the version.
        description: For people.
    """
    for version in _find_linked(run.client, model_id):
        if version.name == name and version.tags.get(TUNED_STATE_TAG) != DELETED:
            return version
    ensure_registered(run.client, name)
    made = run.client.create_model_version(
        name,
        source=f"{run.artifact_uri}/azure",
        run_id=run.run_id,
        tags={TUNED_TAG: model_id, **{key: str(value) for key, value in tags.items()}},
        description=description,
    )
    set_challenger(run.client, made)
    return made


def find_tuned(tracker: Tracker, model_id: str) -> list[ModelVersion]:
    """Return the versions that are linked to a model in Azure."""
    return _find_linked(tracker.client, model_id)


def mark_deleted(tracker: Tracker, model_id: str) -> None:
    """Say on the versions that are linked to a model in Azure that it is gone from there.

    So is what served it: a model that is served cannot be deleted.
    """
    for version in find_tuned(tracker, model_id):
        for tag in (TUNED_STATE_TAG, STATE_TAG):
            tracker.client.set_model_version_tag(version.name, version.version, tag, DELETED)


def _find_linked(client: MlflowClient, model_id: str) -> list[ModelVersion]:
    return list(client.search_model_versions(f"tags.`{TUNED_TAG}` = '{model_id}'"))
