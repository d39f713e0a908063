"""Whether there is a Ray cluster to train on, found out without Ray, and within seconds."""

import importlib.util
import socket

from mlflow_phi3.errors import PreflightError

# Ray asks an address at which nobody listens for minutes.
_ANSWER_S = 10.0


def check_cluster(address: str) -> None:
    """Refuse Ray where it is not installed, and an address at which nothing listens.

    Args:
        address: ``host:port``; an empty one, ``auto`` and URLs are left to Ray.

    Raises:
        PreflightError: The package is missing, or nobody answers.
    """
    if importlib.util.find_spec("ray") is None:
        raise PreflightError(
            "PHI3-P084",
            "the package ray is not installed",
            where="backend",
            fix="pip install 'mlflow-phi3[ray]', or choose backend=local",
        )
    if address in {"", "auto", "local"} or "://" in address:
        return
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise no_cluster(address, "that is not host:port")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_S).close()
    except (OSError, OverflowError) as error:
        raise no_cluster(address, error) from error


def no_cluster(address: str, problem: object) -> PreflightError:
    """What to say where no cluster answers at ``address``."""
    return PreflightError(
        "PHI3-P085",
        f"no Ray cluster answers: {problem}",
        where=f"ray_address={address}" if address else "this machine",
        fix="start one with `ray start --head`, or leave ray_address empty",
    )
