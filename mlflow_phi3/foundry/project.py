"""The project of Azure AI Foundry that a target means; the emulator is started for ``:/local``."""

import os
from dataclasses import dataclass
from pathlib import Path

from mlflow_phi3.azure.client import Workspace, open_account, open_workspace
from mlflow_phi3.azure.target import Target, find_target, is_local
from mlflow_phi3.emulator.lifecycle import start_emulator
from mlflow_phi3.emulator.settings import GROUP, SUBSCRIPTION, WORKSPACE, settings_from


@dataclass(frozen=True, slots=True)
class Place:
    """A project and how it is reached.

    Args:
        target: The project.
        local: Whether this machine's emulator is started for it, whatever the environment says.
    """

    target: Target
    local: bool = False

    @property
    def emulated(self) -> bool:
        """Whether it is the emulator's, also where the environment's settings lead there.

        ``eval "$(mlflow-phi3 emulator env)"`` leads every Azure tool to it.
        """
        return self.target.subscription == SUBSCRIPTION

    def open(self) -> Workspace:
        """Sign in and look the project up.

        Raises:
            PreflightError: The emulator does not start.
            AzureError: Sign-in fails, or there is no such project.
        """
        return open_workspace(self.target, self._environment())

    def open_account(self) -> Workspace:
        """Sign in; the project need not be there.

        Raises:
            PreflightError: The emulator does not start.
        """
        return open_account(self.target, self._environment())

    def _environment(self) -> dict[str, str]:
        """Settings that lead Azure's SDK there; empty where this process's do."""
        if not self.local:
            return {}
        settings = settings_from(os.environ)
        return settings.environment(start_emulator(settings).port)


def find_place(uri: str) -> Place:
    """Return the project that a target URI means.

    Raises:
        UsageError: The URI is of another form.
        PreflightError: It does not tell enough.
    """
    if is_local(uri):
        return Place(Target(SUBSCRIPTION, GROUP, WORKSPACE), local=True)
    return Place(find_target(uri, os.environ, Path.cwd()))


def open_project(uri: str) -> Workspace:
    """Sign in to the project that a target URI means.

    Raises:
        UsageError: The URI is of another form.
        PreflightError: It does not tell enough, or the emulator does not start.
        AzureError: Sign-in fails, or there is no such project.
    """
    return find_place(uri).open()
