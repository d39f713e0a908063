"""Versions of registered models, as a URI names them."""

import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field

import mlflow
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.utils.models import get_model_name_and_version
from mlflow.store.model_registry import SEARCH_REGISTERED_MODEL_MAX_RESULTS_THRESHOLD

from mlflow_phi3.config.parse import suggest
from mlflow_phi3.errors import UsageError
from mlflow_phi3.tracking.missing import asking, is_missing

_REGISTERED = re.compile(r"models:/(?P<name>[^/@]+)(?:@(?P<alias>[^/]+)|/(?P<version>\d+|latest))")


@dataclass(frozen=True, slots=True)
class Version:
    """A version of a registered model; all of it is empty where a URI names none.

    Args:
        name: Registered model.
        version: Its version.
        tags: Of the version.
        run_id: The run that logged it.
    """

    name: str = ""
    version: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    run_id: str = ""


def find_version(uri: str) -> Version:
    """Return the version that a URI names; an empty one when it names none.

    Raises:
        UsageError: There is no such version.
        PreflightError: The store does not answer, or refuses.
    """
    client = connect()
    named = _REGISTERED.fullmatch(uri)
    if named is None:
        return Version()
    with asking(client.tracking_uri):
        try:
            if named["alias"]:
                return to_version(client.get_model_version_by_alias(named["name"], named["alias"]))
            # MLflow's own reading of "latest", which its registries know each in their way.
            return to_version(client.get_model_version(*get_model_name_and_version(client, uri)))
        except MlflowException as missing:
            if not is_missing(missing):
                raise
            problem, fix = _what_there_is(client, named["name"])
            raise UsageError("PHI3-U733", problem, where=uri, fix=fix) from missing


def to_version(found: ModelVersion) -> Version:
    """Return a version as the registry tells it."""
    return Version(found.name, str(found.version), dict(found.tags), found.run_id or "")


def connect() -> MlflowClient:
    """A client of the store that MLflow itself would use."""
    # MLflow draws its bar anew for each file: a help on a terminal, 300 lines in a log.
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", str(sys.stderr.isatty()))
    with asking(mlflow.get_tracking_uri()):
        return MlflowClient()


def _what_there_is(client: MlflowClient, name: str) -> tuple[str, str]:
    """What is wrong with a URI that leads nowhere, and the mend: another name, alias or version."""
    try:
        model = client.get_registered_model(name)
    except MlflowException as missing:
        if not is_missing(missing):
            raise
        most = SEARCH_REGISTERED_MODEL_MAX_RESULTS_THRESHOLD  # there may be more
        names = [model.name for model in client.search_registered_models(max_results=most)]
        fix = suggest(name, names, otherwise="register one by mlflow-phi3 register")
        return "no such registered model", fix
    known = [f"@{alias}" for alias in sorted(model.aliases)]
    known += [f"/{version.version}" for version in model.latest_versions]
    there = f"one of {', '.join(known)}" if known else "register one by mlflow-phi3 register"
    return f"{name} has no such version or alias", there
