"""Calls of an endpoint as lines of JSON: the data collector's, or an application's own log.

Azure's collector writes CloudEvents, ``azureml.inference.request`` and ``...response``, joined by
``correlationid``; it knows neither latency nor status. A log of our own (``mlflow-phi3 try --log``)
is one object a call: ``{"at", "request", "response", "status", "latency_ms"}``.

Source: "Collect production data from models deployed for real-time inferencing" (2025-12).
"""

import datetime as dt
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import AwareDatetime, BaseModel, FiniteFloat, NaiveDatetime, ValidationError

from mlflow_phi3.errors import DataError

_FILTERED = "content_filter"
# What holds the chats or texts of a request: Azure's key, and those of MLflow's scoring server.
_HOLDERS = ("input_data", "dataframe_split", "dataframe_records", "inputs")
_OK = 200


@dataclass(frozen=True, slots=True)
class Call:
    """One call; it may have asked several chats at once.

    Args:
        at: When, in UTC.
        prompts: What the user said last, one text a chat: what was said before it was the last
            of an earlier call.
        status: HTTP status, or None where nobody wrote it down.
        latency_ms: Likewise.
        prompt_tokens: As the endpoint counted them, of all chats together, or None.
        completion_tokens: Likewise.
        refused: Whether content safety stopped any of it, on the way in or out.
    """

    at: dt.datetime
    prompts: tuple[str, ...]
    status: int | None = None
    latency_ms: float | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    refused: bool = False


class _Measured(BaseModel):
    """What a line says of its call; a time is ISO 8601, or (milli)seconds since 1970."""

    at: AwareDatetime | NaiveDatetime
    status: int | None = None
    latency_ms: FiniteFloat | None = None


def to_log(request: Any, response: Any, *, at: dt.datetime, status: int, latency_ms: float) -> str:
    """One line of a log of our own."""
    facts = {"at": at.isoformat(), "request": request, "response": response}
    facts |= {"status": status, "latency_ms": round(latency_ms, 3)}
    return json.dumps(facts, ensure_ascii=False)


def read_calls(lines: Iterable[tuple[str, str]]) -> list[Call]:
    """Read the lines of any number of files, whatever their order.

    Args:
        lines: Place (``file:line``) and text of each.

    Raises:
        DataError: A line is neither an event of the collector nor a call, or one of its facts
            cannot be read.
    """
    calls: list[Call] = []
    requests: dict[str, tuple[str, Mapping[str, Any]]] = {}
    responses: dict[str, Mapping[str, Any]] = {}
    for place, text in lines:
        found = _parse(text, place)
        kind = str(found.get("type") or "")
        if kind.startswith("azureml.inference."):
            key = str(found.get("correlationid") or found.get("id"))
            if kind.endswith((".response", ".outputs")):
                responses[key] = found
            else:
                requests[key] = place, found
        elif "request" in found and "at" in found:
            facts = {**found, "status": found.get("status") or _OK}
            calls.append(_call(facts, found["request"], found.get("response"), place))
        else:
            raise DataError(
                "PHI3-D091",
                "neither an event of Azure's data collector nor a logged call",
                where=place,
                fix="see docs/monitor.md, what is read",
            )
    for key, (place, event) in requests.items():
        response = responses.get(key, {}).get("data")
        calls.append(_call({"at": event.get("time")}, event.get("data"), response, place))
    return sorted(calls, key=lambda call: call.at)


def _call(facts: Mapping[str, Any], request: Any, response: Any, place: str) -> Call:
    measured, completions = _measured(facts, place), _completions(response)
    return Call(
        at=measured.at if measured.at.tzinfo else measured.at.replace(tzinfo=dt.UTC),
        prompts=tuple(_prompts(request)),
        status=measured.status,
        latency_ms=measured.latency_ms,
        prompt_tokens=_used(completions, "prompt_tokens"),
        completion_tokens=_used(completions, "completion_tokens"),
        refused=any(map(_is_refused, completions)),
    )


def _measured(facts: Mapping[str, Any], place: str) -> _Measured:
    try:
        return _Measured.model_validate(facts)
    except ValidationError as wrong:
        first = wrong.errors()[0]
        raise DataError(
            "PHI3-D095",
            f"{first['loc'][0]} is {first['input']!r}: {first['msg']}",
            where=place,
            fix="see docs/monitor.md, what is read",
        ) from None


def _said(content: Any) -> str:
    """The text of a message, which may come in parts."""
    if isinstance(content, list):
        return "".join(str(part.get("text") or "") for part in _mappings(content))
    return str(content or "")


def _used(completions: Iterable[Mapping[str, Any]], name: str) -> int | None:
    found = [usage.get(name) for one in completions for usage in _mappings([one.get("usage")])]
    known = [count for count in found if isinstance(count, int)]
    return sum(known) if known else None


def _is_refused(completion: Mapping[str, Any]) -> bool:
    """An answer that was held back ends so; a question that was has no choices, only an error."""
    choices = _mappings(completion.get("choices"))
    if not choices:
        return _FILTERED in json.dumps(completion)
    return any(choice.get("finish_reason") == _FILTERED for choice in choices)


def _prompts(request: Any) -> Iterator[str]:
    """What users said last, in any of the shapes that a request or the collector gives it."""
    for row in _rows(_loaded(request)):
        turns = _mappings(_loaded(row.get("messages")))
        said = [turn for turn in turns if turn.get("role") == "user"]
        if said:
            yield _said(said[-1].get("content"))
        texts = row.get("text")
        for text in texts if isinstance(texts, list) else [texts]:
            if isinstance(text, str):
                yield text


def _rows(request: Any) -> list[Mapping[str, Any]]:
    if isinstance(request, list):
        return _mappings(request)
    if not isinstance(request, Mapping):
        return []
    held = next((request[name] for name in _HOLDERS if request.get(name)), None)
    if isinstance(held, Mapping) and "columns" in held:
        columns, data = held["columns"], held.get("data")
        if not (isinstance(columns, list) and isinstance(data, list)):
            return []
        names = [str(name) for name in columns]
        return [dict(zip(names, row, strict=False)) for row in data if isinstance(row, list)]
    if isinstance(held, list):
        return _mappings([{"text": one} if isinstance(one, str) else one for one in held])
    return [held if isinstance(held, Mapping) else request]


def _completions(response: Any) -> list[Mapping[str, Any]]:
    """What came back: one completion, or as many as a request had chats."""
    found = _loaded(response)
    if isinstance(found, Mapping) and "predictions" in found:
        found = found["predictions"]
    return _mappings(found if isinstance(found, list) else [found])


def _mappings(value: Any) -> list[Mapping[str, Any]]:
    """The objects of a list; none where something else was answered."""
    return [one for one in value if isinstance(one, Mapping)] if isinstance(value, list) else []


def _loaded(value: Any) -> Any:
    """JSON within JSON, as pandas frames of the collector hold it."""
    if isinstance(value, str) and value[:1] in "[{":
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


def _parse(text: str, place: str) -> Mapping[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as wrong:
        raise DataError(
            "PHI3-D092", f"not JSON: {wrong}", where=place, fix="remove the line"
        ) from wrong
    return found if isinstance(found, Mapping) else {}
