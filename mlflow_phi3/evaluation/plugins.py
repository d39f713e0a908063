"""Metrics of other packages, by entry point."""

import re
from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint, entry_points

from mlflow_phi3.config.plugins import broken_entry, load_entry
from mlflow_phi3.errors import UsageError

ENTRY_POINTS = "mlflow_phi3.metrics"
_CODE = "PHI3-U070"

AnswerMetric = Callable[[str, str], float]
"""``(expected, answer) -> score``; its mean over the answers becomes a metric."""

BUILT_IN = frozenset(
    {"loss", "perplexity", "token_accuracy", "supervised_tokens", "exact_match", "f1", "rouge_l"}
)

# Of what MLflow takes as a metric, the names that are also none of a path's ``.`` and ``..``.
_NAME = re.compile(r"\w[\w .:-]*(/\w[\w .:-]*)*")


def load_metrics() -> dict[str, AnswerMetric]:
    """The metrics that installed packages add through the group ``mlflow_phi3.metrics``.

    Raises:
        UsageError: One cannot be loaded, is not callable, has a name that MLflow refuses, or takes
            the name of one of ours.
    """
    return {entry.name: _load(entry) for entry in entry_points(group=ENTRY_POINTS)}


def score_answer(
    others: Mapping[str, AnswerMetric], expected: str, answer: str
) -> dict[str, float]:
    """Each added metric of one answer, by name.

    Raises:
        UsageError: One does not take this answer, or gives no number.
    """
    return {name: _score(name, metric, expected, answer) for name, metric in others.items()}


def _score(name: str, metric: AnswerMetric, expected: str, answer: str) -> float:
    try:
        return float(metric(expected, answer))
    except Exception as error:
        told = (
            f"{type(error).__name__}: {error}, of {answer[:60]!r} where {expected[:60]!r} is right"
        )
        raise UsageError(
            _CODE,
            told,
            where=f"metric {name} of the entry points {ENTRY_POINTS}",
            fix="mend or uninstall the package that brings it",
        ) from error


def _load(entry: EntryPoint) -> AnswerMetric:
    if entry.name in BUILT_IN:
        raise broken_entry(entry, _CODE, "takes the name of a metric of ours")
    if not _NAME.fullmatch(entry.name):
        raise broken_entry(entry, _CODE, "has a name that MLflow takes for no metric")
    metric: AnswerMetric = load_entry(entry, _CODE)
    return metric
