"""The report for people (HTML) and for programs (JSON)."""

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mlflow_phi3.config.prepare import SPLITS
from mlflow_phi3.data.collected import Decided
from mlflow_phi3.data.drift import compare_reports
from mlflow_phi3.data.findings import RULES
from mlflow_phi3.data.manifest import Manifest
from mlflow_phi3.data.relations import LEAK_CODES
from mlflow_phi3.data.statistics import EDGES, RowFigures, summarise
from mlflow_phi3.pages import page_template

_SHOWN_PAIRS = 100


def build_report(
    manifest: Manifest,
    decided: Decided,
    rows: RowFigures,
    earlier: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Everything the report says, ready for JSON.

    Args:
        manifest: The preparation's manifest.
        decided: What was decided for all rows.
        rows: Figures of all rows that their pieces kept.
        earlier: An earlier report of the same data.
    """
    splits = {
        name: summarise(rows.take(decided.splits[name]), manifest.splits[name].labels)
        for name in SPLITS
    }
    counts = manifest.counts
    report: dict[str, Any] = {
        "key": manifest.key,
        "sha256": manifest.sha256,
        "max_length": manifest.max_length,
        "counts": {name: getattr(counts, name) for name in counts.__slots__},
        "adds_up": counts.adds_up,
        "sources": [
            {name: getattr(source, name) for name in source.__slots__}
            for source in manifest.sources
        ],
        "splits": splits,
        "edges": list(EDGES),
        "findings": _findings(decided),
        "cleaning": dict(manifest.cleaning),
        "duplicates": dict(Counter(pair.kind for pair in decided.duplicates)),
        "leaks": _leaks(decided),
    }
    report["drift"] = _drift(report, earlier)
    return report


def write_report(folder: Path, report: Mapping[str, Any]) -> None:
    """Write ``report.json`` and ``report.html``."""
    text = json.dumps(report, ensure_ascii=False, indent=2)
    (folder / "report.json").write_text(text + "\n", encoding="utf-8")
    charts = {
        name: bars(split["tokens"]["histogram"], split["supervised"]["histogram"])
        for name, split in report["splits"].items()
        if split["rows"]
    }
    page = page_template("mlflow_phi3.data", "pages/report.html.jinja")
    html = page.render(report=report, charts=charts)
    (folder / "report.html").write_text(html, encoding="utf-8")


def bars(all_tokens: list[int], supervised: list[int]) -> list[dict[str, float | str]]:
    """Bars of two histograms over one axis, from the first filled bin to the last.

    Returns:
        For each bin its name and the two heights, 0 to 1.
    """
    filled = np.flatnonzero(np.array(all_tokens) + np.array(supervised))
    if not len(filled):
        return []
    most = max(*all_tokens, *supervised)
    return [
        {
            "name": f"{EDGES[at]:,}" if at < len(EDGES) else "",
            "all": all_tokens[at] / most,
            "learnt": supervised[at] / most,
            "all_rows": all_tokens[at],
            "learnt_rows": supervised[at],
        }
        for at in range(int(filled[0]), int(filled[-1]) + 1)
    ]


def _drift(report: Mapping[str, Any], earlier: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Differences from an earlier report; None without one, or with one of another shape."""
    try:
        return compare_reports(report, earlier) if earlier else None
    except (LookupError, TypeError, ValueError, AttributeError):
        return None


def _findings(decided: Decided) -> list[dict[str, Any]]:
    return [
        {
            "code": code,
            "severity": RULES[code].severity,
            "rule": RULES[code].title,
            "fix": RULES[code].fix,
            "count": count,
            "examples": [
                {"place": finding.place, "problem": finding.problem}
                for finding in decided.tally.first[code]
            ],
        }
        for code, count in decided.tally.by_frequency()
    ]


def _leaks(decided: Decided) -> dict[str, Any]:
    table = decided.table
    kinds = Counter(pair.kind for pair in decided.leaks)
    return {
        **{kind: kinds[kind] for kind in LEAK_CODES},
        "pairs": [
            {
                "train": table.place(pair.row),
                "other": table.place(pair.other),
                "kind": pair.kind,
            }
            for pair in decided.leaks[:_SHOWN_PAIRS]
        ],
    }
