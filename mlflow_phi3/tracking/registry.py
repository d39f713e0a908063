"""Registered models: log one portable model, make a version of it, move aliases."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import mlflow
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException, RestException
from mlflow.models import ModelSignature
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST, ErrorCode

from mlflow_phi3.tracking.runs import Run

CHAMPION = "champion"
CHALLENGER = "challenger"
PREVIOUS = "previous"


@dataclass(frozen=True, slots=True)
class Servable:
    """What MLflow needs to log a model that it can serve anywhere.

    Args:
        code: Python file that defines the model (models-from-code: nothing is pickled).
        artifacts: Name to folder or file; copied into the model.
        code_paths: Packages copied beside it.
        signature: Its inputs and outputs.
        input_example: A request that it answers.
        pip_requirements: What its environment needs.
        metadata: Facts kept in the ``MLmodel`` file.
    """

    code: Path
    artifacts: Mapping[str, str]
    signature: ModelSignature
    input_example: object
    pip_requirements: Sequence[str]
    code_paths: Sequence[str] = ()
    metadata: Mapping[str, object] | None = None


def log_model(run: Run, servable: Servable, *, name: str = "model") -> str:
    """Log ``servable`` as a model of ``run``; its URI."""
    with mlflow.start_run(run_id=run.run_id, nested=True):
        logged = mlflow.pyfunc.log_model(
            name=name,
            python_model=str(servable.code),
            artifacts=dict(servable.artifacts),
            code_paths=list(servable.code_paths) or None,
            signature=servable.signature,
            input_example=servable.input_example,
            pip_requirements=list(servable.pip_requirements),
            metadata=dict(servable.metadata or {}),
        )
    return str(logged.model_uri)


def download_model(uri: str, into: Path) -> Path:
    """Copy the model at ``uri`` into the folder ``into``; where it lies then."""
    return Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=str(into)))


def create_version(
    run: Run, *, name: str, model_uri: str, tags: Mapping[str, object], description: str
) -> ModelVersion:
    """Make the logged model a version of the registered model ``name``."""
    try:
        run.client.create_registered_model(name)
    except MlflowException as error:
        if run.client.search_registered_models(f"name = '{name}'"):
            pass  # it was there already
        else:
            raise error from None
    return run.client.create_model_version(
        name,
        source=model_uri,
        run_id=run.run_id,
        tags={key: str(value) for key, value in tags.items()},
        description=description,
        model_id=model_uri.removeprefix("models:/"),
    )


def find_alias(client: MlflowClient, name: str, alias: str) -> ModelVersion | None:
    """The version an alias points to, or None when there is no such model or alias."""
    try:
        return client.get_model_version_by_alias(name, alias)
    except (RestException, MlflowException) as error:
        missing = ErrorCode.Name(RESOURCE_DOES_NOT_EXIST)
        if error.error_code in {missing, "INVALID_PARAMETER_VALUE"}:
            return None
        raise


def set_challenger(client: MlflowClient, version: ModelVersion) -> None:
    """Point ``challenger`` at a version."""
    client.set_registered_model_alias(version.name, CHALLENGER, version.version)


def crown(client: MlflowClient, version: ModelVersion) -> None:
    """Point ``champion`` at a version, and ``previous`` at the champion it takes over from."""
    reigning = find_alias(client, version.name, CHAMPION)
    if reigning is not None and reigning.version != version.version:
        client.set_registered_model_alias(version.name, PREVIOUS, reigning.version)
    client.set_registered_model_alias(version.name, CHAMPION, version.version)
