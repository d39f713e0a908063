"""What a name and an endpoint, as MLflow hands them over, mean together."""

from dataclasses import dataclass

from mlflow_phi3.azure.names import check_name
from mlflow_phi3.errors import UsageError


@dataclass(frozen=True, slots=True)
class Names:
    """What the caller named.

    Args:
        endpoint: The endpoint.
        deployment: One deployment of it; empty when the endpoint as a whole (a service, whose
            deployments blue/green takes care of) is meant.
    """

    endpoint: str
    deployment: str = ""

    @property
    def given(self) -> str:
        """The name that was given for the whole."""
        return self.deployment or self.endpoint


def names_of(name: str | None, endpoint: str | None) -> Names:
    """Return what is meant: a service by its name alone, or a deployment of an endpoint.

    Raises:
        UsageError: Neither, or a name that Azure refuses.
    """
    if not name and not endpoint:
        raise UsageError("PHI3-U734", "no name", fix="give --name, --endpoint or both")
    if not endpoint:
        return Names(check_name(str(name), "--name"))
    check_name(endpoint, "--endpoint")
    return Names(endpoint, check_name(name, "--name") if name else "")
