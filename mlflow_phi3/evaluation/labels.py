"""Measure a classifier on examples: the loss of each, and how the labels came out."""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score

from mlflow_phi3.data.messages import Conversation, Example
from mlflow_phi3.errors import DataError
from mlflow_phi3.modeling.adapter import with_adapter
from mlflow_phi3.modeling.base import Base
from mlflow_phi3.modeling.classify import classify
from mlflow_phi3.training.scoring import ExampleScore


@dataclass(frozen=True, slots=True)
class LabelMetrics:
    """How well labels were predicted.

    Args:
        accuracy: Share of right labels.
        f1_macro: Mean of the F1 of each label that is expected or predicted, as scikit-learn's.
        f1_weighted: The same, weighted by how often each label is expected.
        confusion: int64 ``[labels, labels]``; row expected, column predicted.
    """

    accuracy: float
    f1_macro: float
    f1_weighted: float
    confusion: npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class LabelPrediction:
    """One text, its label and the predicted one.

    Args:
        place: ``source:line`` of the row.
        text: The user's last message.
        expected: The row's own label.
        label: The most likely one.
        score: Its probability.
    """

    place: str
    text: str
    expected: str
    label: str
    score: float


@dataclass(frozen=True, slots=True)
class LabelReport:
    """What a classifier made of the test split.

    Args:
        labels: In the order of the confusion matrix.
        metrics: Over all rows; None when there was no row.
        per_example: Each row's loss, over one token: its label.
        predictions: Those of the first rows, with their texts.
    """

    labels: tuple[str, ...]
    metrics: LabelMetrics | None
    per_example: tuple[ExampleScore, ...]
    predictions: tuple[LabelPrediction, ...]

    @property
    def loss(self) -> float:
        """Mean negative log-likelihood of the right label, in nats; NaN without a row."""
        rows = self.per_example
        return math.fsum(row.loss for row in rows) / len(rows) if rows else math.nan


def measure_labels(
    base: Base,
    adapter: Path | None,
    examples: Iterable[Example],
    conversations: Iterable[Conversation],
    *,
    batch_size: int,
    on_progress: Callable[[int], None],
) -> LabelReport:
    """Classify ``examples``, one batch after the other.

    Args:
        base: A base with a head over labels.
        adapter: Folder in PEFT's format, its head in it; None for the untuned base.
        examples: The test split, tokenised; labels are indices into ``base.labels``.
        conversations: Of the first rows: as many as are to be shown with their texts.
        batch_size: Texts computed together.
        on_progress: Called with the number of rows done.

    Raises:
        DataError: A row has a label that the model does not know.
    """
    wanted: list[tuple[str, int]] = []

    def ids() -> Iterator[npt.NDArray[np.int32]]:
        for example in examples:
            wanted.append((example.place, _label_of(example, base.labels)))
            yield example.input_ids

    losses: list[ExampleScore] = []
    guesses: list[int] = []
    scores: list[float] = []
    with with_adapter(base, adapter) as model:
        for at, log_probs in enumerate(classify(model, ids(), batch_size=batch_size)):
            place, label = wanted[at]
            guess = int(log_probs.argmax())
            losses.append(ExampleScore(place, -float(log_probs[label]), 1, int(guess == label)))
            guesses.append(guess)
            scores.append(math.exp(float(log_probs[guess])))
            on_progress(at + 1)
    names = base.labels
    expected = [names[label] for _, label in wanted]
    predicted = [names[guess] for guess in guesses]
    rows = zip(conversations, expected, predicted, scores, strict=False)
    return LabelReport(
        labels=names,
        metrics=label_metrics(expected, predicted, labels=names) if expected else None,
        per_example=tuple(losses),
        predictions=tuple(
            LabelPrediction(talk.place, talk.messages[-1].content, right, label, score)
            for talk, right, label, score in rows
        ),
    )


def label_metrics(
    expected: list[str], predicted: list[str], *, labels: Iterable[str]
) -> LabelMetrics:
    """Score predicted labels with scikit-learn.

    Args:
        expected: The right label of each row; at least one.
        predicted: The predicted label of each row, as many.
        labels: All labels, in the order of the confusion matrix.
    """
    known = list(labels)
    return LabelMetrics(
        accuracy=float(accuracy_score(expected, predicted)),
        f1_macro=_f1(expected, predicted, "macro"),
        f1_weighted=_f1(expected, predicted, "weighted"),
        confusion=confusion_matrix(expected, predicted, labels=known).astype(np.int64),
    )


def _f1(expected: list[str], predicted: list[str], kind: str) -> float:
    return float(f1_score(expected, predicted, average=kind, zero_division=0.0))


def _label_of(example: Example, labels: tuple[str, ...]) -> int:
    if example.label is None or not 0 <= example.label < len(labels):
        raise DataError(
            "PHI3-D074",
            f"the row's label is none of {', '.join(labels)}",
            where=example.place,
            fix="evaluate on data with the labels that were trained",
        )
    return example.label
