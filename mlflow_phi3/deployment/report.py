"""How plans and deployments are shown: text and plain values, without secrets."""

import contextlib
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TransferSpeedColumn

from mlflow_phi3.azure.assets import ModelAsset, short_name
from mlflow_phi3.azure.online import Deployment, Endpoint, OnlineService
from mlflow_phi3.deployment.actions import CreateEndpoint, PutDeployment, in_words
from mlflow_phi3.deployment.names import Names
from mlflow_phi3.deployment.plan import Plan
from mlflow_phi3.modeling.catalog import find_machine_price

FLAVOR = "python_function"

NOTHING_TO_DO = "nothing to do: it is as wanted"
UNPRICED_HOUR = "by the hour, also when idle; -C usd_per_hour= computes it"


def describe(
    endpoint: Endpoint, deployments: Iterable[Deployment], name: str = ""
) -> dict[str, Any]:
    """Return an endpoint, or one deployment of it, as MLflow's command line prints it."""
    shown: dict[str, Any] = {
        "name": name or endpoint.name,
        "flavor": FLAVOR,
        "endpoint": endpoint.name,
        "state": endpoint.state,
        "scoring_uri": endpoint.scoring_uri,
        "traffic": dict(endpoint.traffic),
    }
    facts = {
        deployment.name: {
            "state": deployment.state,
            "model": short_name(deployment.model),
            "instance_type": deployment.instance_type,
            "instance_count": deployment.instance_count,
        }
        for deployment in deployments
    }
    if name in facts:
        return {**shown, **facts[name]}
    return {**shown, "deployments": facts} if facts else shown


def describe_plan(
    plan: Plan, requests: Sequence[tuple[str, Any]], *, usd_per_hour: float | None = None
) -> str:
    """Return a plan as text: actions, cost, and the exact requests."""
    if not plan.actions:
        return NOTHING_TO_DO
    lines = ["plan:", *(f"  {n}. {in_words(step)}" for n, step in enumerate(plan.actions, 1))]
    lines += [
        f"  cost of {step.deployment.name}: {_cost(step, usd_per_hour)}"
        for step in plan.actions
        if isinstance(step, PutDeployment)
    ]
    for line, body in requests:
        lines.append(line)
        if body is not None:
            lines.append(json.dumps(body, indent=2))
    return "\n".join(lines)


def describe_removal(names: Names, steps: Sequence[str]) -> str:
    """Return as text what a dry run would have deleted.

    Args:
        names: What shall go.
        steps: How it goes, in words; none when it is not there.
    """
    if not steps:
        whole = f"endpoint {names.endpoint}"
        part = f"deployment {names.endpoint}/{names.deployment}"
        return f"nothing to delete: there is no {part if names.deployment else whole} (dry run)"
    *first, last = steps
    before = f" (before: {'; '.join(first)})" if first else ""
    return f"would {last}{before}; nothing was deleted (dry run)"


def requests_of(
    plan: Plan, asset: ModelAsset | None, service: OnlineService
) -> list[tuple[str, Any]]:
    """Return the requests that a plan sends: method and path, and the body where it is shown.

    Args:
        plan: What will be done.
        asset: The model that is uploaded; None when none is.
        service: Of the project; makes the bodies.
    """
    requests: list[tuple[str, Any]] = []
    endpoints = f"{service.target.path}/onlineEndpoints"
    for action in plan.actions:
        match action:
            case CreateEndpoint(wanted):
                requests.append((f"PUT {endpoints}/{wanted.name}", service.body_of(wanted)))
            case PutDeployment(endpoint, deployment):
                path = f"{endpoints}/{endpoint}/deployments/{deployment.name}"
                if asset is not None:
                    requests.append((f"PUT {asset.id_in(service.target)}", None))
                requests.append((f"PUT {path}", service.body_of(deployment, endpoint)))
            case _:
                pass
    return requests


def _cost(step: PutDeployment, usd_per_hour: float | None) -> str:
    wanted = step.deployment
    machines = f"{wanted.instance_count} x {wanted.instance_type}"
    usd, source = _hourly(wanted.instance_type, usd_per_hour)
    if usd is None:
        return f"{machines}, {UNPRICED_HOUR}"
    total = usd * wanted.instance_count
    return f"{machines} at {usd:g} USD ({source}): {total:.2f} USD an hour, also when idle"


def _hourly(instance_type: str, given: float | None) -> tuple[float | None, str]:
    """What a machine costs an hour, and who says so; None where nobody does."""
    if given is not None:
        return given, "as given"
    price = find_machine_price(instance_type)
    if price is None:
        return None, ""
    return price.usd_per_hour, f"{price.as_of}, {price.source}"


@contextlib.contextmanager
def upload_bar(total_bytes: int) -> Iterator[Callable[[int], None]]:
    """Draw a progress bar on standard error while something is sent; nothing without a terminal.

    Args:
        total_bytes: How much there is.

    Yields:
        Gets the bytes that were sent in addition.
    """
    # The stream is taken now: the SDK's output is kept in by exchanging sys.stderr.
    console = Console(file=sys.stderr)
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(
        *columns,
        console=console,
        disable=not console.is_terminal,
        redirect_stdout=False,
        redirect_stderr=False,
    ) as bar:
        task = bar.add_task("upload", total=total_bytes)
        yield lambda size_bytes: bar.advance(task, size_bytes)
