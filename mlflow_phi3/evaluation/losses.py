"""The loss of each example, as the artifact ``eval/per_example.json`` keeps it."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from mlflow_phi3.training.scoring import ExampleScore


def to_rows(scores: Iterable[ExampleScore]) -> list[dict[str, Any]]:
    """What is kept of each example, its mean loss for people among it."""
    return [{**asdict(score), "loss": score.loss} for score in scores]


def from_rows(rows: Iterable[Mapping[str, Any]]) -> tuple[ExampleScore, ...]:
    """The scores behind :func:`to_rows`, also those of runs that kept the mean alone."""
    return tuple(
        ExampleScore(
            place=row["place"],
            nll=row["nll"] if "nll" in row else row["loss"] * row["tokens"],
            tokens=row["tokens"],
            correct=row["correct"] if "correct" in row else row["right"],
        )
        for row in rows
    )
