"""A local trial as a job of Foundry: ``azure/job.yaml``, so that a winner can be repeated there."""

from pathlib import Path

from mlflow_phi3.azure.finetuning import to_yaml
from mlflow_phi3.azure.hyperparameters import TABLE
from mlflow_phi3.data.prepared import PreparedData
from mlflow_phi3.errors import UsageError
from mlflow_phi3.foundry.submission import STAND_IN, JobTemplate, plan_job, write_split
from mlflow_phi3.modeling.catalog import find, refusal
from mlflow_phi3.training.spec import TrialSpec

YAML = "azure/job.yaml"
_SPLITS = ("train", "validation")
_MOST_ROWS = 100_000
"""Larger data is not copied into the tracking store."""


def repeat_yaml(spec: TrialSpec, model: str) -> str:
    """Return the job that trains in Foundry what a trial trained here.

    Data is looked for beside the file, as ``az ml job create`` does. What Foundry has no word for
    stands in comments.

    Args:
        spec: What the trial trained with.
        model: Its base model: ``demo``, a hub id or a folder.
    """
    base, lines = _base(model)
    template = JobTemplate(base, "1", "./train.jsonl", "./validation.jsonl", output="phi3-chat")
    try:
        wanted = plan_job(template, spec)
    except UsageError as refused:
        return f"# Foundry cannot repeat this trial: {refused}\n"
    silent = ", ".join(row.ours for row in TABLE if not row.azure)
    again = (
        f"mlflow-phi3 train --backend foundry --epochs {spec.epochs} "
        f"--learning_rate {spec.learning_rate!r} "
        f"--batch_size_multiplier {spec.batch_size_multiplier} "
        f"--per_device_batch_size {spec.per_device_batch_size}"
    )
    lines += [
        f"az ml job create --file job.yaml, or {again}",
        "The data lies in the folder azure/ of the run of the training or the sweep.",
        f"Foundry decides by itself: {silent}.",
    ]
    return "".join(f"# {line}\n" for line in lines) + to_yaml(wanted)


def write_repeat_data(data: PreparedData, folder: Path) -> list[Path]:
    """Write the data that :func:`repeat_yaml` names; nothing for data that is very large."""
    written: list[Path] = []
    for split in (split for split in _SPLITS if split in data.manifest.splits):
        conversations = data.conversations(split)
        if len(conversations) <= _MOST_ROWS:
            file = folder / f"{split}.jsonl"
            write_split(file, conversations)
            written.append(file)
    return written


def _base(model: str) -> tuple[str, list[str]]:
    """What Foundry can tune in the place of a model, and what has to be said of that."""
    known = find(model)
    if known is None:
        return STAND_IN, [f"{STAND_IN} stands here for {model}, which is not in Foundry."]
    why, _ = refusal(known)
    if not why:
        return known.name, []
    return known.replacement or STAND_IN, [f"{why}; its replacement stands here."]
