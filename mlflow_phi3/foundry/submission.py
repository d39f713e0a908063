"""Training in Azure AI Foundry: data up, a job that is submitted once, and what it made."""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, astuple, dataclass, replace
from pathlib import Path

from mlflow_phi3.azure.assets import upload_data
from mlflow_phi3.azure.client import Workspace
from mlflow_phi3.azure.finetuning import (
    NO_MODEL,
    FineTuning,
    JobService,
    JobState,
    TunedModel,
)
from mlflow_phi3.azure.hyperparameters import to_azure
from mlflow_phi3.azure.names import region_name
from mlflow_phi3.azure.registry import look_up_offers
from mlflow_phi3.data.messages import Conversation, to_dicts
from mlflow_phi3.errors import AzureError, PreflightError, UsageError
from mlflow_phi3.foundry.offers import tuning_of
from mlflow_phi3.modeling.base import DEMO
from mlflow_phi3.modeling.catalog import PhiModel, require_tunable
from mlflow_phi3.training.spec import TrialSpec

STAND_IN = "Phi-4-mini-instruct"
"""What the demo model is called where the emulator trains it."""
_MOST_BYTES = 512 << 20
"""Foundry's limit for a data file."""


@dataclass(frozen=True, slots=True)
class JobTemplate:
    """What the jobs of a training or a sweep share.

    Args:
        base: Base model, by its name in the registry.
        base_version: Its version there.
        train: Address of the training data.
        validation: Address of the validation data.
        output: Name that the tuned model gets.
    """

    base: str
    base_version: str
    train: str
    validation: str
    output: str


def choose_base(model: str) -> PhiModel:
    """Return the catalog's entry of what a job tunes: for the demo, of what stands in for it.

    Raises:
        UsageError: It is not in the catalog.
        PreflightError: Foundry does not tune it.
    """
    return require_tunable(STAND_IN if model == DEMO else model)


def check_demo(model: str, *, emulated: bool) -> None:
    """Refuse the demo but where the emulator trains.

    Raises:
        PreflightError: Foundry itself was asked to tune it.
    """
    if model == DEMO and not emulated:
        raise PreflightError(
            "PHI3-P771",
            "the demo model is not in Foundry",
            where="model",
            fix=f"model=microsoft/{STAND_IN}, or rehearse with azure_target=azure-foundry:/local",
        )


def find_base_version(workspace: Workspace, base: PhiModel) -> str:
    """Return the newest version of a base model, when the project's region tunes it.

    Raises:
        PreflightError: It does not.
        AzureError: The registry does not answer.
    """
    tuning = tuning_of(base, look_up_offers(workspace, (base.name,)))
    if tuning.why_not:
        raise PreflightError("PHI3-P772", tuning.why_not, where="model", fix=tuning.instead)
    if region_name(workspace.location) not in tuning.regions:
        raise PreflightError(
            "PHI3-P773",
            f"{base.name} is not tuned in {workspace.location}",
            where=f"project {workspace.target.project}",
            fix=f"use a project in one of {', '.join(tuning.regions)}",
        )
    return tuning.version


def send_data(
    workspace: Workspace,
    service: JobService,
    name: str,
    splits: Mapping[str, Iterable[Conversation]],
    folder: Path,
) -> tuple[dict[str, str], bool]:
    """Make each split a data asset of the project; return their addresses, and whether any is new.

    Args:
        workspace: The open project.
        service: Knows how addresses begin.
        name: Begin of the assets' names.
        splits: ``train`` and ``validation``.
        folder: Where the files are written first.

    Raises:
        PreflightError: A split is empty, or larger than Foundry takes.
        AzureError: The upload failed; a re-run goes on.
    """
    addresses: dict[str, str] = {}
    new = False
    for split, conversations in splits.items():
        file = folder / f"{split}.jsonl"
        if not write_split(file, conversations):
            raise PreflightError(
                "PHI3-P774",
                "there is no conversation",
                where=f"{split} data",
                fix="give more rows, or a larger validation_split",
            )
        if file.stat().st_size >= _MOST_BYTES:
            raise PreflightError(
                "PHI3-P775",
                f"{file.stat().st_size >> 20} MB; Foundry takes less than {_MOST_BYTES >> 20} MB",
                where=f"{split} data",
                fix="take fewer rows, as in train_data=file:0.5",
            )
        asset = upload_data(workspace, f"{name}-{split}", file)
        new = new or asset.new
        addresses[split] = f"{service.place}/data/{asset.name}/versions/{asset.version}"
    return addresses, new


def write_split(file: Path, conversations: Iterable[Conversation]) -> int:
    """Write conversations as Foundry reads them, one ``{"messages": [...]}`` a line; their count.

    The same conversations make the same bytes, so that Azure finds what it has.
    """
    count = 0
    with file.open("w", encoding="utf-8", newline="\n") as stream:
        for conversation in conversations:
            messages = to_dicts(conversation.messages)
            stream.write(json.dumps({"messages": messages}, ensure_ascii=False) + "\n")
            count += 1
    return count


def plan_job(template: JobTemplate, spec: TrialSpec) -> FineTuning:
    """Return the job that trains ``spec``; its name is made of all that decides what it learns.

    So a retry of whatever kind names the same job, and Azure is not asked for a second one.

    Raises:
        UsageError: Foundry does not take a value.
    """
    hyperparameters = to_azure(
        epochs=spec.epochs, learning_rate=spec.learning_rate, batch_size=spec.batch_size
    )
    facts = [*astuple(template), sorted(hyperparameters.items())]
    digest = hashlib.sha256(json.dumps(facts).encode()).hexdigest()
    stem = "".join(c if c.isalnum() else "-" for c in template.output)[:40].strip("-") or "phi"
    return FineTuning(
        name=f"{stem}-{digest[:12]}",
        **asdict(template),
        hyperparameters=hyperparameters,
        tags={"phi3.hyperparameters_of": "mlflow-phi3"},
    )


def was_submitted(service: JobService, template: JobTemplate, spec: TrialSpec) -> bool:
    """Whether the project has a job that trains or trained ``spec``, however it ended.

    Raises:
        AzureError: No answer.
    """
    try:
        wanted = plan_job(template, spec)
    except UsageError:  # what Foundry does not take was never sent
        return False
    jobs, _ = _attempts(service, wanted.name)
    return bool(jobs)


def submit_once(
    service: JobService, wanted: FineTuning, *, before: Callable[[], None] = lambda: None
) -> tuple[JobState, bool]:
    """Take up the job that trains this already, or submit one; tell whether it was submitted.

    A job that failed, was cancelled, or whose model is gone is left behind, and its successor
    gets the next number.

    Args:
        service: The remote calls.
        wanted: The job.
        before: Called before one is submitted; what it raises prevents that.

    Raises:
        AzureError: Refused, or no answer.
    """
    jobs, free = _attempts(service, wanted.name)
    for known in jobs:
        if known.status not in {"Failed", "Canceled"} and _has_model(service, known):
            return known, False
    before()
    return service.submit(replace(wanted, name=free)), True


def model_of(service: JobService, job: JobState) -> TunedModel:
    """Return what a job made.

    Raises:
        AzureError: It failed or was cancelled; the message has the service's reason.
    """
    if job.status != "Completed":
        raise AzureError(
            "PHI3-A732",
            f"{job.status}: {why_failed(service, job.name)}",
            where=f"job {job.name}",
            fix="change what the service names and run it again, which submits a new job",
        )
    return service.tuned_model(job)


def why_failed(service: JobService, job: str) -> str:
    """Return the service's reason why a job failed, or that there is none to be had."""
    try:
        why = service.why_failed(job)
    except AzureError:
        return "the service did not say why"
    return why.strip().rstrip(".") or "the service gives no reason"


def _attempts(service: JobService, name: str) -> tuple[list[JobState], str]:
    """Return the jobs called ``name`` or ``name-<number>``, in order, and the next such name.

    One that was deleted leaves a gap. Beyond those that are listed, names are asked for one by one:
    a job may be too new to be listed, or archived.
    """
    numbered = re.compile(re.escape(name) + r"(?:-([2-9]|[1-9]\d+))?")
    matches = ((numbered.fullmatch(job.name), job) for job in service.list_jobs())
    found = {int(match[1] or 1): job for match, job in matches if match}
    number = max(found, default=0) + 1
    while True:
        free = name if number == 1 else f"{name}-{number}"
        known = service.get(free)
        if known is None:
            return [found[one] for one in sorted(found)], free
        found[number] = known
        number += 1


def _has_model(service: JobService, job: JobState) -> bool:
    """Whether a job still is on its way to a model, or its model is there."""
    if job.status != "Completed":
        return True
    try:
        service.tuned_model(job)
    except AzureError as error:
        if error.code != NO_MODEL:  # no answer is none: another job would be paid for
            raise
        return False
    return True
