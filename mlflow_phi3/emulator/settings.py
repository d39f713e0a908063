"""Where the emulator lives, who may sign in, and the settings under which Azure's tools find it."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mlflow_phi3.errors import PreflightError

HOME_VARIABLE = "MLFLOW_PHI3_EMULATOR_HOME"
"""Names the folder of the emulator's state; by default one beneath the cache folder."""
CACHE_VARIABLE = "MLFLOW_PHI3_CACHE"
"""Names the folder for what is downloaded once (Azurite)."""

SUBSCRIPTION = "00000000-0000-4000-8000-000000000001"
GROUP = "local"
WORKSPACE = "phi3"
TENANT = "00000000-0000-4000-8000-000000000002"
CLIENT = "00000000-0000-4000-8000-000000000003"
LOCATION = "eastus2"
"""The region that offers every Phi model."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The emulator's own settings.

    Args:
        home: Folder of state, certificates and logs.
        cache: Folder of what is downloaded once for all emulators of a user.
    """

    home: Path
    cache: Path

    @property
    def record(self) -> Path:
        """File that says how a running emulator is reached."""
        return self.home / "emulator.json"

    @property
    def log(self) -> Path:
        """File of what an emulator in the background prints."""
        return self.home / "emulator.log"

    @property
    def lock(self) -> Path:
        """File that a running emulator holds; it stays, and tells an emulator's home."""
        return self.home / "emulator.lock"

    def check_home(self) -> None:
        """Refuse a folder with files of others: the emulator writes and deletes in its home.

        Raises:
            PreflightError: It is neither empty nor an emulator's.
        """
        if self.home.is_dir() and not self.lock.exists():
            others = sorted(path.name for path in self.home.iterdir() if path != self.log)
            if others:
                raise PreflightError(
                    "PHI3-P712",
                    f"it holds other files, such as {others[0]!r}, and is no emulator's",
                    where=f"{HOME_VARIABLE}={self.home}",
                    fix="name a folder that is empty or not there yet",
                )

    def secret(self, name: str) -> str:
        """Return a secret of this home; made on first use, readable by its owner alone."""
        path = self.home / f"{name}.secret"
        if not path.exists():
            save_whole(path, secrets.token_urlsafe(48).encode())
        return path.read_text()

    def environment(self, port: int) -> dict[str, str]:
        """Return the settings, all of Azure's own tools, that lead those tools to the emulator."""
        url = f"https://localhost:{port}"
        return {
            "ARM_CLOUD_METADATA_URL": f"{url}/metadata/endpoints?api-version=2022-09-01",
            "AZURE_AUTHORITY_HOST": url,
            "AZURE_TENANT_ID": TENANT,
            "AZURE_CLIENT_ID": CLIENT,
            "AZURE_CLIENT_SECRET": self.secret("client"),
            "AZURE_SUBSCRIPTION_ID": SUBSCRIPTION,
            "AZURE_RESOURCE_GROUP": GROUP,
            "AZUREML_WORKSPACE_NAME": WORKSPACE,
            "REGISTRY_DISCOVERY_ENDPOINT_URL": f"{url}/",
            "REQUESTS_CA_BUNDLE": str(self.home / "bundle.pem"),
            "SSL_CERT_FILE": str(self.home / "bundle.pem"),  # httpx, which OpenAI's client uses
            "NO_PROXY": "localhost,127.0.0.1",
        }


def save_whole(path: Path, content: bytes) -> None:
    """Write a file for its owner alone: whoever is killed over it leaves what was, or none."""
    half = path.with_name(f"{path.name}.half")
    half.touch(mode=0o600)
    half.write_bytes(content)
    half.rename(path)


def settings_from(environment: Mapping[str, str]) -> Settings:
    """Return the settings that a process environment asks for."""
    cache = Path(
        environment.get(CACHE_VARIABLE)
        or Path(environment.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mlflow-phi3"
    )
    home = Path(environment.get(HOME_VARIABLE) or cache / "emulator")
    return Settings(home=home.resolve(), cache=cache.resolve())
