"""What the task changes: the end of the base, and the hyperparameters it is trained with."""

import math
from collections.abc import Mapping
from typing import TypeVar

from mlflow_phi3.config.hyperparameters import BALANCED, UNWEIGHTED, parse_weights
from mlflow_phi3.config.swept import Auto, Choices, Interval, Pin, Scalar, Swept, values_of
from mlflow_phi3.config.words import SweepWord, TrainWord
from mlflow_phi3.data.prepared import PreparedData
from mlflow_phi3.data.tasks import find_task
from mlflow_phi3.errors import DataError, UsageError
from mlflow_phi3.evaluation.notation import count_of
from mlflow_phi3.modeling.base import DEMO, Base
from mlflow_phi3.modeling.heads import with_labels

CLASSIFICATION = "text-classification"
# A head begins at zero: at the small steps that keep the demo's answers, it would take many epochs.
_DEMO_HEAD_RATES = Interval(1e-3, 4e-3, log=True)

WordT = TypeVar("WordT", SweepWord, TrainWord)


def shape_base(base: Base, data: PreparedData) -> Base:
    """The base with the end that the task asks for which ``data`` was prepared.

    Raises:
        UsageError: A classifier is to learn to answer.
        DataError: The data has fewer than two labels.
    """
    if not find_task(str(data.manifest.config["task"])).classifies:
        if base.labels:
            raise UsageError(
                "PHI3-U065",
                f"the model tells {', '.join(base.labels)} apart and cannot answer",
                where=base.name,
                fix=f"give task={CLASSIFICATION}, or another model",
            )
        return base
    labels = tuple(data.manifest.labels)
    if len(labels) < 2:
        raise DataError(
            "PHI3-D075",
            f"the data has {count_of(len(labels), 'label')}; to tell apart takes two",
            where="train_data",
            fix="give rows with a text and a label, of at least two labels",
        )
    return with_labels(base, labels)


def fit_to_data(config: WordT, data: PreparedData) -> WordT:
    """``config`` with what depends on the task and the data decided: rates and label weights.

    Raises:
        UsageError: Label weights for a task without labels, or not as many as there are labels.
        DataError: A label without training rows is to be weighed by how rare it is.
    """
    classifies = find_task(config.task).classifies
    changes: dict[str, Swept] = {}
    if classifies and config.model == DEMO and isinstance(config.learning_rate, Auto):
        changes["learning_rate"] = _DEMO_HEAD_RATES
        if isinstance(config, TrainWord):
            middle = math.sqrt(_DEMO_HEAD_RATES.low * _DEMO_HEAD_RATES.high)
            changes["learning_rate"] = Pin(middle)
    weights = values_of(config.class_weights) or ()
    if set(weights) != {UNWEIGHTED}:
        if not classifies:
            raise UsageError(
                "PHI3-U053",
                "there are no labels to weigh",
                where="class_weights",
                fix=f"leave it out, or give task={CLASSIFICATION}",
            )
        counts = data.manifest.splits["train"].labels
        changes["class_weights"] = _weights([str(weight) for weight in weights], counts)
    return config.model_copy(update=changes)


def show_balance(data: PreparedData) -> str:
    """The labels of the training rows with their shares; empty without labels."""
    counts = data.manifest.splits["train"].labels
    total = sum(counts.values()) or 1
    ranked = sorted(counts.items(), key=lambda item: -item[1])
    return ", ".join(f"{name} {count / total:.0%}" for name, count in ranked)


def _weights(given: list[str], counts: Mapping[str, int]) -> Swept:
    found: list[Scalar] = [_balanced(counts) if one == BALANCED else one for one in given]
    for one in found:
        wanted = len(parse_weights(str(one)))
        if wanted not in {0, len(counts)}:
            raise UsageError(
                "PHI3-U066",
                f"{count_of(wanted, 'weight')} for {count_of(len(counts), 'label')}",
                where="class_weights",
                fix=f"give one for each of {', '.join(counts)}, or {BALANCED}",
            )
    distinct = tuple(dict.fromkeys(found))
    return Pin(distinct[0]) if len(distinct) == 1 else Choices(distinct)


def _balanced(counts: Mapping[str, int]) -> str:
    """Rows over labels times rows of the label, as scikit-learn's ``balanced``."""
    missing = [name for name, count in counts.items() if not count]
    if missing:
        raise DataError(
            "PHI3-D076",
            f"no training row is labelled {missing[0]!r}",
            where="class_weights",
            fix=f"give the weights as numbers, or class_weights={UNWEIGHTED}",
        )
    rows = sum(counts.values())
    return "+".join(f"{rows / (len(counts) * count):.6g}" for count in counts.values())
