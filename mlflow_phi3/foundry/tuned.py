"""What Foundry tuned for a project: what is deployed of it, and in which order it can go."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from mlflow_phi3.azure.client import Workspace
from mlflow_phi3.azure.finetuning import JobService, JobState, TunedModel
from mlflow_phi3.azure.online import OnlineService
from mlflow_phi3.azure.operation import Deadline
from mlflow_phi3.azure.serverless import ServerlessService
from mlflow_phi3.errors import AzureError, UsageError


@dataclass(frozen=True, slots=True)
class Deployed:
    """A place where a model is served.

    Args:
        endpoint: The endpoint.
        deployment: The deployment of a managed endpoint; empty for a serverless one.
        alone: Whether the endpoint serves nothing else.
        traffic: Percentage of the endpoint's traffic that it gets.
    """

    endpoint: str
    deployment: str = ""
    alone: bool = True
    traffic: int = 100

    def to_delete(self) -> str:
        """The command that deletes it, with its endpoint where nothing else is on that."""
        flags = f"--endpoint {self.endpoint} --name {self.deployment}"
        flags = f"--name {self.endpoint}" if self.alone else flags
        return f"mlflow deployments delete -t azure-foundry {flags}"

    def __str__(self) -> str:
        if not self.deployment:
            return f"serverless endpoint {self.endpoint}"
        return f"deployment {self.deployment} of endpoint {self.endpoint}"


@dataclass(frozen=True, slots=True)
class Removal:
    """What goes, in this order.

    Args:
        deployments: First, for a model that is served cannot be deleted.
        model: Then the model version, or None.
        job: Or the job, or None.
    """

    deployments: tuple[Deployed, ...] = ()
    model: TunedModel | None = None
    job: JobState | None = None

    def lines(self) -> list[str]:
        """The steps, for people."""
        steps = [f"delete {_whole(place)}" for place in self.deployments]
        if self.model is not None:
            steps.append(f"delete model {self.model.name}:{self.model.version}")
        if self.job is not None:
            steps.append(f"delete job {self.job.name}")
        return [f"{number}. {step}" for number, step in enumerate(steps, 1)]


def plan_removal(
    found: TunedModel | JobState, deployed: Sequence[Deployed], *, cascade: bool
) -> Removal:
    """Return what has to go, and in which order.

    Args:
        found: The model or the job that is to be deleted.
        deployed: Where the model is served.
        cascade: Whether its deployments may go too.

    Raises:
        UsageError: A job that still runs; a model that is served, without ``cascade``; or one that
            shares an endpoint and gets requests.
    """
    if isinstance(found, JobState):
        if not found.ended:
            raise UsageError(
                "PHI3-U777",
                f"it is {found.status}",
                where=f"job {found.name}",
                fix=f"wait for its end, or mlflow-phi3 cancel {found.name}",
            )
        return Removal(job=found)
    where = f"model {found.name}:{found.version}"
    if deployed and not cascade:
        raise UsageError(
            "PHI3-U778",
            f"it is served by {', '.join(str(place) for place in deployed)}",
            where=where,
            fix=f"{'; '.join(place.to_delete() for place in deployed)}; or add --cascade",
        )
    for place in deployed:
        if not place.alone and place.traffic:
            raise UsageError(
                "PHI3-U779",
                f"{place} gets {place.traffic} % of the requests",
                where=where,
                fix=f"mlflow-phi3 promote {place.endpoint} moves them to another deployment",
            )
    return Removal(deployments=tuple(deployed), model=found)


def find_deployed(
    model: TunedModel, serverless: ServerlessService, online: OnlineService
) -> list[Deployed]:
    """Return where a model is served, of all endpoints of both kinds."""
    end = f"/models/{model.name}/versions/{model.version}".lower()
    found = [
        Deployed(endpoint.name)
        for endpoint in serverless.list_endpoints()
        if endpoint.model_id.lower().endswith(end)
    ]
    for endpoint in online.list_endpoints():
        deployments = online.list_deployments(endpoint.name)
        found += [
            Deployed(
                endpoint.name,
                deployment.name,
                alone=len(deployments) == 1,
                traffic=endpoint.traffic.get(deployment.name, 0),
            )
            for deployment in deployments
            if deployment.model.lower().endswith(end)
        ]
    return found


class Inventory:
    """The jobs and tuned models of one project.

    Args:
        workspace: The open project.
        timeout_s: How long all deletions together may take.
    """

    def __init__(self, workspace: Workspace, *, timeout_s: float = 1800.0) -> None:
        deadline = Deadline(timeout_s)
        self.service = JobService(workspace)
        self._online = OnlineService(workspace, deadline)
        self._serverless = ServerlessService(workspace, deadline)

    def find(self, name: str) -> TunedModel | JobState:
        """Return a job by its name, or a model by ``name:version`` (``name`` if it has but one).

        Raises:
            UsageError: There is none, or more than one.
        """
        job = None if ":" in name else self.service.get(name)
        if job is not None:
            return job
        called, _, version = name.partition(":")
        models = [m for m in self.service.tuned_models() if m.name == called]
        meant = [m for m in models if version in {"", m.version}]
        if len(meant) == 1:
            return meant[0]
        if meant:
            known = ", ".join(f"{m.name}:{m.version}" for m in meant)
            raise UsageError("PHI3-U780", "which version?", where=name, fix=f"one of {known}")
        raise UsageError(
            "PHI3-U781", "no such job or tuned model", where=name, fix="mlflow-phi3 list"
        )

    def deployed(self, model: TunedModel) -> list[Deployed]:
        """Return where a model is served."""
        return find_deployed(model, self._serverless, self._online)

    def remove(self, removal: Removal, told: Callable[[str], None]) -> None:
        """Do it, in order; what is gone is no error, so that a second call completes a first.

        Raises:
            AzureError: A step failed, or what serves the model was changed since this was planned:
                then it may serve another one. The steps after it were not begun.
        """
        for place in removal.deployments:
            as_planned = {place, replace(place, alone=True)}  # the other one may have gone just now
            if removal.model is not None and as_planned.isdisjoint(self.deployed(removal.model)):
                raise AzureError(
                    "PHI3-A736",
                    f"it was changed or deleted meanwhile, and may not serve {removal.model.name} "
                    "alone by now",
                    where=str(place),
                    fix="run the same command again",
                )
            told(f"deleting {_whole(place)}")
            if not place.deployment:
                self._serverless.delete(place.endpoint)
            elif place.alone:
                self._online.delete_endpoint(place.endpoint)
            else:
                self._online.delete_deployment(place.endpoint, place.deployment)
        if removal.model is not None:
            told(f"deleting model {removal.model.name}:{removal.model.version}")
            self.service.delete_model(removal.model)
        if removal.job is not None:
            told(f"deleting job {removal.job.name}")
            self.service.delete(removal.job.name)


def _whole(place: Deployed) -> str:
    """What is deleted for a place: a managed endpoint that would be left empty goes as a whole."""
    if place.deployment and place.alone:
        return f"endpoint {place.endpoint} with deployment {place.deployment}"
    return str(place)
