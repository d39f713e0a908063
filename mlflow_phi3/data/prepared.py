"""A finished preparation, as the workflows use it."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mlflow_phi3.data.manifest import NAME, Manifest
from mlflow_phi3.data.messages import Conversation, Example
from mlflow_phi3.data.shards import Rows, ShardStore, SplitRows
from mlflow_phi3.errors import DataError

SHARDS = "shards"
_ARTIFACTS = (
    NAME,
    "report.html",
    "report.json",
    "preview.html",
    "findings.jsonl",
    "rejected.jsonl",
    "duplicates.jsonl",
)


@dataclass(frozen=True, slots=True)
class PreparedData:
    """Checked, split and tokenised data in a folder.

    Args:
        folder: Where it lies.
        manifest: Its figures.
    """

    folder: Path
    manifest: Manifest

    def examples(self, split: str) -> Sequence[Example]:
        """The examples of ``train``, ``validation`` or ``test``, read when asked for."""
        return SplitRows(self.store().example, self.rows(split))

    def conversations(self, split: str) -> Sequence[Conversation]:
        """The conversations of a split, in the order of its examples."""
        return SplitRows(self.store().conversation, self.rows(split))

    @property
    def warnings(self) -> list[dict[str, Any]]:
        """The findings that kept no row out, by code: as ``findings`` of ``report.json``."""
        report = json.loads((self.folder / "report.json").read_text(encoding="utf-8"))
        return [found for found in report["findings"] if found["severity"] == "warning"]

    @property
    def artifacts(self) -> tuple[Path, ...]:
        """The files for people, to log under ``data/``."""
        return tuple(path for name in _ARTIFACTS if (path := self.folder / name).is_file())

    def rows(self, split: str) -> Rows:
        """The addresses of a split's rows.

        Raises:
            DataError: There is no such split.
        """
        if split not in self.manifest.splits:
            known = ", ".join(self.manifest.splits)
            raise DataError("PHI3-D042", f"no split {split!r}", fix=f"take one of {known}")
        rows: Rows = np.load(self.folder / f"{split}.npy", mmap_mode="r")
        return rows

    def store(self) -> ShardStore:
        """The rows behind the addresses."""
        names = [source.name for source in self.manifest.sources]
        return ShardStore(self.folder / SHARDS, names, dict(self.manifest.labels))


def load_prepared(folder: Path) -> PreparedData:
    """Open a finished preparation.

    Raises:
        DataError: The folder holds none.
    """
    if not (folder / NAME).is_file():
        raise DataError(
            "PHI3-D043", "no prepared data", where=str(folder), fix="run `prepare` first"
        )
    return PreparedData(folder, Manifest.load(folder))
