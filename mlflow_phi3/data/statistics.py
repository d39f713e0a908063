"""Figures of a split, from the shards' columns; one shard's columns are in memory at a time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mlflow_phi3.data.languages import LANGUAGES, SCRIPTS
from mlflow_phi3.data.messages import ROLES
from mlflow_phi3.data.shards import ShardStore

# Half octaves from 8 to 131,072: the same for every report, so that two can be compared.
EDGES = (0, *(round(2 ** (3 + step / 2)) for step in range(29)))
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class RowFigures:
    """Figures of each row, as int64 arrays of one length.

    Args:
        tokens: Tokens of the rendered conversation.
        supervised: Tokens that are learnt.
        by_role: Content tokens of each role, ``[rows, 3]``.
        messages: Messages.
        words: Words of all messages.
        script: Place in :data:`~mlflow_phi3.data.languages.SCRIPTS`.
        language: Place in :data:`~mlflow_phi3.data.languages.LANGUAGES`.
        cut: Whether something was taken away.
    """

    tokens: Ints
    supervised: Ints
    by_role: Ints
    messages: Ints
    words: Ints
    script: Ints
    language: Ints
    cut: Ints

    def take(self, rows: Ints) -> "RowFigures":
        """The figures of some rows."""
        return RowFigures(*(getattr(self, name)[rows] for name in self.__slots__))


def measure_rows(store: ShardStore, shards: Sequence[int]) -> RowFigures:
    """Figures of all rows of some shards, in order."""
    parts = [_measure_batch(batch) for number in shards for batch in store.batches(number)]
    empty = [np.zeros((0, 3) if place == 2 else 0, np.int64) for place in range(8)]
    return RowFigures(*(np.concatenate(column) for column in zip(*(parts or [empty]), strict=True)))


def _measure_batch(batch: pa.RecordBatch) -> list[Ints]:
    column = {name: batch.column(name) for name in batch.schema.names}
    rows = len(batch)
    messages = _sizes(column["roles"])
    owner = np.repeat(np.arange(rows), messages)
    turns = _flat(column["turns"]).reshape(-1, 3)
    cell = owner * len(ROLES) + _flat(column["roles"])
    said = np.bincount(cell, turns[:, 1] - turns[:, 0], minlength=rows * len(ROLES))
    spans = _flat(column["supervised"]).reshape(-1, 2)
    learner = np.repeat(np.arange(rows), _sizes(column["supervised"]) // 2)
    return [
        _sizes(column["input_ids"]),
        np.bincount(learner, spans[:, 1] - spans[:, 0], minlength=rows).astype(np.int64),
        said.reshape(rows, len(ROLES)).astype(np.int64),
        messages,
        *(column[name].to_numpy().astype(np.int64) for name in ("words", "script", "language")),
        (column["cut"].to_numpy() >= 0).astype(np.int64),
    ]


def _sizes(column: pa.ListArray) -> Ints:
    sizes: Ints = np.diff(column.offsets.to_numpy()).astype(np.int64)
    return sizes


def _flat(column: pa.ListArray) -> Ints:
    flat: Ints = column.flatten().to_numpy().astype(np.int64)
    return flat


def summarise(rows: RowFigures, labels: Mapping[str, int]) -> dict[str, Any]:
    """A split in figures, ready for JSON.

    Args:
        rows: The figures of its rows.
        labels: Rows by label.
    """
    total = int(rows.tokens.sum())
    return {
        "rows": len(rows.tokens),
        "tokens": spread(rows.tokens),
        "supervised": spread(rows.supervised),
        "supervised_share": int(rows.supervised.sum()) / total if total else 0.0,
        "by_role": {role: spread(rows.by_role[:, at]) for at, role in enumerate(ROLES)},
        "template_tokens": total - int(rows.by_role.sum()),
        "messages": {
            str(count): int(number)
            for count, number in zip(*np.unique(rows.messages, return_counts=True), strict=True)
        },
        "truncated": int(rows.cut.sum()),
        "labels": dict(labels),
        "languages": _by_group(rows, rows.language, LANGUAGES),
        "scripts": _by_group(rows, rows.script, SCRIPTS),
    }


def spread(values: Ints) -> dict[str, Any]:
    """Sum, mean, percentiles and histogram (over :data:`EDGES`) of counts."""
    counts, _ = np.histogram(values, bins=[*EDGES, np.inf])
    middle, high, top = np.percentile(values, [50, 95, 100]) if len(values) else (0, 0, 0)
    return {
        "sum": int(values.sum()),
        "mean": float(values.mean()) if len(values) else 0.0,
        "median": float(middle),
        "p95": float(high),
        "max": int(top),
        "histogram": counts.tolist(),
    }


def _by_group(rows: RowFigures, groups: Ints, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Rows, words and content tokens a word, of each language or script; the commonest first."""
    found = {}
    said = rows.by_role.sum(axis=1)
    order = np.argsort(-np.bincount(groups, minlength=len(names)), kind="stable")
    for number in order.tolist():
        chosen = groups == number
        if not chosen.any():
            break
        words, tokens = int(rows.words[chosen].sum()), int(said[chosen].sum())
        found[names[number]] = {
            "rows": int(chosen.sum()),
            "words": words,
            "tokens": tokens,
            "tokens_per_word": tokens / words if words else 0.0,
        }
    return found
