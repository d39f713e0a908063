"""A model's files: fetched for a deployment, or looked into where they lie."""

import contextlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlflow
import yaml
from mlflow.exceptions import MlflowException

from mlflow_phi3.errors import PreflightError, UsageError
from mlflow_phi3.files import link_or_copy
from mlflow_phi3.tracking.missing import asking, is_missing
from mlflow_phi3.tracking.versions import Version, find_version

# MLflow writes registered_model_meta into what it hands out: it is no part of the content.
_LEFT_OUT = shutil.ignore_patterns(
    ".git", "__pycache__", ".ipynb_checkpoints", "registered_model_meta"
)


@dataclass(frozen=True, slots=True)
class OpenedModel:
    """A model whose files were fetched, and what the registry knows of it.

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


@contextlib.contextmanager
def opened_model(uri: str) -> Iterator[OpenedModel]:
    """Yield a model's files and what the registry knows of it; the files are gone afterwards.

    Raises:
        UsageError: There is no such model.
        PreflightError: The store does not answer, or refuses; or the files cannot be fetched.
    """
    version = find_version(uri)
    with tempfile.TemporaryDirectory(prefix="mlflow-phi3-") as temporary:
        try:
            folder = _fetch(uri, Path(temporary))
        except (MlflowException, OSError) as error:
            raise _unread(uri, error) from error
        mlmodel = yaml.safe_load((folder / "MLmodel").read_text(encoding="utf-8"))
        yield OpenedModel(
            uri=uri,
            folder=folder,
            name=version.name,
            version=version.version,
            run_id=(version.run_id if version.name else mlmodel.get("run_id")) or "",
            tags=version.tags,
            mlmodel=mlmodel,
            example=_example(folder, mlmodel),
        )


def read_example(version: Version) -> Any:
    """Return a version's input example; None where there is none.

    Raises:
        PreflightError: The store does not answer, or refuses.
    """
    if not version.name:
        return None
    uri = f"models:/{version.name}/{version.version}"
    store = asking(mlflow.get_tracking_uri())
    with store, tempfile.TemporaryDirectory(prefix="mlflow-phi3-") as folder:
        mlmodel = yaml.safe_load(mlflow.artifacts.load_text(f"{uri}/MLmodel"))
        if info := mlmodel.get("saved_input_example_info"):
            path = f"{uri}/{info['artifact_path']}"
            mlflow.artifacts.download_artifacts(path, dst_path=folder)
        return _example(Path(folder), mlmodel)


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
