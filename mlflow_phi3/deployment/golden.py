"""Golden queries: what a new deployment has to answer before anybody else asks it."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow_phi3.errors import GateError, UsageError

Ask = Callable[[Mapping[str, Any]], Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class GoldenQuery:
    """One question.

    Args:
        inputs: As ``predict`` takes them.
        expected: Text that the answer must be, white space aside; None takes any answer.
    """

    inputs: Mapping[str, Any]
    expected: str | None = None


def load_golden(path: Path) -> tuple[GoldenQuery, ...]:
    """Return the queries of a JSONL file.

    Raises:
        UsageError: No file, no line, or a line that is not a query.
    """
    if not path.is_file():
        raise UsageError("PHI3-U720", "no such file", where=str(path), fix="check -C golden=")
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), start=1):
        if line.strip():
            found.append(_read(line, f"{path}:{number}"))
    if not found:
        raise UsageError("PHI3-U721", "no queries", where=str(path), fix="write one per line")
    return tuple(found)


def check_answers(queries: Sequence[GoldenQuery], ask: Ask, *, where: str) -> None:
    """Ask all queries.

    Raises:
        GateError: An answer is empty or not the expected one.
    """
    for number, query in enumerate(queries, start=1):
        answer = ask(query.inputs)
        text = answer_text(answer)
        if text is None or not text.strip():
            raise GateError(
                "PHI3-G701",
                f"golden query {number} of {len(queries)} got no text: {str(answer)[:200]}",
                where=where,
                fix="look at the model by mlflow deployments run-local, then deploy again",
            )
        if query.expected is not None and text.split() != query.expected.split():
            raise GateError(
                "PHI3-G702",
                f"golden query {number} of {len(queries)} got {text[:200]!r}, "
                f"expected {query.expected[:200]!r}",
                where=where,
                fix="deploy a model that answers so, or change the golden file",
            )


def answer_text(answer: Mapping[str, Any]) -> str | None:
    """Return the text of a chat completion, or any prediction as text."""
    choices = answer.get("choices")
    if isinstance(choices, Sequence) and choices:
        message = choices[0].get("message") or {}
        return None if message.get("content") is None else str(message["content"])
    if "predictions" in answer:
        found = answer["predictions"]
        return "" if found in (None, [], {}) else json.dumps(found)
    return json.dumps(dict(answer)) if answer else None


def _read(line: str, where: str) -> GoldenQuery:
    try:
        content = json.loads(line)
    except ValueError as wrong:
        raise UsageError("PHI3-U722", f"not JSON: {wrong}", where=where) from wrong
    if not isinstance(content, dict) or not set(content) - {"expected"}:
        raise UsageError(
            "PHI3-U723", "not a query", where=where, fix='{"messages": [...], "expected": "..."}'
        )
    expected = content.pop("expected", None)
    return GoldenQuery(content, None if expected is None else str(expected))
