"""How a command finds its project: the emulator is started for ``azure-foundry:/local``."""

import os
from dataclasses import dataclass
from pathlib import Path

import typer

from mlflow_phi3.azure.client import Workspace, open_account, open_workspace
from mlflow_phi3.azure.target import Target, find_target, is_local
from mlflow_phi3.emulator.lifecycle import start_emulator
from mlflow_phi3.emulator.settings import settings_from

TARGET = typer.Option("azure-foundry", "--target", "-t", help="As of `mlflow deployments`.")
AS_JSON = typer.Option(False, "--json", help="For machines.")


@dataclass(frozen=True, slots=True)
class Place:
    """A project and how it is reached.

    Args:
        target: The project.
        environment: Settings that lead Azure's SDK there; empty for Azure itself.
    """

    target: Target
    environment: dict[str, str]

    def open(self) -> Workspace:
        """Sign in and look the project up."""
        return open_workspace(self.target, self.environment)

    def open_account(self) -> Workspace:
        """Sign in; the project need not be there."""
        return open_account(self.target, self.environment)


def find_place(uri: str) -> Place:
    """Return the project that a target URI means.

    Raises:
        UsageError: The URI is of another form.
        PreflightError: It does not tell enough.
    """
    environment: dict[str, str] = {}
    if is_local(uri):
        settings = settings_from(os.environ)
        environment = settings.environment(start_emulator(settings).port)
        uri = uri.removesuffix("/local").rstrip(":")
    return Place(find_target(uri, {**os.environ, **environment}, Path.cwd()), environment)
