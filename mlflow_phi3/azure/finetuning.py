"""Fine-tuning jobs of a project: submit once, look, cancel, delete; their metrics and models."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from mlflow_phi3.azure.client import Workspace
from mlflow_phi3.azure.registry import REGISTRY
from mlflow_phi3.azure.resource_manager import ResourceManager
from mlflow_phi3.errors import AzureError, UsageError

OUTPUT = "registered_model"
ENDED = frozenset({"Completed", "Failed", "Canceled"})
NO_MODEL = "PHI3-A731"
"""The code of the error that a completed job's model is not there."""
_VERSION = "2024-10-01-preview"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_EXPERIMENT = "mlflow-phi3"
_TASK = "ChatCompletion"


@dataclass(frozen=True, slots=True)
class FineTuning:
    """A job that is wanted.

    Args:
        name: Of the job, unique in the project for ever.
        base: Base model, by its name in the registry.
        base_version: Its version there.
        train: Address of the training data.
        validation: Address of the validation data.
        hyperparameters: As Foundry takes them.
        output: Name that the tuned model gets.
        tags: Tags of the job.
    """

    name: str
    base: str
    base_version: str
    train: str
    validation: str
    hyperparameters: Mapping[str, str]
    output: str
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def base_uri(self) -> str:
        """Address of the base model."""
        return f"azureml://registries/{REGISTRY}/models/{self.base}/versions/{self.base_version}"


@dataclass(frozen=True, slots=True)
class TunedModel:
    """A model version that a job made.

    Args:
        name: Its name in the project.
        version: Its version.
        id: ``azureml://locations/...``, as a serverless endpoint wants it.
        job: The job.
        base: Address of the base model, where told.
        created: When, ISO 8601.
    """

    name: str
    version: str
    id: str
    job: str
    base: str = ""
    created: str = ""


@dataclass(frozen=True, slots=True)
class JobState:
    """A job as Azure tells it.

    Args:
        name: Its name.
        status: ``NotStarted`` ... ``Completed``, ``Failed`` or ``Canceled``.
        output: Name of the tuned model.
        base: Address of the base model.
        hyperparameters: As sent.
        tags: As sent.
        url: Its page in the portal.
        created: When, ISO 8601.
    """

    name: str
    status: str
    output: str
    base: str
    hyperparameters: Mapping[str, str]
    tags: Mapping[str, str]
    url: str
    created: str

    @property
    def ended(self) -> bool:
        """Whether it will not change any more."""
        return self.status in ENDED


@dataclass(frozen=True, slots=True)
class Point:
    """One value of a metric of a job."""

    key: str
    value: float
    step: int


def to_yaml(wanted: FineTuning) -> str:
    """The job as ``az ml job create --file`` takes it."""
    import yaml

    content = {
        "type": "finetuning",
        "name": wanted.name,
        "experiment_name": _EXPERIMENT,
        "model_provider": "custom",
        "task": "chat_completion",
        "model": {"type": "mlflow_model", "path": wanted.base_uri},
        "training_data": {"type": "uri_file", "path": wanted.train},
        "validation_data": {"type": "uri_file", "path": wanted.validation},
        "hyperparameters": dict(wanted.hyperparameters),
        "outputs": {OUTPUT: {"type": "mlflow_model", "name": wanted.output}},
        "tags": dict(wanted.tags),
    }
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)


class JobService:
    """All remote calls for the jobs and tuned models of one project.

    Args:
        workspace: The open project.
    """

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._manager = ResourceManager(workspace)
        self._place = ""
        self._api = ""

    @property
    def place(self) -> str:
        """How addresses of the project's assets begin: ``azureml://locations/...``."""
        if not self._place:
            with self._workspace.session(self._workspace.target.path) as ml:
                found = ml.workspaces.get(self._workspace.target.project)._workspace_id  # noqa: SLF001 - as Microsoft's samples
            self._place = f"azureml://locations/{self._workspace.location}/workspaces/{found}"
        return self._place

    def submit(self, wanted: FineTuning) -> JobState:
        """Submit a job, once: a name that the project knows already is not sent again.

        Raises:
            AzureError: Refused, or no answer; a re-run finds what was submitted.
        """
        from azure.ai.ml import Input, Output
        from azure.ai.ml.entities._job.finetuning.custom_model_finetuning_job import (
            CustomModelFineTuningJob,
        )

        known = self.get(wanted.name)
        if known is not None:
            return known
        with self._workspace.session(f"job {wanted.name}") as ml:
            # Not create_finetuning_job: it fails without validation data (azure-ai-ml 1.35.2).
            job = CustomModelFineTuningJob(
                name=wanted.name,
                display_name=wanted.name,
                experiment_name=_EXPERIMENT,
                tags=dict(wanted.tags),
                task=_TASK,
                model=Input(type="mlflow_model", path=wanted.base_uri),
                training_data=Input(type="uri_file", path=wanted.train),
                validation_data=Input(type="uri_file", path=wanted.validation),
                hyperparameters=dict(wanted.hyperparameters),
                outputs={OUTPUT: Output(type="mlflow_model", name=wanted.output)},
            )
            job.task = _TASK  # its constructor has lowered the first letter; the type has not
            ml.jobs.create_or_update(job)
        state = self.get(wanted.name)
        if state is None:
            raise AzureError("PHI3-A735", "it was deleted meanwhile", where=f"job {wanted.name}")
        return state

    def get(self, name: str) -> JobState | None:
        """Return a fine-tuning job, or None.

        Raises:
            UsageError: It is a job of another kind.
        """
        if not _NAME.fullmatch(name):
            return None  # no job is called so, and its address would be another thing's
        found = self._manager.get(self._path_of(name), _VERSION, where=f"job {name}")
        if found is None:
            return None
        state = _from_body(found.body)
        if state is None:
            raise UsageError(
                "PHI3-U788",
                f"it is a job of another kind: {_kind_of(found.body)}",
                where=f"job {name}",
                fix="mlflow-phi3 list names the fine-tuning jobs",
            )
        return state

    def require(self, name: str) -> JobState:
        """Return a fine-tuning job.

        Raises:
            UsageError: There is none, or it is a job of another kind.
        """
        state = self.get(name)
        if state is None:
            fix = "mlflow-phi3 list names them"
            raise UsageError("PHI3-U773", f"no job {name!r}", where="job", fix=fix)
        return state

    def list_jobs(self) -> list[JobState]:
        """Return the fine-tuning jobs of the project, newest first."""
        states = [_from_body(one) for one in self._list("jobs", "jobs")]
        found = (state for state in states if state is not None)
        return sorted(found, key=lambda state: state.created, reverse=True)

    def cancel(self, name: str) -> None:
        """Ask Azure to stop a job; one that has ended is left as it is."""
        with self._workspace.session(f"job {name}") as ml:
            ml.jobs.begin_cancel(name)

    def delete(self, name: str) -> None:
        """Delete a job; one that is gone is no error.

        Raises:
            AzureError: It still runs.
        """
        self._manager.delete(self._path_of(name), _VERSION, where=f"job {name}")

    def why_failed(self, name: str) -> str:
        """Return what the service says of a job that failed; empty where it says nothing."""
        with self._workspace.session(f"job {name}") as ml:
            details = ml.jobs._runs_operations.get_run_details(name)  # noqa: SLF001 - as jobs.stream
        error = getattr(getattr(details, "error", None), "error", None)
        return str(getattr(error, "message", "") or "")

    def metrics(self, name: str) -> list[Point]:
        """Return all points of all metrics of a job, by metric in the order of their steps.

        A project's MLflow server knows a job by its name (azureml-mlflow asks at this address).
        """
        run = self._ask_mlflow("runs/get", name).get("run") or {}
        latest = (run.get("data") or {}).get("metrics") or []
        points: list[Point] = []
        for key in sorted({str(metric["key"]) for metric in latest}):
            history = more = f"&metric_key={quote(key, safe='')}"
            while more:
                told = self._ask_mlflow("metrics/get-history", name, more)
                points += [
                    Point(key, float(p["value"]), int(p.get("step") or 0))
                    for p in told.get("metrics") or ()
                ]
                token = str(told.get("next_page_token") or "")
                more = token and f"{history}&page_token={quote(token, safe='')}"
        return points

    def tuned_model(self, job: JobState) -> TunedModel:
        """Return what a completed job made.

        Raises:
            AzureError: The project has no such model.
        """
        for model in self._versions(job.output):
            if model.job == job.name:
                return model
        raise AzureError(
            NO_MODEL,
            f"the job is {job.status}, but no version of {job.output} came from it",
            where=f"job {job.name}",
            fix="look at the job's outputs in the portal",
        )

    def tuned_models(self) -> list[TunedModel]:
        """Return every model version of the project that a job made, newest first."""
        names = [str(one["name"]) for one in self._list("models", "models")]
        found = (model for name in names for model in self._versions(name) if model.job)
        return sorted(found, key=lambda model: model.created, reverse=True)

    def delete_model(self, model: TunedModel) -> None:
        """Delete a model version; one that is gone is no error.

        Raises:
            AzureError: It is deployed.
        """
        path = f"{self._workspace.target.path}/models/{model.name}/versions/{model.version}"
        self._manager.delete(path, _VERSION, where=f"model {model.name}:{model.version}")

    def _versions(self, name: str) -> list[TunedModel]:
        found = []
        for one in self._list(f"models/{name}/versions", f"model {name}"):
            properties = one.get("properties") or {}
            version = str(one["name"])
            found.append(
                TunedModel(
                    name=name,
                    version=version,
                    id=f"{self.place}/models/{name}/versions/{version}",
                    job=str(properties.get("jobName") or ""),
                    base=str((properties.get("properties") or {}).get("baseModelId") or ""),
                    created=_created(one),
                )
            )
        return found

    def _ask_mlflow(self, call: str, job: str, more: str = "") -> Mapping[str, Any]:
        """Return what the project's MLflow server tells of a job; nothing of one it has not."""
        if not self._api:
            with self._workspace.session(self._workspace.target.path) as ml:
                self._api = str(ml.jobs._api_url).rstrip("/")  # noqa: SLF001 - as jobs.stream
        url = f"{self._api}/mlflow/v2.0{self._workspace.target.path}/api/2.0/mlflow/{call}"
        query = f"run_id={job}{more}"
        found = self._manager.get(url, "", where=f"metrics of {job}", query=query)
        return found.body if found else {}

    def _path_of(self, job: str) -> str:
        return f"{self._workspace.target.path}/jobs/{job}"

    def _list(self, path: str, where: str) -> list[dict[str, Any]]:
        return self._manager.get_all(f"{self._workspace.target.path}/{path}", _VERSION, where=where)


def base_name(address: str) -> str:
    """``Phi-4-mini-instruct`` for the address of a base model in the registry."""
    _, found, rest = address.partition("/models/")
    return rest.split("/")[0] if found else address


def _from_body(body: Mapping[str, Any]) -> JobState | None:
    """A job as Azure describes it; None for one that is no fine-tuning of ours to understand."""
    properties = body.get("properties") or {}
    details = properties.get("fineTuningDetails") or {}
    if properties.get("jobType") != "FineTuning" or details.get("modelProvider") != "Custom":
        return None
    output = (properties.get("outputs") or {}).get(OUTPUT) or {}
    studio = (properties.get("services") or {}).get("Studio") or {}
    return JobState(
        name=str(body["name"]),
        status=str(properties.get("status") or ""),
        output=str(output.get("assetName") or ""),
        base=str((details.get("model") or {}).get("uri") or ""),
        hyperparameters=_texts(details.get("hyperParameters")),
        tags=_texts(properties.get("tags")),
        url=str(studio.get("endpoint") or ""),
        created=_created(body),
    )


def _created(body: Mapping[str, Any]) -> str:
    return str((body.get("systemData") or {}).get("createdAt") or "")


def _kind_of(body: Mapping[str, Any]) -> str:
    properties = body.get("properties") or {}
    provider = (properties.get("fineTuningDetails") or {}).get("modelProvider")
    return " ".join(filter(None, [str(properties.get("jobType") or "unknown"), provider]))


def _texts(values: Mapping[str, Any] | None) -> dict[str, str]:
    return {str(name): str(value) for name, value in (values or {}).items()}
