"""How data differ from an earlier version of themselves."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

# Population stability index: below 0.1 steady, above 0.25 shifted (Siddiqi: Credit Risk Scorecards,
# 2006, the usual reading).
STEADY, SHIFTED = 0.1, 0.25
_LEAST = 1e-4  # an empty bin counts as this share, or the index would be infinite


def compare_reports(now: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """Differences between two reports of one dataset's training split.

    Args:
        now: ``report.json`` of this preparation.
        before: The same of the earlier one.

    Returns:
        The earlier preparation's key, the change of the main figures, and the stability index of
        each distribution with its reading.
    """
    new, old = now["splits"]["train"], before["splits"]["train"]
    figures = {
        "rows": (old["rows"], new["rows"]),
        "tokens a row": (old["tokens"]["mean"], new["tokens"]["mean"]),
        "supervised share": (old["supervised_share"], new["supervised_share"]),
    }
    distributions = {
        "tokens": (old["tokens"]["histogram"], new["tokens"]["histogram"]),
        "answer tokens": [side["by_role"]["assistant"]["histogram"] for side in (old, new)],
        "messages": _aligned(old["messages"], new["messages"]),
        "languages": _aligned(_rows(old["languages"]), _rows(new["languages"])),
        "labels": _aligned(old["labels"], new["labels"]),
    }
    shifts = {name: stability_index(*pair) for name, pair in distributions.items() if sum(pair[0])}
    return {
        "before": before["key"],
        "figures": {name: {"before": a, "now": b} for name, (a, b) in figures.items()},
        "shifts": {
            name: {"index": index, "reading": _read(index)} for name, index in shifts.items()
        },
    }


def stability_index(before: Sequence[float], now: Sequence[float]) -> float:
    """Population stability index: sum of (q - p) log(q / p) over the bins' shares."""
    shares = [np.asarray(counts, np.float64) / max(sum(counts), 1) for counts in (before, now)]
    old, new = (np.maximum(share, _LEAST) for share in shares)
    return float(((new - old) * np.log(new / old)).sum())


def _aligned(old: Mapping[str, int], new: Mapping[str, int]) -> tuple[list[int], list[int]]:
    names = sorted({*old, *new})
    return [old.get(name, 0) for name in names], [new.get(name, 0) for name in names]


def _rows(groups: Mapping[str, Mapping[str, int]]) -> dict[str, int]:
    return {name: group["rows"] for name, group in groups.items()}


def _read(index: float) -> str:
    if index < STEADY:
        return "steady"
    return "shifted" if index > SHIFTED else "moving"
