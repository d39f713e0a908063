"""The loss of each example, as the artifact ``eval/per_example.json`` keeps it."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields
from typing import Any

from mlflow_phi3.training.scoring import ExampleScore


def to_rows(scores: Iterable[ExampleScore]) -> list[dict[str, Any]]:
    """What is kept of each example, its mean loss for people among it."""
    return [{**asdict(score), "loss": score.loss} for score in scores]


def from_rows(rows: Iterable[Mapping[str, Any]]) -> tuple[ExampleScore, ...]:
    """The scores behind :func:`to_rows`."""
    names = [field.name for field in fields(ExampleScore)]
    return tuple(ExampleScore(**{name: row[name] for name in names}) for row in rows)
