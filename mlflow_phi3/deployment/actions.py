"""The remote changes that a plan is made of: values, and the words they are told in."""

from collections.abc import Mapping
from dataclasses import dataclass

from mlflow_phi3.azure.assets import short_name
from mlflow_phi3.azure.online import Deployment, Endpoint


@dataclass(frozen=True, slots=True)
class CreateEndpoint:
    """Make the endpoint."""

    endpoint: Endpoint


@dataclass(frozen=True, slots=True)
class PutDeployment:
    """Create a deployment, or change one (``before`` is then what it was)."""

    endpoint: str
    deployment: Deployment
    before: Deployment | None = None


@dataclass(frozen=True, slots=True)
class Verify:
    """Ask one deployment, whatever the traffic, before anybody else does."""

    endpoint: str
    deployment: str


@dataclass(frozen=True, slots=True)
class ShiftTraffic:
    """Change where requests go."""

    endpoint: str
    traffic: Mapping[str, int]
    before: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class RestoreTraffic:
    """Take a change of traffic back that was refused, or may have been done before it failed."""

    failed: ShiftTraffic


@dataclass(frozen=True, slots=True)
class RemoveDeployment:
    """Delete a deployment that gets no traffic (any more)."""

    endpoint: str
    deployment: str


@dataclass(frozen=True, slots=True)
class RemoveEndpoint:
    """Delete an endpoint with all its deployments, of which these are known."""

    endpoint: str
    deployments: tuple[str, ...] = ()


Action = (
    CreateEndpoint
    | PutDeployment
    | Verify
    | ShiftTraffic
    | RestoreTraffic
    | RemoveDeployment
    | RemoveEndpoint
)


def in_words(action: Action) -> str:
    """Return an action as a person reads it."""
    match action:
        case CreateEndpoint(endpoint):
            told = f"create endpoint {endpoint.name}"
        case PutDeployment(name, wanted, before):
            verb = "update" if before else "create"
            machines = f"{wanted.instance_count} x {wanted.instance_type}"
            model = short_name(wanted.model)
            told = f"{verb} deployment {name}/{wanted.name}: {model} on {machines}"
        case Verify(name, deployment):
            told = f"check the answers of {name}/{deployment}"
        case ShiftTraffic(name, traffic):
            told = f"traffic of {name} to {_shares(traffic)}"
        case RestoreTraffic(failed):
            told = f"traffic of {failed.endpoint} back to {_shares(failed.before)}"
        case RemoveDeployment(name, deployment):
            told = f"delete deployment {name}/{deployment}"
        case RemoveEndpoint(name, deployments):
            held = f" with its deployments {', '.join(deployments)}" if deployments else ""
            told = f"delete endpoint {name}{held}"
    return told


def _shares(traffic: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {share} %" for name, share in traffic.items()) or "nobody"
