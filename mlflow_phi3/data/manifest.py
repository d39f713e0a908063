"""The manifest: what went in, what came out, and the proof that nothing was lost."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

NAME = "manifest.json"


@dataclass(frozen=True, slots=True)
class SourceFacts:
    """One source as it was read.

    Args:
        name: As errors cite it.
        split: ``train``, ``validation`` or ``test``.
        format: What its rows were taken for.
        taken: In words, what was taken for what.
        rows: Rows in it.
        size_bytes: Its size, 0 where there is no file.
        sha256: Digest of its bytes, or of its content where there is no file.
        weight: How often each row is shown.
    """

    name: str
    split: str
    format: str
    taken: str
    rows: int
    size_bytes: int
    sha256: str
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class SplitFacts:
    """One split.

    Args:
        rows: Its rows, a row shown twice counted twice.
        tokens: Tokens of all rows.
        supervised: Tokens that are learnt.
        sha256: Digest over all its rows in order.
        labels: Rows by label.
    """

    rows: int
    tokens: int
    supervised: int
    sha256: str
    labels: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Counts:
    """Where every row went: ``rows_in == kept + rejected + duplicates + left_out``.

    Args:
        rows_in: Rows of all sources.
        kept: Rows in a split.
        rejected: Rows with an error, in ``rejected.jsonl``.
        duplicates: Exact and near duplicates and dropped leaks, in ``duplicates.jsonl``.
        left_out: Rows that a source's weight below 1 does not show.
        truncated: Kept rows that were shortened.
    """

    rows_in: int
    kept: int
    rejected: int
    duplicates: int
    left_out: int = 0
    truncated: int = 0

    @property
    def adds_up(self) -> bool:
        """Whether no row is lost or counted twice."""
        return self.rows_in == self.kept + self.rejected + self.duplicates + self.left_out


@dataclass(frozen=True, slots=True)
class Manifest:
    """A preparation in figures.

    Args:
        key: Name of the preparation: hash of sources, settings, tokenizer and template.
        sha256: Digest over all rows of all splits.
        template_sha256: Of the chat template's text.
        tokenizer_sha256: Of the tokenizer and template.
        max_length: Tokens a conversation may have.
        counts: Where every row went.
        sources: What was read.
        splits: By name.
        codes: Findings by code.
        cleaning: Rows changed by each cleaning rule.
        labels: Index of each label, in alphabetical order.
        config: The settings.
    """

    key: str
    sha256: str
    template_sha256: str
    tokenizer_sha256: str
    max_length: int
    counts: Counts
    sources: tuple[SourceFacts, ...]
    splits: Mapping[str, SplitFacts]
    codes: Mapping[str, int] = field(default_factory=dict)
    cleaning: Mapping[str, int] = field(default_factory=dict)
    labels: Mapping[str, int] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)

    def save(self, folder: Path) -> None:
        """Write ``manifest.json``."""
        text = json.dumps(dataclasses.asdict(self), ensure_ascii=False, indent=2)
        (folder / NAME).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> "Manifest":
        """Read ``manifest.json``."""
        return TypeAdapter(cls).validate_json((folder / NAME).read_bytes())
