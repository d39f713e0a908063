"""Whether to go on with what was decided for all rows, and why not."""

import shutil
from pathlib import Path

import numpy as np

from mlflow_phi3.config.prepare import SPLITS
from mlflow_phi3.data.collected import Collected, Decided
from mlflow_phi3.data.findings import RULES
from mlflow_phi3.data.relations import LEAK_CODES
from mlflow_phi3.data.rows import OVERLENGTH
from mlflow_phi3.errors import DataError

_USES = {"train": "train on", "validation": "validate with", "test": "test with"}


def stop_on_errors(given: Collected, decided: Decided) -> None:
    """Let errors, and splits without rows, end the preparation; what was found is kept then.

    Raises:
        DataError: There are errors and they are not to be rejected, or nothing is left of a split.
    """
    config, tally = given.settings.config, decided.tally
    errors = {code for code in tally.counts if RULES[code].severity == "error"}
    leaks = set(LEAK_CODES.values())
    if config.on_error == "reject":
        # Long rows and leaks have settings of their own, whose word is final.
        errors &= leaks | ({OVERLENGTH} if config.overlength == "error" else set())
    elif config.overlength == "drop":
        errors -= {OVERLENGTH}
    if config.leaks != "error":
        errors -= leaks
    if errors:
        raise tally.error(errors, _keep_findings(given))
    for split, use in _USES.items():
        brought = any(p.source.split == split for p in given.planned)
        if brought and not len(decided.splits[split]):
            raise DataError(
                "PHI3-D040",
                f"no row is left to {use}{_where_they_went(given, decided, split)} "
                f"(findings: {_keep_findings(given)})",
                where=given.names(split),
                fix="give more rows (50 are a beginning), or mend the rejected ones",
            )


def _where_they_went(given: Collected, decided: Decided, split: str) -> str:
    """What took the rows, where nothing was left."""
    config = given.settings.config
    own = {"validation": config.validation_data, "test": config.test_data}
    taken = {
        name: len(decided.splits[name])
        for name, files in own.items()
        if split == "train" and not files
    }
    went = "".join(f"; {n} went to the {name} split" for name, n in taken.items() if n)
    rejected = sum(
        outcome.rejected
        for piece, outcome in zip(given.pieces, given.outcomes, strict=True)
        if piece.source.split == split
    ) + int(np.count_nonzero(decided.table.origin[decided.rejected] == SPLITS.index(split)))
    went += f"; {rejected} rejected" if rejected else ""
    left_out = f"; the weights leave {decided.left_out} out" if decided.left_out else ""
    return went + left_out


def _keep_findings(given: Collected) -> Path:
    given.failed.mkdir(parents=True, exist_ok=True)
    for name in ("findings.jsonl", "rejected.jsonl", "duplicates.jsonl"):
        shutil.copy(given.folder / name, given.failed / name)
    return given.failed / "findings.jsonl"
