"""One row: from what was read to what is stored, or to what is wrong with it."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field

from mlflow_phi3.config.prepare import PrepareConfig
from mlflow_phi3.data.clean import clean, looks_like_html, steps_of
from mlflow_phi3.data.encode import Encoded, Encoder
from mlflow_phi3.data.findings import RULES
from mlflow_phi3.data.formats import Draft, Reader
from mlflow_phi3.data.jsonl import RawRow
from mlflow_phi3.data.languages import TextFacts, describe_texts
from mlflow_phi3.data.messages import Message
from mlflow_phi3.data.overlength import shorten
from mlflow_phi3.data.shards import Stored
from mlflow_phi3.data.tasks import find_task
from mlflow_phi3.data.template import TemplateSource
from mlflow_phi3.data.validate import (
    Problem,
    check_conversation,
    check_texts,
    check_weights,
    parse_messages,
)
from mlflow_phi3.errors import DataError

OVERLENGTH = "PHI3-D021"
_EMPTY = ("PHI3-D011", "PHI3-D019")


@dataclass(slots=True)
class Result:
    """What became of a row.

    Args:
        line: Its line in the source.
        messages: What it says, after cleaning.
        problems: What was found in it; with an error, it is rejected.
        cleaned: Names of the cleaning rules that changed it.
        html: Whether it looks like HTML.
        label: Its class.
        extra: Its other keys, as JSON.
        stored: The row, ready to be written; None when it cannot be.
    """

    line: int
    messages: Sequence[Message] = ()
    problems: list[Problem] = field(default_factory=list)
    cleaned: set[str] = field(default_factory=set)
    html: bool = False
    label: str | None = None
    extra: str | None = None
    stored: Stored | None = None


class RowWork:
    """Checks, cleans and encodes rows of one preparation.

    Args:
        config: The person's settings.
        template: Tokenizer and template.
        max_length: Tokens a conversation may have; 0 for no limit.
    """

    def __init__(self, config: PrepareConfig, template: TemplateSource, max_length: int) -> None:
        self._config = config
        self._limit = max_length
        self._encoder = Encoder(template)
        self._steps = steps_of(config)
        self._task = find_task(config.task)
        self._classify = self._task.classifies

    def work(self, rows: Sequence[RawRow], reader: Reader, source: int) -> list[Result]:
        """Take a block of rows all the way.

        Args:
            rows: As they were read.
            reader: How their source's rows become messages.
            source: Number of the source.
        """
        results = [self._check(row, reader) for row in rows]
        sound = [result for result in results if not has_error(result.problems)]
        found = self._encoder.encode_all(
            [result.messages for result in sound], prompt=self._classify
        )
        for result, encoded in zip(sound, found, strict=True):
            if isinstance(encoded, DataError):
                result.problems.append(Problem(encoded.code, encoded.problem))
            else:
                result.stored = self._finish(result, encoded, source)
        return results

    def _check(self, row: RawRow, reader: Reader) -> Result:
        """Read, clean and check a row; without errors, it is ready to be encoded."""
        result = Result(row.line)
        if row.problem:
            result.problems.append(row.problem)
            return result
        try:
            self._read(result, row, reader)
        except RecursionError:  # JSON that parses may still be too deep to quote or to write
            result.problems = [Problem("PHI3-D004", "nested too deeply")]
        return result

    def _read(self, result: Result, row: RawRow, reader: Reader) -> None:
        result.problems += self._check_cells(row, reader)
        value, problem = self._task.read(row.value)
        if problem:
            result.problems.append(problem)
        if result.problems:
            return
        draft = reader.read(value)
        if draft.problem:
            result.problems.append(draft.problem)
        else:
            self._take(result, draft)
        if draft.emptied:
            result.cleaned.add("missing_values")
            result.problems = [_with_reason(problem, draft) for problem in result.problems]

    def _check_cells(self, row: RawRow, reader: Reader) -> list[Problem]:
        """Cells that could not be read; a task of another package may look at any of them."""
        return [
            Problem("PHI3-D031", f"column {column!r} cannot be read: {why}")
            for column, why in row.unread.items()
            if self._task.to_row or column in reader.keys.values()
        ]

    def _take(self, result: Result, draft: Draft) -> None:
        """Clean and check what a format made of a row."""
        messages, result.problems = parse_messages(draft.messages)
        result.problems += check_weights(draft.messages, self._config.train_on)
        if has_error(result.problems):
            return
        result.html = any(looks_like_html(message.content) for message in messages)
        messages, result.cleaned = clean(messages, self._steps)
        result.problems += check_texts(messages) if self._classify else check_conversation(messages)
        if has_error(result.problems):
            return
        result.messages = messages
        if draft.label is not None:  # cleaned, as it stands in the answer
            result.label = messages[-1].content.strip()
        if self._classify:
            result.messages, result.label = _as_labelled(messages)
            result.problems += _check_labelled(result)
            if has_error(result.problems):
                return
        result.extra = _dump(draft)
        for number, message in enumerate(result.messages, start=1):
            special = self._encoder.find_special(message.content)
            if special:
                text = f"message {number} ({message.role}) holds {special!r}"
                result.problems.append(Problem("PHI3-D016", text))

    def _finish(self, result: Result, encoded: Encoded, source: int) -> Stored:
        """Fit a row to the limit, find what it teaches, and describe it."""
        problems = result.problems
        roles = [message.role for message in result.messages]
        ends = encoded.turns[:, 2].tolist()
        for number, (role, end) in enumerate(zip(roles, ends, strict=True), start=1):
            if end == 0:
                text = f"the chat template leaves out message {number} ({role})"
                problems.append(Problem("PHI3-D024", text))
        cut = -1
        if self._limit and len(encoded.ids) > self._limit:
            encoded, cut = self._fit(encoded, roles, problems)
        spans = [] if self._classify else encoded.supervised_spans(roles, self._config.train_on)
        if not spans and not self._classify and not has_error(problems):
            problems.append(Problem("PHI3-D022", "no token of the row is learnt"))
        return Stored(
            source=source,
            line=result.line,
            messages=result.messages,
            encoded=encoded,
            supervised=spans,
            label=result.label,
            extra=result.extra,
            cut=cut,
            text=_describe(result.messages),
        )

    def _fit(
        self, encoded: Encoded, roles: Sequence[str], problems: list[Problem]
    ) -> tuple[Encoded, int]:
        """Shorten an overlong conversation, or say that it is too long."""
        if self._config.overlength == "truncate":
            short = shorten(encoded, roles, self._limit)
            if short is not None:
                return short.encoded, short.cut
        text = f"{len(encoded.ids):,} tokens; max_length is {self._limit:,}"
        problems.append(Problem(OVERLENGTH, text))
        return encoded, -1


def has_error(problems: Sequence[Problem]) -> bool:
    """Whether one of the problems keeps the row out."""
    return any(RULES[problem.code].severity == "error" for problem in problems)


def _as_labelled(messages: list[Message]) -> tuple[list[Message], str | None]:
    """The text to classify, and its class: the last answer."""
    if messages[-1].role == "assistant" and len(messages) > 1:
        return messages[:-1], messages[-1].content.strip()
    return messages, None


def _check_labelled(result: Result) -> list[Problem]:
    if result.label is None:
        return [Problem("PHI3-D019", "the row has no label")]
    if all(message.role != "user" for message in result.messages):
        return [Problem("PHI3-D015", "no message of the user to label")]
    return []


def _describe(messages: Sequence[Message]) -> TextFacts:
    """Words of all messages; a long system message must not hide what the others are written in."""
    texts: dict[bool, list[str]] = {True: [], False: []}
    for message in messages:
        texts[message.role == "system"].append(message.content)
    return describe_texts(texts[False], aside=texts[True])


def _with_reason(problem: Problem, draft: Draft) -> Problem:
    """What is empty because its cell was taken for empty is told so."""
    if problem.code not in _EMPTY:
        return problem
    keeps = "clean_missing_values=false takes it as it is"
    return Problem(problem.code, f"{problem.text}: {draft.emptied} was taken for empty; {keeps}")


def _dump(draft: Draft) -> str | None:
    if not draft.extra:
        return None
    # Escaped: a lone surrogate among the extra keys must not fail the row.
    return json.dumps(draft.extra, ensure_ascii=True, default=str)
