"""The last step: figures, manifest, report and preview of what was decided."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mlflow_phi3.config.prepare import SPLITS
from mlflow_phi3.data.collected import Collected, Decided
from mlflow_phi3.data.digest import digest_keys, digest_text
from mlflow_phi3.data.manifest import Counts, Manifest, SourceFacts, SplitFacts
from mlflow_phi3.data.preview import write_preview
from mlflow_phi3.data.report import build_report, write_report
from mlflow_phi3.data.statistics import RowFigures, measure_rows


def finish(given: Collected, decided: Decided, *, previous: Path | None) -> None:
    """Write the manifest, the report and the preview.

    Args:
        given: Everything the pieces gave.
        decided: What was decided for all rows.
        previous: ``report.json`` of an earlier preparation of the same data, to compare with.

    Raises:
        AssertionError: Rows were lost or counted twice: a fault of this program.
    """
    rows = measure_rows(decided.table.store, [piece.number for piece in given.pieces])
    manifest = _manifest(given, decided, rows)
    if not manifest.counts.adds_up:
        raise AssertionError(f"rows do not add up: {manifest.counts}")
    earlier = _load_report(previous)
    report = build_report(manifest, decided, rows, earlier)
    write_report(given.folder, report)
    write_preview(given.folder, given, decided)
    manifest.save(given.folder)


def _manifest(given: Collected, decided: Decided, rows: RowFigures) -> Manifest:
    splits = {name: _split_facts(decided, rows, decided.splits[name]) for name in SPLITS}
    kept = decided.sides >= 0
    cleaning: Counter[str] = Counter()
    for outcome in given.outcomes:
        cleaning.update(outcome.cleaning)
    return Manifest(
        key=given.key,
        sha256=digest_text(*(splits[name].sha256 for name in SPLITS)),
        template_sha256=given.settings.template.template_sha256,
        tokenizer_sha256=given.settings.template.sha256,
        max_length=given.settings.max_length,
        counts=Counts(
            rows_in=sum(outcome.rows_in for outcome in given.outcomes),
            kept=int(kept.sum()),
            rejected=sum(outcome.rejected for outcome in given.outcomes) + len(decided.rejected),
            duplicates=len(decided.duplicates),
            left_out=decided.left_out,
            truncated=int(rows.cut[kept].sum()),
        ),
        sources=_source_facts(given),
        splits=splits,
        codes=dict(decided.tally.by_frequency()),
        cleaning=dict(sorted(cleaning.items())),
        labels={name: number for number, name in enumerate(decided.table.names)},
        config=given.settings.config.model_dump(),
    )


def _source_facts(given: Collected) -> tuple[SourceFacts, ...]:
    rows = [0] * len(given.planned)
    for piece, outcome in zip(given.pieces, given.outcomes, strict=True):
        rows[piece.source_number] += outcome.rows_in
    return tuple(
        SourceFacts(
            name=planned.source.name,
            split=planned.source.split,
            format=planned.reader.format.name,
            taken=planned.reader.taken,
            rows=count,
            size_bytes=planned.source.size_bytes,
            sha256=planned.sha256,
            weight=planned.source.weight,
        )
        for planned, count in zip(given.planned, rows, strict=True)
    )


def _split_facts(decided: Decided, rows: RowFigures, chosen: npt.NDArray[np.int64]) -> SplitFacts:
    table = decided.table
    counts = np.bincount(table.label[chosen] + 1, minlength=len(table.names) + 1)[1:]
    return SplitFacts(
        rows=len(chosen),
        tokens=int(rows.tokens[chosen].sum()),
        supervised=int(rows.supervised[chosen].sum()),
        sha256=digest_keys(table.keys[chosen]),
        labels=dict(zip(table.names, counts.tolist(), strict=True)),
    )


def _load_report(path: Path | None) -> dict[str, Any] | None:
    """An earlier report; one that cannot be read is none."""
    if path is None or not path.is_file():
        return None
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return None
    return report if isinstance(report, dict) else None
