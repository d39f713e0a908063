"""What is done to one piece of a source; runs in any process and knows nothing of the others."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

import numpy as np

from mlflow_phi3.config.prepare import PrepareConfig
from mlflow_phi3.data import jsonl
from mlflow_phi3.data.digest import row_keys, to_keys
from mlflow_phi3.data.encode import Encoded, Encoder
from mlflow_phi3.data.findings import RULES, Finding, Tally
from mlflow_phi3.data.messages import Message
from mlflow_phi3.data.shards import ShardWriter, Stored, shard_name
from mlflow_phi3.data.sources import Source
from mlflow_phi3.data.template import TemplateSource
from mlflow_phi3.data.validate import Problem, check_conversation, parse_messages
from mlflow_phi3.errors import DataError

_SHOWN_RAW = 20_000


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


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of a source.

    Args:
        number: Its place among all pieces, and the name of its shard.
        source: The source.
        source_number: Its place among the sources.
        span: The bytes and lines.
    """

    number: int
    source: Source
    source_number: int
    span: jsonl.Span


@dataclass(slots=True)
class Outcome:
    """What became of a piece.

    Args:
        number: The piece.
        rows_in: Rows read.
        kept: Rows in the shard.
        rejected: Rows with an error.
        tally: Findings, counted.
        cleaning: Rows changed by each cleaning rule.
        labels: Rows by label.
    """

    number: int
    rows_in: int = 0
    kept: int = 0
    rejected: int = 0
    tally: Tally = field(default_factory=Tally)
    cleaning: Counter[str] = field(default_factory=Counter)
    labels: Counter[str] = field(default_factory=Counter)


class Worker:
    """Prepares pieces one after another; keeps the tokenizer between them."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._encoder = Encoder(settings.template)

    def prepare(self, piece: Piece) -> Outcome:
        """Read, check, clean and encode a piece; write its shard, keys and findings."""
        outcome = Outcome(piece.number)
        folder = self._settings.folder
        writer = ShardWriter(folder / shard_name(piece.number))
        keys: list[tuple[bytes, bytes]] = []
        with (
            (folder / f"{piece.number:06d}.findings").open("w", encoding="utf-8") as findings,
            (folder / f"{piece.number:06d}.rejected").open("w", encoding="utf-8") as rejected,
        ):
            for row in jsonl.read_rows(piece.source.path, piece.span):
                outcome.rows_in += 1
                stored, problems = self._prepare_row(row, piece)
                errors = _tell(problems, piece, row.line, findings, outcome)
                if stored is None or errors:
                    outcome.rejected += 1
                    _reject(rejected, piece, row, errors)
                    continue
                writer.write(stored)
                keys.append(row_keys(stored.messages, stored.label))
                outcome.kept += 1
        writer.close()
        np.save(folder / f"{piece.number:06d}.keys.npy", to_keys(keys))
        return outcome

    def _prepare_row(self, row: jsonl.Row, piece: Piece) -> tuple[Stored | None, list[Problem]]:
        if row.problem:
            return None, [row.problem]
        if not isinstance(row.value, dict):
            text = f"the row is a {type(row.value).__name__}; expected an object"
            return None, [Problem("PHI3-D003", text)]
        messages, problems = parse_messages(row.value.get("messages"))
        if messages and not _has_error(problems):
            problems += check_conversation(messages)
        if _has_error(problems):
            return None, problems
        encoded, spans, found = self._encode(messages)
        problems += found
        if encoded is None:
            return None, problems
        others = {key: value for key, value in row.value.items() if key != "messages"}
        return Stored(
            source=piece.source_number,
            line=row.line,
            messages=messages,
            encoded=encoded,
            supervised=spans,
            extra=json.dumps(others, ensure_ascii=False) if others else None,
        ), problems

    def _encode(
        self, messages: Sequence[Message]
    ) -> tuple[Encoded | None, list[tuple[int, int]], list[Problem]]:
        problems = [
            Problem("PHI3-D016", f"message {number} ({message.role}) holds {special!r}")
            for number, message in enumerate(messages, start=1)
            if (special := self._encoder.find_special(message.content))
        ]
        try:
            encoded = self._encoder.encode(messages)
        except DataError as error:
            return None, [], [*problems, Problem(error.code, error.problem)]
        spans = encoded.supervised_spans(
            [message.role for message in messages], self._settings.config.train_on
        )
        limit = self._settings.max_length
        if not spans:
            problems.append(Problem("PHI3-D022", "no token of the row is learnt"))
        if limit and len(encoded.ids) > limit:
            text = f"{len(encoded.ids):,} tokens; max_length is {limit:,}"
            problems.append(Problem("PHI3-D021", text))
        return encoded, spans, problems


def _has_error(problems: Sequence[Problem]) -> bool:
    return any(RULES[problem.code].severity == "error" for problem in problems)


def _tell(
    problems: Sequence[Problem], piece: Piece, line: int, findings: TextIO, outcome: Outcome
) -> list[Finding]:
    """Write and count what was found in a row; returns the errors."""
    found = [Finding(problem.code, piece.source.name, line, problem.text) for problem in problems]
    for finding in found:
        findings.write(finding.to_json() + "\n")
        outcome.tally.add(finding)
    return [finding for finding in found if RULES[finding.code].severity == "error"]


def _reject(rejected: TextIO, piece: Piece, row: jsonl.Row, errors: Sequence[Finding]) -> None:
    facts = {
        "place": f"{piece.source.name}:{row.line}",
        "codes": [finding.code for finding in errors],
        "reasons": [finding.problem for finding in errors],
        "row": row.raw[:_SHOWN_RAW],
    }
    # A lone surrogate of the row can only be written escaped.
    rejected.write(json.dumps(facts, ensure_ascii=True) + "\n")


def each(worker: Worker, pieces: Sequence[Piece]) -> Iterator[Outcome]:
    """Prepare pieces in this process."""
    return map(worker.prepare, pieces)
