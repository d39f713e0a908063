"""The registry's side of a deployment: aliases, and tags that say where a version runs."""

import contextlib
import json
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import mlflow
from mlflow import MlflowClient

from mlflow_phi3.tracking.missing import asking, unless_missing
from mlflow_phi3.tracking.model_files import OpenedModel
from mlflow_phi3.tracking.registry import CHAMPION, find_alias, move_champion
from mlflow_phi3.tracking.tags import DELETED, DEPLOYED, STATE_TAG
from mlflow_phi3.tracking.versions import Version, connect, to_version


class DeploymentRegistry:
    """Aliases and tags of registered models, as promotion and deployment move them.

    All of it raises PreflightError when the store does not answer, or refuses.
    """

    def __init__(self, client: MlflowClient | None = None) -> None:
        self._given = client

    @cached_property
    def _client(self) -> MlflowClient:
        """Connected when it is first asked: what only calls Azure does without."""
        return self._given or connect()

    def get_champion(self, name: str) -> str:
        """Return the champion's version, or an empty text."""
        with self._asking():
            found = find_alias(self._client, name, CHAMPION)
        return "" if found is None else str(found.version)

    def set_champion(self, name: str, version: str, previous: str) -> None:
        """Point ``champion`` at a version and ``previous`` at another; empty removes an alias."""
        with self._asking():
            move_champion(self._client, name, version, previous)

    def tag(self, model: OpenedModel, tags: Mapping[str, str]) -> None:
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
                found = to_version(self._client.get_model_version(name, version))
        return found

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
                self._client.set_model_version_tag(name, version, STATE_TAG, DELETED)

    def find_deployed(self, place: Mapping[str, str]) -> list[tuple[str, str]]:
        """Return the names and versions that are noted as deployed at a place.

        Args:
            place: Tags that say where.
        """
        wanted = {**place, STATE_TAG: DEPLOYED}
        query = " AND ".join(f"tags.`{key}` = '{value}'" for key, value in wanted.items())
        with self._asking():
            found = self._client.search_model_versions(query)
        return [(str(one.name), str(one.version)) for one in found]

    def tag_version(self, name: str, version: str, tags: Mapping[str, str]) -> None:
        """Write tags on a version; one that is gone is no error."""
        with self._asking():
            for key, value in tags.items():
                with unless_missing():
                    self._client.set_model_version_tag(name, version, key, value)

    def _asking(self) -> contextlib.AbstractContextManager[None]:
        return asking(self._client.tracking_uri)
