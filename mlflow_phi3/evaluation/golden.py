"""Golden queries: questions whose answers must hold before a model is promoted.

One JSON object a line: ``{"messages": [...], "contains": ["blue"], "excludes": ["red"],
"matches": "^Hold", "expected": "...", "min_rouge_l": 0.4}``. ``messages`` ends with the user's;
every other key is a demand, and at least one has to be there.
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from mlflow_phi3.data.messages import Message
from mlflow_phi3.errors import DataError
from mlflow_phi3.evaluation.metrics import exact_match, rouge_l


class _Turn(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    role: str
    content: str


class _Row(BaseModel):
    """One line of the file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    messages: tuple[_Turn, ...]
    contains: tuple[str, ...] = ()
    excludes: tuple[str, ...] = ()
    matches: str | None = None
    expected: str | None = None
    min_rouge_l: float | None = None

    @model_validator(mode="after")
    def _can_be_judged(self) -> "_Row":
        if not self.messages or self.messages[-1].role != "user":
            raise ValueError("messages must end with the user's")
        if not (self.contains or self.excludes or self.matches or self.expected):
            raise ValueError("nothing is demanded: give contains, excludes, matches or expected")
        if self.min_rouge_l is not None and not self.expected:
            raise ValueError("min_rouge_l needs expected")
        re.compile(self.matches or "")
        return self


@dataclass(frozen=True, slots=True)
class GoldenQuery:
    """A question and what its answer must fulfil; texts are compared without regard to case.

    Args:
        place: ``file:line``.
        messages: The conversation before the answer.
        contains: Texts that must be in the answer.
        excludes: Texts that must not.
        matches: Regular expression to be found in the answer, or None.
        expected: The right answer, or None.
        min_rouge_l: Least ROUGE-L against ``expected``; None demands a normalised exact match.
    """

    place: str
    messages: tuple[Message, ...]
    contains: tuple[str, ...] = ()
    excludes: tuple[str, ...] = ()
    matches: str | None = None
    expected: str | None = None
    min_rouge_l: float | None = None


@dataclass(frozen=True, slots=True)
class GoldenResult:
    """One query's answer and what was wrong with it.

    Args:
        place: ``file:line`` of the query.
        question: The user's last message.
        answer: What the model said.
        faults: In words; empty when all demands hold.
    """

    place: str
    question: str
    answer: str
    faults: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether all demands hold."""
        return not self.faults


def read_golden(path: Path) -> Iterator[GoldenQuery]:
    """Read the queries of a JSONL file; empty lines are skipped.

    Raises:
        DataError: There is no such file, or a line is not a query.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise DataError(
            "PHI3-D072", f"cannot be read: {error.strerror}", where=str(path), fix="check golden"
        ) from error
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield _to_query(line, f"{path}:{number}")


def judge(query: GoldenQuery, answer: str) -> GoldenResult:
    """Hold one answer against its query."""
    faults = [f"lacks {text!r}" for text in query.contains if not _within(text, answer)]
    faults += [f"contains {text!r}" for text in query.excludes if _within(text, answer)]
    if query.matches and not re.search(query.matches, answer, re.IGNORECASE):
        faults.append(f"does not match {query.matches!r}")
    if query.expected is not None:
        faults += _faults_against(query.expected, answer, query.min_rouge_l)
    return GoldenResult(query.place, query.messages[-1].content, answer, tuple(faults))


def judge_all(queries: Sequence[GoldenQuery], answers: Sequence[str]) -> tuple[GoldenResult, ...]:
    """Hold each answer against the query at the same place."""
    return tuple(judge(query, text) for query, text in zip(queries, answers, strict=True))


def _faults_against(expected: str, answer: str, least: float | None) -> list[str]:
    if least is None:
        return [] if exact_match(expected, answer) else [f"is not {expected!r}"]
    found = rouge_l(expected, answer)
    return [] if found >= least else [f"ROUGE-L {found:.2f} is below {least}"]


def _within(text: str, answer: str) -> bool:
    return text.casefold() in answer.casefold()


def _to_query(line: str, place: str) -> GoldenQuery:
    try:
        row = _Row.model_validate(json.loads(line))
    except (ValueError, re.error) as error:  # ValidationError and JSONDecodeError are ValueErrors
        told = str(error)
        if isinstance(error, ValidationError):
            fault = error.errors(include_url=False, include_context=False)[0]
            name = ".".join(str(part) for part in fault["loc"])
            told = f"{name}: {fault['msg']}" if name else fault["msg"].removeprefix("Value error, ")
        raise DataError(
            "PHI3-D073", told, where=place, fix="see docs/metrics.md, golden queries"
        ) from error
    return GoldenQuery(
        place=place,
        messages=tuple(Message(turn.role, turn.content) for turn in row.messages),
        contains=row.contains,
        excludes=row.excludes,
        matches=row.matches,
        expected=row.expected,
        min_rouge_l=row.min_rouge_l,
    )
