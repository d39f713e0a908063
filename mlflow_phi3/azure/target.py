"""Where a deployment goes: a project of Azure AI Foundry, or the emulator on this machine."""

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow_phi3.errors import PreflightError, UsageError

SCHEME = "azure-foundry"
LOCAL = "local"

_VARIABLES = {
    "subscription": ("AZURE_SUBSCRIPTION_ID", "AZUREML_ARM_SUBSCRIPTION"),
    "group": ("AZURE_RESOURCE_GROUP", "AZUREML_ARM_RESOURCEGROUP"),
    "project": ("AZUREML_WORKSPACE_NAME", "AZUREML_ARM_WORKSPACE_NAME"),
}
"""Environment variables of Azure's own tools, the first that is set wins."""
_CONFIG_KEYS = {
    "subscription": "subscription_id",
    "group": "resource_group",
    "project": "workspace_name",
}
"""Keys of the ``config.json`` that the portal offers for download."""


@dataclass(frozen=True, slots=True)
class Target:
    """One project of Azure AI Foundry (a workspace, to the resource manager)."""

    subscription: str
    group: str
    project: str

    @property
    def subscription_path(self) -> str:
        """Resource id of the subscription."""
        return f"/subscriptions/{self.subscription}"

    @property
    def group_path(self) -> str:
        """Resource id of the resource group."""
        return f"{self.subscription_path}/resourceGroups/{self.group}"

    @property
    def path(self) -> str:
        """Resource id of the project."""
        workspaces = f"{self.group_path}/providers/Microsoft.MachineLearningServices/workspaces"
        return f"{workspaces}/{self.project}"


def is_local(uri: str) -> bool:
    """Tell whether a target URI means the emulator on this machine.

    Raises:
        UsageError: The URI is of another form.
    """
    return _parts(uri) == (LOCAL,)


def flag(uri: str) -> str:
    """What leads another command to the same project: nothing where the environment does."""
    return "" if uri == SCHEME else f" -t {shlex.quote(uri)}"


def shell_settings(target: Target, *, emulated: bool) -> str:
    """What a shell reads so that the target is the one that commands mean by themselves."""
    # The emulator's own settings name a project too, so that the target's come behind them.
    lines = ['eval "$(mlflow-phi3 emulator env)"'] if emulated else []
    for field, (variable, *_) in _VARIABLES.items():
        lines.append(f"export {variable}={shlex.quote(getattr(target, field))}")
    return "\n".join(lines)


def find_target(uri: str, environment: Mapping[str, str], folder: Path) -> Target:
    """Return the project that a target URI means.

    Args:
        uri: The target; what it leaves out is looked for in the environment, then in
            ``config.json`` or ``.azureml/config.json`` of the folder or the nearest one above it.
        environment: Environment variables.
        folder: Where the search for ``config.json`` begins.

    Raises:
        UsageError: The URI is of another form.
        PreflightError: Something is told nowhere.
    """
    parts = _parts(uri)
    if len(parts) == len(_VARIABLES):
        return Target(*parts)
    config = _config(folder)
    found: dict[str, str] = {}
    for name, variables in _VARIABLES.items():
        told = next((environment[v] for v in variables if environment.get(v)), None)
        found[name] = str(told or config.get(_CONFIG_KEYS[name]) or "")
    missing = [name for name, value in found.items() if not value]
    if missing:
        unset = ", ".join(_VARIABLES[name][0] for name in missing)
        raise PreflightError(
            "PHI3-P711",
            f"the target does not tell {', '.join(missing)}",
            where=uri,
            fix=(
                f"set {unset}, put the portal's config.json here, name all three as "
                f"{SCHEME}:/<subscription>/<resource group>/<project>, or try "
                f"{SCHEME}:/{LOCAL} without an account"
            ),
        )
    return Target(**found)


def _parts(uri: str) -> tuple[str, ...]:
    scheme, _, rest = uri.partition(":")
    parts = tuple(part for part in rest.split("/") if part)
    allowed = not parts or parts == (LOCAL,) or len(parts) == len(_VARIABLES)
    if scheme != SCHEME or not allowed:
        raise UsageError(
            "PHI3-U711",
            f"{uri!r} is not a target",
            where="--target",
            fix=f"{SCHEME}, {SCHEME}:/<subscription>/<resource group>/<project> or {SCHEME}:/local",
        )
    return parts


def _config(folder: Path) -> dict[str, Any]:
    for place in (folder, *folder.parents):
        for file in (place / "config.json", place / ".azureml" / "config.json"):
            if file.is_file():
                try:
                    content = json.loads(file.read_text(encoding="utf-8"))
                except ValueError:
                    continue  # some other program's
                if isinstance(content, dict) and "subscription_id" in content:
                    return content
    return {}
