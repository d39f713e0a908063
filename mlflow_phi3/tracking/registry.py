"""Registered models: log one portable model, make a version of it, move aliases."""

import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import mlflow
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature

from mlflow_phi3.errors import UsageError
from mlflow_phi3.tracking.missing import is_missing
from mlflow_phi3.tracking.run import Run
from mlflow_phi3.tracking.servable import Servable

CHAMPION = "champion"
CHALLENGER = "challenger"
PREVIOUS = "previous"


def log_model(run: Run, servable: Servable) -> str:
    """Log ``servable`` as a model of ``run``; its ``models:/`` URI."""
    with run.current():
        logged = mlflow.pyfunc.log_model(name="model", **_as_mlflow(servable))
    return str(logged.model_uri)


def save_model(servable: Servable, folder: Path) -> None:
    """Write ``servable`` as an MLflow model into ``folder``, which must not be there yet."""
    mlflow.pyfunc.save_model(path=str(folder), **_as_mlflow(servable))


def _as_mlflow(servable: Servable) -> dict[str, Any]:
    """What both ways of writing a model are told."""
    return {**asdict(servable), "signature": ModelSignature.from_dict(servable.signature)}


def load_predict(folder: Path) -> Callable[[Mapping[str, Any]], Any]:
    """The ``predict`` of the MLflow model in ``folder``, as whoever loads it gets it."""
    path = list(sys.path)
    try:
        loaded = mlflow.pyfunc.load_model(str(folder))
    finally:
        sys.path[:] = path  # MLflow leaves the model's folder on it, which may be a temporary one
    return lambda request: loaded.predict(dict(request))


def download_model(uri: str, into: Path) -> Path:
    """Copy the model at ``uri`` into the folder ``into``; where it lies then."""
    return Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=str(into)))


def locate_model(uri: str) -> Path:
    """Where the model at ``uri`` lies on this machine; it is fetched when it lies elsewhere."""
    return Path(mlflow.artifacts.download_artifacts(artifact_uri=uri))


def create_version(
    run: Run,
    *,
    name: str,
    model_uri: str,
    metrics: Mapping[str, float],
    tags: Mapping[str, object],
    description: str,
    promote: bool = False,
) -> ModelVersion:
    """Make the logged model a version of the registered model ``name``, and its challenger.

    Args:
        run: The run that logged it.
        name: Registered model.
        model_uri: As :func:`log_model` gives it.
        metrics: Shown beside the model, and as tags of the version.
        tags: Further tags of the version.
        description: For people.
        promote: Whether it is the champion too.
    """
    ensure_registered(run.client, name)
    model_id = model_uri.removeprefix("models:/")
    mlflow.log_metrics(dict(metrics), run_id=run.run_id, model_id=model_id)
    made = run.client.create_model_version(
        name,
        source=model_uri,
        run_id=run.run_id,
        tags={key: str(value) for key, value in {**tags, **metrics}.items()},
        description=description,
        model_id=model_id,
    )
    set_challenger(run.client, made)
    if promote:
        crown(run.client, made)
    return made


def ensure_registered(client: MlflowClient, name: str) -> None:
    """Make the registered model ``name``, if it is not there yet."""
    try:
        client.create_registered_model(name)
    except MlflowException as refused:
        try:
            client.get_registered_model(name)
        except MlflowException:
            raise refused from None


def check_name(name: str, *, where: str) -> None:
    """Refuse what no registered model can be called, or what ``models:/`` could not name then.

    Args:
        name: As the person gave it.
        where: The parameter that it stands in.

    Raises:
        UsageError: It cannot be.
    """
    # The first two are MLflow's own (mlflow.utils.validation); @ stands before an alias.
    if any(letter in name for letter in "/:@") or not name.strip(" ."):
        raise UsageError(
            "PHI3-U024",
            f"{name!r} is no name for a registered model",
            where=where,
            fix="leave out '/', ':' and '@'",
        )


def find_alias(client: MlflowClient, name: str, alias: str) -> ModelVersion | None:
    """The version an alias points to, or None when there is no such model or alias."""
    try:
        return client.get_model_version_by_alias(name, alias)
    except MlflowException as error:
        if is_missing(error):
            return None
        raise


def set_challenger(client: MlflowClient, version: ModelVersion) -> None:
    """Point ``challenger`` at a version."""
    client.set_registered_model_alias(version.name, CHALLENGER, version.version)


def crown(client: MlflowClient, version: ModelVersion) -> None:
    """Point ``champion`` at a version, and ``previous`` at the champion it takes over from."""
    reigning = find_alias(client, version.name, CHAMPION)
    if reigning is None or reigning.version == version.version:
        client.set_registered_model_alias(version.name, CHAMPION, version.version)
    else:
        move_champion(client, version.name, version.version, reigning.version)


def move_champion(client: MlflowClient, name: str, version: str, previous: str) -> None:
    """Point ``champion`` at a version and ``previous`` at another; empty removes an alias."""
    # The champion last: whoever finds it moved finds all of it done.
    for alias, target in ((PREVIOUS, previous), (CHAMPION, version)):
        if target:
            client.set_registered_model_alias(name, alias, target)
        elif find_alias(client, name, alias) is not None:
            client.delete_registered_model_alias(name, alias)
