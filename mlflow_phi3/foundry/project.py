"""The project of Azure AI Foundry that a target means; the emulator is started for ``:/local``."""

import os
from dataclasses import dataclass
from pathlib import Path

from mlflow_phi3.azure.client import Workspace, open_account, open_workspace
from mlflow_phi3.azure.target import Target, find_target, is_local
from mlflow_phi3.emulator.lifecycle import start_emulator
from mlflow_phi3.emulator.settings import SUBSCRIPTION, settings_from


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
        """Sign in and look the project up.

        Raises:
            AzureError: Sign-in fails, or there is no such project.
        """
        return open_workspace(self.target, self.environment)

    def open_account(self) -> Workspace:
        """Sign in; the project need not be there."""
        return open_account(self.target, self.environment)


def find_place(uri: str) -> Place:
    """Return the project that a target URI means.

    Raises:
        UsageError: The URI is of another form.
        PreflightError: It does not tell enough, or the emulator does not start.
    """
    environment: dict[str, str] = {}
    if is_local(uri):
        settings = settings_from(os.environ)
        environment = settings.environment(start_emulator(settings).port)
        uri = uri.removesuffix("/local").rstrip(":")
    return Place(find_target(uri, {**os.environ, **environment}, Path.cwd()), environment)


def open_project(uri: str) -> Workspace:
    """Sign in to the project that a target URI means.

    Raises:
        UsageError: The URI is of another form.
        PreflightError: It does not tell enough, or the emulator does not start.
        AzureError: Sign-in fails, or there is no such project.
    """
    return find_place(uri).open()


def is_emulated(uri: str) -> bool:
    """Tell whether a target URI means the emulator, also where its settings are the environment's.

    ``eval "$(mlflow-phi3 emulator env)"`` leads every Azure tool to it, with no other target.
    """
    return is_local(uri) or os.environ.get("AZURE_SUBSCRIPTION_ID") == SUBSCRIPTION
