"""Does a checkpoint answer, or does it classify; is it whole? It says so itself."""

from pathlib import Path
from typing import Any

from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedModel,
)

BASE_FILE = "base.json"
"""Beside an adapter that is to be put on its base: which base that is."""
_CLASSIFIER = "ForSequenceClassification"  # how transformers' classifiers are called


def is_pinned(folder: Path) -> bool:
    """Whether ``folder`` holds an adapter and the name of its base, instead of a checkpoint."""
    return (folder / BASE_FILE).is_file()


def choose_class(path: str, *, revision: str | None = None, local_files_only: bool = True) -> Any:
    """The class of transformers' with which the checkpoint at ``path`` is loaded."""
    config = AutoConfig.from_pretrained(
        path, revision=revision, local_files_only=local_files_only, trust_remote_code=False
    )
    classifies = any(name.endswith(_CLASSIFIER) for name in config.architectures or ())
    return AutoModelForSequenceClassification if classifies else AutoModelForCausalLM


def labels_of(model: PreTrainedModel) -> tuple[str, ...]:
    """Names of a classifier's labels in the order of its logits; empty for a model that answers."""
    if not type(model).__name__.endswith(_CLASSIFIER):
        return ()
    names = model.config.id2label
    return tuple(names[number] for number in range(len(names)))
