"""Training on from an adapter, when more data comes."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from mlflow_phi3.errors import UsageError
from mlflow_phi3.modeling.adapter import check_adapter
from mlflow_phi3.modeling.base import Base
from mlflow_phi3.tracking.lookup import find_run
from mlflow_phi3.tracking.tags import JOB_TAG, TRIAL_RUN_TAG
from mlflow_phi3.tracking.versions import find_version
from mlflow_phi3.training.peft_files import load_lora_spec
from mlflow_phi3.training.spec import TrialSpec
from mlflow_phi3.workflows.context import Context
from mlflow_phi3.workflows.sweep import fetch_adapter

LATEST = "latest"
_PARAMETER = "continue_from"
_REVISION = "phi3.base_revision"
_QUANTIZATION = "phi3.base_quantization"


def check_start(source: str) -> None:
    """Refuse a folder without an adapter before data is read; runs and versions are found later.

    Raises:
        UsageError: There is no adapter in the folder that ``continue_from`` names.
    """
    if source and source != LATEST and not source.startswith(("models:/", "runs:/")):
        check_adapter(Path(source))


def find_start(context: Context, base: Base, source: str) -> Path:
    """The adapter that ``continue_from`` names, on this machine.

    Args:
        context: The surroundings.
        base: The base that will be trained on.
        source: ``models:/<name>@<alias>`` or ``models:/<name>/<version>``, ``runs:/<run id>``,
            ``latest`` (the experiment's newest training that was finished here), or a folder in
            PEFT's format.

    Raises:
        UsageError: There is no adapter, or one of another base.
    """
    if source == LATEST:
        # What Foundry trained stays in Azure.
        here = context.tracker.latest("train", where=_PARAMETER, without=JOB_TAG)
        source = f"runs:/{here.info.run_id}"
    if source.startswith("models:/"):
        tags = find_version(source).tags
        if TRIAL_RUN_TAG not in tags:
            raise UsageError(
                "PHI3-U768",
                "the version does not tell which training it came from",
                where=source,
                fix="name a version that mlflow-phi3 register made, or runs:/<id of the training>",
            )
        _check_base(tags, base, source)
        folder = fetch_adapter(context, tags[TRIAL_RUN_TAG], where=_PARAMETER)
    elif source.startswith("runs:/"):
        run_id = source.removeprefix("runs:/").split("/")[0]
        _check_base(find_run(context.tracker, run_id, where=_PARAMETER).tags(), base, source)
        folder = fetch_adapter(context, run_id, where=_PARAMETER)
    else:
        folder = Path(source)
    check_adapter(folder)
    return folder


def shaped_as(spec: TrialSpec, adapter: Path) -> TrialSpec:
    """``spec`` with the adapter's rank, scale and layers; dropout stays as it was asked for."""
    found = load_lora_spec(adapter)
    return replace(spec, lora=replace(found, dropout=spec.lora.dropout))


def _check_base(tags: Mapping[str, str], base: Base, source: str) -> None:
    revision, quantization = tags.get(_REVISION, ""), tags.get(_QUANTIZATION, "none")
    if revision and (revision, quantization) != (base.revision, base.quantization):
        raise UsageError(
            "PHI3-U769",
            f"its base is {revision[:12]} (quantization {quantization}), not {base.name} at "
            f"{base.revision[:12]} (quantization {base.quantization})",
            where=source,
            fix="give the same --model, --model_revision and --quantization as it was trained with",
        )
