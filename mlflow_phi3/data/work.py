"""What is done to one piece of a source; runs in any process and knows nothing of the others."""

import gc
import json
import zlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

import numpy as np
import numpy.typing as npt

from mlflow_phi3.config.prepare import PrepareConfig
from mlflow_phi3.data.digest import row_keys, to_keys
from mlflow_phi3.data.findings import RULES, Finding, Tally, printable
from mlflow_phi3.data.formats import Reader
from mlflow_phi3.data.jsonl import CHUNK_BYTES, RawRow, Span
from mlflow_phi3.data.rows import Result, RowWork
from mlflow_phi3.data.shards import ShardWriter, Stored, shard_name
from mlflow_phi3.data.similarity import band_keys, count_bands, sketch_rows
from mlflow_phi3.data.sources import Source, read_span
from mlflow_phi3.data.template import TemplateSource
from mlflow_phi3.data.validate import Problem

HTML = "PHI3-D026"
_BLOCK_ROWS = 4096  # so many that their words repeat
_NONE = np.zeros(0, np.int32)
Ids = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Settings:
    """What every piece is prepared with.

    Args:
        folder: Where the shards go.
        template: Tokenizer and template.
        config: The person's settings.
        max_length: Tokens a conversation may have; 0 for no limit.
    """

    folder: Path
    template: TemplateSource
    config: PrepareConfig
    max_length: int

    @property
    def looks_for_near(self) -> bool:
        """Whether rows are sketched: below 1, something is a near duplicate."""
        return self.config.near_duplicate_similarity < 1


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of a source.

    Args:
        number: Its place among all pieces, and the name of its shard.
        source: The source.
        source_number: Its place among the sources.
        file: The file it is in.
        span: Its place in the file.
        reader: How its rows become messages.
    """

    number: int
    source: Source
    source_number: int
    file: Path
    span: Span
    reader: Reader


@dataclass(slots=True)
class Outcome:
    """What became of a piece.

    Args:
        rows_in: Rows read.
        kept: Rows in the shard.
        rejected: Rows with an error.
        tally: Findings, counted.
        cleaning: Rows changed by each cleaning rule.
        labels: Labels of the kept rows, in order; empty when there is none.
    """

    rows_in: int = 0
    kept: int = 0
    rejected: int = 0
    tally: Tally = field(default_factory=Tally)
    cleaning: Counter[str] = field(default_factory=Counter)
    labels: list[str | None] = field(default_factory=list)


class Worker:
    """Prepares pieces one after another; keeps the tokenizer between them."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._rows = RowWork(settings.config, settings.template, settings.max_length)

    def prepare(self, piece: Piece) -> Outcome:
        """Read, check, clean and encode a piece; write its shard, keys and findings."""
        # Rows go without the collector of circles, which would look at each again and again.
        collects = gc.isenabled()
        gc.disable()
        try:
            return self._prepare(piece)
        finally:
            if collects:
                gc.enable()

    def _prepare(self, piece: Piece) -> Outcome:
        outcome = Outcome()
        base = self._settings.folder / f"{piece.number:06d}"
        writer = ShardWriter(self._settings.folder / shard_name(piece.number))
        keys: list[tuple[bytes, bytes]] = []
        said: list[Ids] = []
        learnt: list[Ids] = []
        with (
            base.with_suffix(".findings").open("w", encoding="utf-8") as findings,
            base.with_suffix(".rejected").open("w", encoding="utf-8") as rejected,
        ):
            for row, result in self._results(piece):
                errors = self._count(result, row, piece, findings, outcome)
                stored = result.stored
                if stored is None or errors:
                    _reject(rejected, piece, row, errors)
                    continue
                writer.write(stored)
                keys.append(row_keys(stored.messages, stored.label))
                outcome.labels.append(stored.label)
                if self._settings.looks_for_near:
                    said.append(_tokens_of(stored, ("user", "assistant")))
                    learnt.append(_learnt_tokens(stored))
        writer.close()
        np.save(base.with_suffix(".keys.npy"), to_keys(keys))
        if self._settings.looks_for_near:
            sketches = np.stack([sketch_rows(said), sketch_rows(learnt, filled=False)], 1)
            bands = count_bands(self._settings.config.near_duplicate_similarity)
            np.save(base.with_suffix(".sketch.npy"), sketches)
            np.save(base.with_suffix(".bands.npy"), band_keys(sketches[:, 0], bands))
        if not any(outcome.labels):
            outcome.labels = []
        return outcome

    def _results(self, piece: Piece) -> Iterator[tuple[RawRow, Result]]:
        for block in _blocks(read_span(piece.source.kind, piece.file, piece.span)):
            results = self._rows.work(block, piece.reader, piece.source_number)
            yield from zip(block, results, strict=True)

    def _count(
        self, result: Result, row: RawRow, piece: Piece, findings: TextIO, outcome: Outcome
    ) -> list[Finding]:
        """Write and count what was found in a row; returns the errors."""
        problems = result.problems
        if result.html and not self._settings.config.clean_html:
            problems = [*problems, Problem(HTML, "the text holds HTML tags or entities")]
        found = [
            Finding(problem.code, piece.source.name, row.line, printable(problem.text))
            for problem in problems
        ]
        for finding in found:
            findings.write(finding.to_json() + "\n")
            outcome.tally.add(finding)
        errors = [finding for finding in found if RULES[finding.code].severity == "error"]
        outcome.rows_in += 1
        outcome.cleaning.update(result.cleaned)
        if result.stored is None or errors:
            outcome.rejected += 1
        else:
            outcome.kept += 1
        return errors


def _blocks(rows: Iterable[RawRow]) -> Iterator[list[RawRow]]:
    """Rows by the thousand, fewer where they are long."""
    block: list[RawRow] = []
    size = 0
    for row in rows:
        block.append(row)
        size += len(row.raw)
        if len(block) >= _BLOCK_ROWS or size >= CHUNK_BYTES:
            yield block
            block, size = [], 0
    if block:
        yield block


def _tokens_of(stored: Stored, roles: Collection[str]) -> Ids:
    """Tokens of what some roles said; the system message is alike in all rows."""
    turns = stored.encoded.turns.tolist()
    spoken = [
        stored.encoded.ids[start:end]
        for message, (start, end, _) in zip(stored.messages, turns, strict=True)
        if message.role in roles
    ]
    return np.concatenate([*spoken, _NONE]) if len(spoken) != 1 else spoken[0]


def _learnt_tokens(stored: Stored) -> Ids:
    """Tokens of the answers, or a number for the label.

    Rows that ask about one long text are almost alike, but do not teach the same.
    """
    if stored.label is None:
        return _tokens_of(stored, ("assistant",))
    return np.array([zlib.crc32(stored.label.encode()) >> 1], np.int32)


def _reject(rejected: TextIO, piece: Piece, row: RawRow, errors: Sequence[Finding]) -> None:
    facts = {
        "place": f"{piece.source.name}:{row.line}",
        "codes": [finding.code for finding in errors],
        "reasons": [finding.problem for finding in errors],
        "row": row.raw,
    }
    # A lone surrogate of the row can only be written escaped.
    rejected.write(json.dumps(facts, ensure_ascii=True) + "\n")
