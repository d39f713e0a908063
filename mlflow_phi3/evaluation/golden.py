"""Golden queries: questions whose answers must hold before a model is registered, or deployed.

One JSON object a line: ``{"messages": [...], "contains": ["blue"], "excludes": ["red"],
"matches": "^Hold", "expected": "...", "min_rouge_l": 0.4}``. ``messages`` ends with the user's (a
classifier takes ``text`` instead); ``max_tokens`` may go with it; every other key is a demand.
Without any demand the answer must only not be empty.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from mlflow_phi3.config.parse import first_fault
from mlflow_phi3.data.jsonl import read_lines
from mlflow_phi3.data.messages import Message
from mlflow_phi3.data.replies import Ask, answer_text
from mlflow_phi3.errors import DataError, GateError
from mlflow_phi3.evaluation.metrics import exact_match, rouge_l


class _Turn(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    role: Literal["system", "user", "assistant"]
    content: str


class _Row(BaseModel):
    """One line of the file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    messages: tuple[_Turn, ...] | None = None
    text: str | None = None
    max_tokens: int | None = Field(default=None, ge=1)
    contains: tuple[str, ...] = ()
    excludes: tuple[str, ...] = ()
    matches: str | None = None
    expected: str | None = None
    min_rouge_l: float | None = Field(default=None, ge=0, le=1)

    @model_validator(mode="after")
    def _can_be_judged(self) -> "_Row":
        if (self.messages is None) == (self.text is None):
            raise ValueError("give messages, or text for a classifier")
        if self.messages is not None and (not self.messages or self.messages[-1].role != "user"):
            raise ValueError("messages must end with the user's")
        if self.min_rouge_l is not None and not self.expected:
            raise ValueError("min_rouge_l needs expected")
        try:
            re.compile(self.matches or "")
        except re.error as error:
            raise ValueError(f"matches: {error}") from error
        return self

    def inputs(self) -> dict[str, Any]:
        """What of it is asked."""
        return self.model_dump(
            mode="json", include={"messages", "text", "max_tokens"}, exclude_none=True
        )


@dataclass(frozen=True, slots=True)
class GoldenQuery:
    """A question and what its answer must fulfil; texts are compared without regard to case.

    Args:
        inputs: The request, as ``predict`` takes it.
        place: ``file:line``; empty for one that no file holds.
        contains: Texts that must be in the answer.
        excludes: Texts that must not.
        matches: Regular expression to be found in the answer, or None.
        expected: The right answer, or None.
        min_rouge_l: Least ROUGE-L against ``expected``; None demands a normalised exact match.
    """

    inputs: Mapping[str, Any]
    place: str = ""
    contains: tuple[str, ...] = ()
    excludes: tuple[str, ...] = ()
    matches: str | None = None
    expected: str | None = None
    min_rouge_l: float | None = None

    @property
    def messages(self) -> tuple[Message, ...]:
        """The conversation before the answer; a classifier's text as what the user says."""
        turns = self.inputs.get("messages")
        if turns is None:
            return (Message("user", str(self.inputs.get("text", ""))),)
        return tuple(Message(turn["role"], turn["content"]) for turn in turns)


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


def load_golden(path: Path) -> tuple[GoldenQuery, ...]:
    """All queries of a JSONL file; empty lines are skipped.

    Raises:
        DataError: There is no such file, a line is not a query, or there is none.
    """
    fix = "give the path of a JSONL file of queries (docs/metrics.md)"
    lines = read_lines(path, code="PHI3-D072", fix=fix)
    queries = tuple(_to_query(line, place) for place, line in lines)
    if not queries:
        raise DataError("PHI3-D077", "no queries", where=str(path), fix="write one per line")
    return queries


def judge(query: GoldenQuery, answer: str | None) -> GoldenResult:
    """Hold one answer against its query; an empty one never holds."""
    question = query.messages[-1].content
    if answer is None or not answer.strip():
        return GoldenResult(query.place, question, answer or "", ("has no text",))
    faults = [f"lacks {text!r}" for text in query.contains if not _within(text, answer)]
    faults += [f"contains {text!r}" for text in query.excludes if _within(text, answer)]
    if query.matches and not re.search(query.matches, answer, re.IGNORECASE):
        faults.append(f"does not match {query.matches!r}")
    if query.expected is not None:
        faults += _faults_against(query.expected, answer, query.min_rouge_l)
    return GoldenResult(query.place, question, answer, tuple(faults))


def judge_all(queries: Sequence[GoldenQuery], answers: Sequence[str]) -> tuple[GoldenResult, ...]:
    """Hold each answer against the query at the same place."""
    return tuple(judge(query, text) for query, text in zip(queries, answers, strict=True))


def check_answers(queries: Sequence[GoldenQuery], ask: Ask, *, where: str) -> None:
    """Ask all queries of a deployed model.

    Args:
        queries: What is asked, in order.
        ask: Sends one request.
        where: The deployment, as an error names it.

    Raises:
        GateError: An answer is not as demanded; the first that is not.
    """
    for number, query in enumerate(queries, start=1):
        result = judge(query, answer_text(ask(query.inputs)))
        if not result.passed:
            told = f" ({query.place})" if query.place else ""
            raise GateError(
                "PHI3-G701",
                f"golden query {number} of {len(queries)}{told}: the answer "
                f"{', '.join(result.faults)}: {result.answer[:200]!r}",
                where=where,
                fix="look at the model by mlflow deployments run-local -t azure-foundry --name t "
                "-m models:/<name>/<version>, or change the golden file",
            )


def _faults_against(expected: str, answer: str, least: float | None) -> list[str]:
    if least is None:
        return [] if exact_match(expected, answer) else [f"is not {expected!r}"]
    found = rouge_l(expected, answer)
    return [] if found >= least else [f"ROUGE-L {found:.2f} is below {least}"]


def _within(text: str, answer: str) -> bool:
    return text.casefold() in answer.casefold()


def _to_query(line: str, place: str) -> GoldenQuery:
    try:
        row = _Row.model_validate_json(line)
    except ValidationError as error:
        told = ": ".join(filter(None, first_fault(error)))
        raise DataError(
            "PHI3-D073", told, where=place, fix="see docs/metrics.md, golden queries"
        ) from error
    return GoldenQuery(
        place=place,
        inputs=row.inputs(),
        contains=row.contains,
        excludes=row.excludes,
        matches=row.matches,
        expected=row.expected,
        min_rouge_l=row.min_rouge_l,
    )
