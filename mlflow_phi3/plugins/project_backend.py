"""``mlflow run . -b azure-foundry``: the training as a fine-tuning job of Azure AI Foundry.

A process of its own follows the job, as ``mlflow run`` would start one for a local training; so
Ctrl-C, ``mlflow.run(synchronous=False)`` and the run's status mean what they always mean.
"""

import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import click  # MLflow's command line is made of it
from mlflow import MlflowClient
from mlflow.exceptions import ExecutionException
from mlflow.projects import utils
from mlflow.projects.backend.abstract_backend import AbstractBackend
from mlflow.projects.submitted_run import LocalSubmittedRun, SubmittedRun
from mlflow.utils.mlflow_tags import MLFLOW_PROJECT_BACKEND, MLFLOW_RUN_NAME

from mlflow_phi3.config.foundry import FoundryJobConfig
from mlflow_phi3.config.parse import parse_values, suggest
from mlflow_phi3.config.words import TrainWord
from mlflow_phi3.errors import Phi3Error, UsageError
from mlflow_phi3.plugins.failures import as_mlflow
from mlflow_phi3.tracking.tracker import close_orphan

_NAME = "azure-foundry"
_ENTRY_POINTS = ("main", "train")
_PROGRAM = (
    "import sys; from mlflow_phi3.workflows.entry import run; sys.exit(run('train', sys.argv[1:]))"
)
# What MLflow itself puts beside a backend's configuration.
_MLFLOWS_OWN = frozenset(
    {
        utils.PROJECT_ENV_MANAGER,
        utils.PROJECT_SYNCHRONOUS,
        utils.PROJECT_DOCKER_ARGS,
        utils.PROJECT_STORAGE_DIR,
        utils.PROJECT_BUILD_IMAGE,
        utils.PROJECT_DOCKER_AUTH,
    }
)


class FoundryBackend(AbstractBackend):  # type: ignore[misc]  # mlflow's types are not followed
    """Submits and follows a fine-tuning job."""

    def run(
        self,
        project_uri: str,
        entry_point: str,
        params: Mapping[str, Any],
        version: str | None,
        backend_config: Mapping[str, Any],
        tracking_uri: str,
        experiment_id: str,
    ) -> SubmittedRun:
        """Start following; what cannot be meant is refused before a run is made.

        Args:
            project_uri: The project.
            entry_point: ``main`` or ``train``: one training.
            params: As of ``-P``.
            version: Commit or branch of a project in git.
            backend_config: Parameters of ``FoundryJobConfig``, such as ``azure_target``.
            tracking_uri: Where the run is kept.
            experiment_id: Its experiment.

        Raises:
            MlflowException: A parameter or an entry point that has no meaning in Foundry.
        """
        try:
            values = to_values(entry_point, params or {}, backend_config or {})
        except Phi3Error as error:
            raise as_mlflow(error) from None
        folder = utils.fetch_and_validate_project(project_uri, version, entry_point, params)
        run = utils.get_or_create_run(
            None, project_uri, experiment_id, folder, version, entry_point, params
        )
        command_line = click.get_current_context(silent=True)
        if command_line is not None:
            _tag(run.info.run_id, command_line.params.get("run_name"))
        surroundings = utils.get_run_env_vars(run.info.run_id, experiment_id)
        arguments = [text for name, value in values.items() for text in (f"--{name}", value)]
        process = subprocess.Popen(  # noqa: S603 - our own program
            [sys.executable, "-c", _PROGRAM, *arguments],
            env={**os.environ, **surroundings, "MLFLOW_TRACKING_URI": tracking_uri},
            start_new_session=True,  # so that cancelling ends all of it, and it alone
        )
        submitted = LocalSubmittedRun(run.info.run_id, process)
        # MLflow's command line waits for its own backends alone, and we follow only while it lives.
        if command_line is not None:
            wait_for(submitted)
        return submitted


def wait_for(submitted: SubmittedRun) -> None:
    """Wait for the end of a run, as ``mlflow run`` does for a local one.

    A run that is RUNNING after a failure or Ctrl-C, because what follows the job had not taken it
    up, is closed.

    Args:
        submitted: The run.

    Raises:
        ExecutionException: It failed.
        KeyboardInterrupt: As it came; the process that follows the job has been told to stop.
    """
    try:
        finished = submitted.wait()
    except KeyboardInterrupt:
        submitted.cancel()
        close_orphan(submitted.run_id, "KILLED")
        raise
    if not finished:
        close_orphan(submitted.run_id, "FAILED")
        raise ExecutionException(f"Run (ID '{submitted.run_id}') failed")


def _tag(run_id: str, run_name: str | None) -> None:
    """Set what MLflow sets once the backend returns: on its command line that is at the end."""
    client = MlflowClient()
    client.set_tag(run_id, MLFLOW_PROJECT_BACKEND, _NAME)
    if run_name is not None:
        client.set_tag(run_id, MLFLOW_RUN_NAME, run_name)


def to_values(
    entry_point: str, params: Mapping[str, Any], backend_config: Mapping[str, Any]
) -> dict[str, str]:
    """Return the parameters of ``train``, checked.

    Raises:
        UsageError: Something has no meaning in Foundry.
    """
    if entry_point not in _ENTRY_POINTS:
        raise UsageError(
            "PHI3-U782",
            f"the entry point {entry_point!r} does not run in Foundry",
            where="-e",
            fix=f"one of {', '.join(_ENTRY_POINTS)}",
        )
    own = {name: value for name, value in backend_config.items() if name not in _MLFLOWS_OWN}
    known = list(FoundryJobConfig.model_fields)
    for name in own:
        if name not in known:
            place = f"backend config {name}"
            raise UsageError("PHI3-U783", "unknown key", where=place, fix=suggest(name, known))
    values = {name: str(value) for name, value in {**own, **params, "backend": "foundry"}.items()}
    parse_values(TrainWord, values)
    return {name: value for name, value in values.items() if value}
