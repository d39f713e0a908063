"""What the service refuses of a fine-tuning job; pure functions of values."""

import datetime as dt
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mlflow_phi3.emulator.registry.models import MODELS, REGISTRY, RegistryModel
from mlflow_phi3.emulator.router import Refusal

OUTPUT = "registered_model"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,254}")
_BASE = re.compile(
    rf"azureml://registries/{REGISTRY}/models/(?P<name>[^/]+)/(?:versions|labels)/(?P<version>[^/]+)",
    re.IGNORECASE,
)
_IMMUTABLE = ("jobType", "fineTuningDetails", "outputs", "experimentName")


@dataclass(frozen=True, slots=True)
class Training:
    """What a job trains with.

    Args:
        base: The base model, by its name in the registry.
        epochs: Passes over the training data.
        batch_size: Examples of a step.
        learning_rate: Absolute.
    """

    base: str
    epochs: int
    batch_size: int
    learning_rate: float


def check_job(name: str, properties: Mapping[str, Any], location: str, today: dt.date) -> Training:
    """Return what a job is to train with.

    Args:
        name: Of the job.
        properties: The ``properties`` of its body.
        location: The project's region.
        today: Decides what is retired.

    Raises:
        Refusal: A rule of the service is broken.
    """
    if not _NAME.fullmatch(name):
        raise bad(f"'{name}' is not a valid job name.")
    if properties.get("jobType") != "FineTuning":
        raise bad(f"jobType {properties.get('jobType')!r} cannot run here; only FineTuning can.")
    details = properties.get("fineTuningDetails") or {}
    if details.get("modelProvider") != "Custom":
        raise bad(f"modelProvider {details.get('modelProvider')!r} is not supported; use Custom.")
    if str(details.get("taskType")).lower() != "chatcompletion":
        raise bad(f"taskType {details.get('taskType')!r} is not supported by the model.")
    output = (properties.get("outputs") or {}).get(OUTPUT) or {}
    if not output.get("assetName"):
        raise bad(f"outputs.{OUTPUT}.assetName is required.")
    if not (details.get("trainingData") or {}).get("uri"):
        raise bad("fineTuningDetails.trainingData.uri is required.")
    base = _check_base(str((details.get("model") or {}).get("uri") or ""), location, today)
    return _check_hyperparameters(base.name, details.get("hyperParameters") or {})


def check_same(known: Mapping[str, Any], sent: Mapping[str, Any]) -> None:
    """Refuse to make another job of one that exists."""
    for field in _IMMUTABLE:
        if field in sent and _plain(known.get(field)) != _plain(sent[field]):
            text = (
                "A job with this name already exists. If you are trying to submit a new job, use a "
                f"different name. The existing job's {field} cannot be changed."
            )
            raise bad(text)


def bad(message: str) -> Refusal:
    """Return a 400."""
    return Refusal(400, "UserError", message)


def _check_base(uri: str, location: str, today: dt.date) -> RegistryModel:
    match = _BASE.fullmatch(uri)
    if match is None:
        raise bad(f"'{uri}' is not a model of the registry {REGISTRY}.")
    model = MODELS.get(match["name"].lower())
    if model is None or match["version"] not in {model.version, "latest"}:
        raise Refusal(404, "ModelNotFound", f"Model {uri} was not found.")
    if model.retired_on and dt.date.fromisoformat(model.retired_on) <= today:
        text = f"{model.name} was retired on {model.retired_on}. Use {model.replacement} instead."
        raise bad(text)
    if not model.regions:
        raise bad(f"{model.name} cannot be fine-tuned.")
    if location not in model.regions:
        known = ", ".join(model.regions)
        raise bad(f"{model.name} cannot be fine-tuned in region {location}, only in {known}.")
    return model


def _check_hyperparameters(base: str, sent: Mapping[str, Any]) -> Training:
    defaults = {
        "num_train_epochs": "1",
        "per_device_train_batch_size": "1",
        "learning_rate": "0.00002",
    }
    for name, value in sent.items():
        if name not in defaults:
            raise bad(f"Hyperparameter {name} is not known; known: {', '.join(defaults)}.")
        if not isinstance(value, str):
            raise bad(f"Hyperparameter {name} must be a string, not {value!r}.")
    values = {**defaults, **sent}
    try:
        epochs = int(values["num_train_epochs"])
        batch_size = int(values["per_device_train_batch_size"])
        rate = float(values["learning_rate"])
    except ValueError as wrong:
        raise bad(f"A hyperparameter is not a number: {wrong}.") from wrong
    if not (1 <= epochs <= 10 and 1 <= batch_size <= 32 and 0 < rate < 1):
        raise bad("Epochs must be 1 to 10, batch size 1 to 32, learning rate between 0 and 1.")
    return Training(base, epochs, batch_size, rate)


def _plain(value: Any) -> Any:
    """A value without what is None or was added by the service, for comparison."""
    if isinstance(value, Mapping):
        added = {"uri", "assetVersion"} if "jobOutputType" in value else set()
        kept = {k: _plain(v) for k, v in value.items() if v is not None and k not in added}
        return {k: v for k, v in kept.items() if k != "mode"}
    return value
