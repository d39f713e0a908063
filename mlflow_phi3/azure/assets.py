"""Models and data of a project: content-addressed, so that the same content is sent once."""

import contextlib
import hashlib
import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from mlflow_phi3.azure.blobs import Progress, upload_folder
from mlflow_phi3.azure.client import Workspace
from mlflow_phi3.azure.target import Target
from mlflow_phi3.errors import UsageError

DIGEST_TAG = "phi3.sha256"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,199}")


@dataclass(frozen=True, slots=True)
class ModelAsset:
    """A model version as Azure names it.

    Args:
        name: Model name.
        version: The MLflow version and the begin of the content's digest.
        digest: SHA-256 over all files.
    """

    name: str
    version: str
    digest: str

    def id_in(self, target: Target) -> str:
        """Return its resource id."""
        return f"{target.path}/models/{self.name}/versions/{self.version}"


def name_asset(name: str, version: str, folder: Path) -> ModelAsset:
    """Return how a model folder is called in Azure.

    The digest in the version makes it impossible that two MLflow servers' ``chat`` version 1 meet.
    """
    digest = digest_folder(folder)
    clean = re.sub(r"[^A-Za-z0-9_.-]+", "-", name).strip("-._")[:200] or "model"
    return ModelAsset(clean, f"{version}-{digest[:12]}" if version else digest[:12], digest)


@dataclass(frozen=True, slots=True)
class DataAsset:
    """A version of a data asset.

    Args:
        name: Its name in the project.
        version: The begin of the content's digest.
        new: Whether it had to be made.
    """

    name: str
    version: str
    new: bool


def short_name(model_id: str) -> str:
    """``name/version`` of a model, from the id of its resource."""
    return "/".join(model_id.split("/")[-3::2])


def check_asset_name(name: str, where: str) -> str:
    """Return a name when Azure takes it for a model or data asset.

    Raises:
        UsageError: It does not.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(
            "PHI3-U776",
            f"{name!r} is not a name of at most 200 letters, digits, '-', '_' and '.'",
            where=where,
            fix="for example phi3-chat",
        )
    return name


def upload_data(workspace: Workspace, name: str, file: Path) -> DataAsset:
    """Make a file a version of the data asset ``name``, unless the same content is one already.

    Raises:
        AzureError: The upload or the registration failed; a re-run goes on.
    """
    from azure.ai.ml.entities import Data
    from azure.core.exceptions import ResourceNotFoundError

    with file.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    version, where = digest[:16], f"data {name}:{digest[:16]}"
    with workspace.session(where) as ml, contextlib.suppress(ResourceNotFoundError):
        ml.data.get(name, version)
        return DataAsset(name, version, new=False)
    with tempfile.TemporaryDirectory(prefix="mlflow-phi3-") as temporary:
        folder = Path(temporary) / "data"
        folder.mkdir()
        shutil.copyfile(file, folder / file.name)
        place = upload_folder(workspace, folder, digest, progress=lambda _size_bytes: None)
    with workspace.session(where) as ml:
        ml.data.create_or_update(
            Data(
                name=name,
                version=version,
                type="uri_file",
                path=f"{place}/{file.name}",
                tags={DIGEST_TAG: digest},
            )
        )
    return DataAsset(name, version, new=True)


def digest_folder(folder: Path) -> str:
    """Return a SHA-256 over names and contents of all files that would be uploaded."""
    total = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = path.relative_to(folder).as_posix()
        total.update(f"{name}\0{path.stat().st_size}\0".encode())
        with path.open("rb") as file:
            hashlib.file_digest(file, lambda: total)
    return total.hexdigest()


def upload_model(
    workspace: Workspace,
    asset: ModelAsset,
    folder: Path,
    tags: dict[str, str],
    *,
    progress: Progress = lambda _size_bytes: None,
) -> bool:
    """Make the model version when it is not there; tell whether it had to be made.

    Raises:
        AzureError: The upload or the registration failed; a re-run goes on.
    """
    from azure.ai.ml.entities import Model
    from azure.core.exceptions import ResourceNotFoundError

    where = f"model {asset.name}:{asset.version}"
    with workspace.session(where) as ml, contextlib.suppress(ResourceNotFoundError):
        ml.models.get(asset.name, asset.version)
        return False
    place = upload_folder(workspace, folder, asset.digest, progress=progress)
    with workspace.session(where) as ml:
        ml.models.create_or_update(
            Model(
                name=asset.name,
                version=asset.version,
                path=place,
                type="mlflow_model",
                tags={**tags, DIGEST_TAG: asset.digest},
            )
        )
    return True
