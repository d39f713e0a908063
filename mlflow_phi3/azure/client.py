"""The only place that builds Microsoft's client."""

import contextlib
import os
import socket
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mlflow_phi3.azure.quiet import applied, quiet
from mlflow_phi3.azure.target import Target
from mlflow_phi3.errors import PreflightError

_PUBLIC_AUTHORITIES = (
    "login.microsoftonline.com",
    "login.microsoftonline.us",
    "login.chinacloudapi.cn",
    "login.partner.microsoftonline.cn",
)
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


@dataclass(frozen=True, slots=True)
class Workspace:
    """An open project.

    Args:
        target: Which one.
        ml: Microsoft's client; used inside :meth:`session` only.
        location: Azure region.
        environment: Settings that hold while the client works.
    """

    target: Target
    ml: Any = field(repr=False)
    location: str
    environment: Mapping[str, str] = field(repr=False)

    @contextlib.contextmanager
    def session(self, where: str) -> Iterator[Any]:
        """Yield the client, quiet and with its errors translated, for work on ``where``."""
        from mlflow_phi3.azure.failures import translated

        with translated(where), applied(self.environment), quiet():
            yield self.ml

    def trust(self) -> ssl.SSLContext:
        """Return whom calls of endpoints trust: what ``REQUESTS_CA_BUNDLE`` names, as the SDK."""
        bundle = self.environment.get("REQUESTS_CA_BUNDLE") or os.environ.get("REQUESTS_CA_BUNDLE")
        if bundle and Path(bundle).is_dir():
            return ssl.create_default_context(capath=bundle)
        return ssl.create_default_context(cafile=bundle or None)


def open_workspace(target: Target, environment: Mapping[str, str] | None = None) -> Workspace:
    """Sign in and look the project up.

    Args:
        target: Which one.
        environment: Settings to lay over this process's, such as the emulator's.

    Raises:
        AzureError: Sign-in fails, or there is no such project.
    """
    account = open_account(target, environment)
    with account.session(target.path) as ml:
        return replace(account, location=str(ml.workspaces.get(target.project).location))


def open_account(target: Target, environment: Mapping[str, str] | None = None) -> Workspace:
    """Make the client without asking whether the project is there: its location is empty.

    Args:
        target: Which project; what it names may be missing yet.
        environment: As of :func:`open_workspace`.

    Raises:
        PreflightError: The settings lead to the emulator, which does not run.
    """
    settings = dict(environment or {})
    with applied(settings), quiet():
        from azure.ai.ml import MLClient
        from azure.identity import DefaultAzureCredential

        from mlflow_phi3.azure.failures import translated

        authority = os.environ.get("AZURE_AUTHORITY_HOST", _PUBLIC_AUTHORITIES[0])
        # An authority of a private cloud cannot be vouched for by the public one.
        private = not any(host in authority for host in _PUBLIC_AUTHORITIES)
        _require_listener(authority)
        with translated(target.path):
            ml = MLClient(
                DefaultAzureCredential(disable_instance_discovery=private),
                target.subscription,
                target.group,
                target.project,
                enable_telemetry=False,
            )
    return Workspace(target, ml, "", settings)


def _require_listener(authority: str) -> None:
    """Refuse settings that lead to an emulator which has ended: the SDK blames the sign-in then."""
    place = urlsplit(authority if "//" in authority else f"https://{authority}")
    if place.hostname not in _LOOPBACK:
        return
    try:
        socket.create_connection((place.hostname, place.port or 443), timeout=5).close()
    except ConnectionRefusedError as refused:
        raise PreflightError(
            "PHI3-P710",
            "this shell's settings lead to the emulator, which does not run",
            where=f"AZURE_AUTHORITY_HOST {authority}",
            fix='mlflow-phi3 emulator start, then eval "$(mlflow-phi3 emulator env)" once more, as '
            "its port may be another; for Azure itself, open a new shell",
        ) from refused
    except OSError:  # it is there, and slow: the SDK has more patience
        return
