"""The registry's side of a deployment: which model it is, and tags that say where it lives."""

import contextlib
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import mlflow
import yaml
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.utils.models import get_model_name_and_version

from mlflow_phi3.errors import PreflightError, UsageError
from mlflow_phi3.files import link_or_copy
from mlflow_phi3.tracking.missing import asking, is_missing, unless_missing
from mlflow_phi3.tracking.registry import CHAMPION, PREVIOUS, find_alias

_REGISTERED = re.compile(r"models:/(?P<name>[^/@]+)(?:@(?P<alias>[^/]+)|/(?P<version>\d+|latest))")
# MLflow writes registered_model_meta into what it hands out: it is no part of the content.
_LEFT_OUT = shutil.ignore_patterns(
    ".git", "__pycache__", ".ipynb_checkpoints", "registered_model_meta"
)


@dataclass(frozen=True, slots=True)
class DeployedModel:
    """A model that is to be deployed.

    Args:
        uri: As the caller named it.
        folder: Where its files lie, for reading only.
        name: Registered model, or empty.
        version: Its version, or empty.
        run_id: The run that logged it, or empty.
        tags: Of the version.
        mlmodel: Content of its ``MLmodel`` file.
        example: Its input example, or None.
    """

    uri: str
    folder: Path
    name: str
    version: str
    run_id: str
    tags: Mapping[str, str]
    mlmodel: Mapping[str, Any] = field(repr=False)
    example: Any = field(repr=False)


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


@contextlib.contextmanager
def opened_model(uri: str) -> Iterator[DeployedModel]:
    """Yield a model's files and what the registry knows of it; the files are gone afterwards.

    Raises:
        UsageError: There is no such model.
        PreflightError: The store does not answer, or refuses; or the files cannot be fetched.
    """
    version = _find_version(_connect(), uri)
    with tempfile.TemporaryDirectory(prefix="mlflow-phi3-") as temporary:
        try:
            folder = _fetch(uri, Path(temporary))
        except (MlflowException, OSError) as error:
            raise _unread(uri, error) from error
        mlmodel = yaml.safe_load((folder / "MLmodel").read_text(encoding="utf-8"))
        yield DeployedModel(
            uri=uri,
            folder=folder,
            name=version.name if version else "",
            version=str(version.version) if version else "",
            run_id=(version.run_id if version else mlmodel.get("run_id")) or "",
            tags=dict(version.tags) if version else {},
            mlmodel=mlmodel,
            example=_example(folder, mlmodel),
        )


def _fetch(uri: str, into: Path) -> Path:
    """A model's files in a folder of our own.

    It is always called "model", and without caches that would be uploaded.
    """
    fetched = into / "fetched"
    fetched.mkdir()
    # Into a folder of ours, or MLflow would leave a copy of a remote model behind.
    found = Path(mlflow.artifacts.download_artifacts(uri, dst_path=str(fetched)))
    if not (found / "MLmodel").is_file():
        raise UsageError(
            "PHI3-U731",
            "no MLmodel file: this is not an MLflow model",
            where=uri,
            fix="name a model by models:/<name>@champion or its folder",
        )
    folder = into / "model"
    shutil.copytree(found, folder, ignore=_LEFT_OUT, copy_function=link_or_copy)
    return folder


def _unread(uri: str, error: MlflowException | OSError) -> UsageError | PreflightError:
    """Tell a model that is not there from one that cannot be fetched."""
    # Of several files MLflow's first line says that some failed, and the last one why.
    problem = f"cannot be read: {str(error).splitlines()[-1]}"
    if isinstance(error, MlflowException) and is_missing(error):
        fix = "check the name, and MLFLOW_TRACKING_URI"
        return UsageError("PHI3-U732", problem, where=uri, fix=fix)
    fix = "mend what it says, or let TMPDIR name a folder on a disk with more room"
    return PreflightError("PHI3-P089", problem, where=uri, fix=fix)


class DeploymentRegistry:
    """Aliases and tags of registered models, as promotion and deployment move them.

    All of it raises PreflightError when the store does not answer, or refuses.
    """

    def __init__(self, client: MlflowClient | None = None) -> None:
        self._given = client

    @cached_property
    def _client(self) -> MlflowClient:
        """Connected when it is first asked: what only calls Azure does without."""
        return self._given or _connect()

    def get_champion(self, name: str) -> str:
        """Return the champion's version, or an empty text."""
        with self._asking():
            found = find_alias(self._client, name, CHAMPION)
        return "" if found is None else str(found.version)

    def set_champion(self, name: str, version: str, previous: str) -> None:
        """Point ``champion`` at a version and ``previous`` at another; empty removes an alias."""
        with self._asking():
            for alias, target in ((CHAMPION, version), (PREVIOUS, previous)):
                if target:
                    self._client.set_registered_model_alias(name, alias, target)
                elif find_alias(self._client, name, alias) is not None:
                    self._client.delete_registered_model_alias(name, alias)

    def tag(self, model: DeployedModel, tags: Mapping[str, str]) -> None:
        """Write tags on the version and on the run that it came from."""
        with self._asking():
            for key, value in tags.items():
                if model.name:
                    self._client.set_model_version_tag(model.name, model.version, key, value)
                if model.run_id:
                    with unless_missing():  # the run may live on another server
                        self._client.set_tag(model.run_id, key, value)

    def find(self, name: str, version: str) -> Version:
        """Return a version; an empty one where none is named, or this store has none such."""
        found = Version()
        if name and version:
            with self._asking(), unless_missing():
                found = _to_version(self._client.get_model_version(name, version))
        return found

    def read_example(self, version: Version) -> Any:
        """Return a version's input example; None where there is none."""
        if not version.name:
            return None
        uri = f"models:/{version.name}/{version.version}"
        with self._asking(), tempfile.TemporaryDirectory(prefix="mlflow-phi3-") as folder:
            mlmodel = yaml.safe_load(mlflow.artifacts.load_text(f"{uri}/MLmodel"))
            if info := mlmodel.get("saved_input_example_info"):
                path = f"{uri}/{info['artifact_path']}"
                mlflow.artifacts.download_artifacts(path, dst_path=folder)
            return _example(Path(folder), mlmodel)

    def read_json(self, run_id: str, path: str) -> dict[str, Any] | None:
        """Return an artifact of a run; None when there is no such run or artifact here."""
        if not run_id:
            return None
        with self._asking():
            there = []
            with unless_missing():  # the run may live on another server
                there = self._client.list_artifacts(run_id, path.rpartition("/")[0])
            if path not in {file.path for file in there}:
                return None
            return dict(json.loads(mlflow.artifacts.load_text(f"runs:/{run_id}/{path}")))

    def write_json(self, run_id: str, content: Mapping[str, Any], path: str) -> None:
        """Write an artifact of a run; a run that lives on another server is left alone."""
        if run_id:
            with self._asking(), unless_missing():
                self._client.log_dict(run_id, dict(content), path)

    def note_deleted(self, name: str, version: str, place: Mapping[str, str]) -> None:
        """Say of a version that it is deleted, unless its tags name another place by now.

        Args:
            name: Registered model.
            version: Its version; one that is gone is no error.
            place: Tags that say where it was deployed.
        """
        with self._asking(), unless_missing():
            tags = self._client.get_model_version(name, version).tags
            if all(tags.get(key, value) == value for key, value in place.items()):
                self._client.set_model_version_tag(name, version, "azure.state", "deleted")

    def tag_version(self, name: str, version: str, tags: Mapping[str, str]) -> None:
        """Write tags on a version; one that is gone is no error."""
        with self._asking():
            for key, value in tags.items():
                with unless_missing():
                    self._client.set_model_version_tag(name, version, key, value)

    def _asking(self) -> contextlib.AbstractContextManager[None]:
        return asking(self._client.tracking_uri)


def find_version(uri: str) -> Version:
    """Return the version that a URI names; an empty one when it names none.

    Raises:
        UsageError: There is no such version.
        PreflightError: The store does not answer, or refuses.
    """
    found = _find_version(_connect(), uri)
    if found is None:
        return Version()
    return _to_version(found)


def _to_version(found: Any) -> Version:
    return Version(found.name, str(found.version), dict(found.tags), found.run_id or "")


def _connect() -> MlflowClient:
    """A client of the store that MLflow itself would use."""
    # MLflow draws its bar anew for each file: a help on a terminal, 300 lines in a log.
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", str(sys.stderr.isatty()))
    with asking(mlflow.get_tracking_uri()):
        return MlflowClient()


def _find_version(client: MlflowClient, uri: str) -> Any:
    named = _REGISTERED.fullmatch(uri)
    if named is None:
        return None
    with asking(client.tracking_uri):
        try:
            if named["alias"]:
                return client.get_model_version_by_alias(named["name"], named["alias"])
            # MLflow's own reading of "latest", which its registries know each in their way.
            return client.get_model_version(*get_model_name_and_version(client, uri))
        except MlflowException as missing:
            if not is_missing(missing):
                raise
            raise UsageError(
                "PHI3-U733",
                "no such registered model, version or alias",
                where=uri,
                fix="list them in the UI, or register one by mlflow-phi3 register",
            ) from missing


def _example(folder: Path, mlmodel: Mapping[str, Any]) -> Any:
    info = mlmodel.get("saved_input_example_info") or {}
    path = folder / str(info.get("artifact_path") or "input_example.json")
    if not path.is_file():
        return None
    content = json.loads(path.read_text(encoding="utf-8"))
    if info.get("pandas_orient") == "split" and isinstance(content, dict):
        columns = content.get("columns") or []
        return [dict(zip(columns, row, strict=False)) for row in content.get("data", [])]
    return content
