"""The project of Azure AI Foundry that a target means; the emulator is started for ``:/local``."""

import os
from pathlib import Path

from mlflow_phi3.azure.client import Workspace, open_workspace
from mlflow_phi3.azure.target import find_target, is_local
from mlflow_phi3.emulator.lifecycle import start_emulator
from mlflow_phi3.emulator.settings import SUBSCRIPTION, settings_from


def open_project(uri: str) -> Workspace:
    """Sign in to the project that a target URI means.

    Raises:
        UsageError: The URI is of another form.
        PreflightError: It does not tell enough, or the emulator does not start.
        AzureError: Sign-in fails, or there is no such project.
    """
    environment: dict[str, str] = {}
    if is_local(uri):
        settings = settings_from(os.environ)
        environment = settings.environment(start_emulator(settings).port)
        uri = uri.removesuffix("/local").rstrip(":")
    target = find_target(uri, {**os.environ, **environment}, Path.cwd())
    return open_workspace(target, environment)


def is_emulated(uri: str) -> bool:
    """Tell whether a target URI means the emulator, also where its settings are the environment's.

    ``eval "$(mlflow-phi3 emulator env)"`` leads every Azure tool to it, with no other target.
    """
    return is_local(uri) or os.environ.get("AZURE_SUBSCRIPTION_ID") == SUBSCRIPTION
