"""What the resource manager itself does with every request and resource, whosever they are."""

import datetime as dt
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlencode

from mlflow_phi3.emulator.router import Call, Refusal, Reply
from mlflow_phi3.emulator.store import Resource

PAGE = 50
"""Items of a page of a list; how many there are is the service's to choose."""
_SKIP = "$skip"
_VERSION = re.compile(r"\d{4}-\d{2}-\d{2}(-[a-z]+)?", re.IGNORECASE)
_MOST_TAGS, _TAG_NAME, _TAG_VALUE = 50, 512, 256
_NOT_IN_NAMES = frozenset("<>%&\\?/")
"""Source: "Use tags to organize your Azure resources: limitations" (2025-12)."""


def check_request(call: Call) -> None:
    """Refuse what no provider is asked about.

    Raises:
        Refusal: 400: no api-version, a body that is no object, or tags that cannot be.
    """
    if not call.path.lower().startswith("/subscriptions/"):
        return
    version = call.query.get("api-version", "")
    if not version:
        text = "The api-version query parameter (?api-version=) is required for all requests."
        raise Refusal(400, "MissingApiVersionParameter", text)
    if not _VERSION.fullmatch(version):
        text = f"The api-version '{version}' is invalid."
        raise Refusal(400, "InvalidApiVersionParameter", text)
    if call.method in {"PUT", "PATCH"}:
        if not isinstance(call.body, Mapping):
            raise _invalid("a JSON object is required")
        _check_tags(call.body.get("tags") or {})


def paged(call: Call, reply: Reply) -> Reply:
    """Return the page of a list that is asked for, with the address of the next one."""
    rows = reply.body.get("value") if isinstance(reply.body, dict) else None
    if call.method != "GET" or not isinstance(rows, list):
        return reply
    skip = call.query.get(_SKIP, "0")
    begin = int(skip) if skip.isdigit() else 0
    end = begin + PAGE
    body = {**reply.body, "value": rows[begin:end]}
    if end < len(rows):
        query = urlencode({**call.query, _SKIP: end}, safe="$")
        body["nextLink"] = f"{call.origin}{quote(call.path)}?{query}"
    return Reply(body, reply.status, reply.headers)


def envelope(resource_id: str, kind: str, properties: dict[str, Any]) -> Resource:
    """Return what the resource manager puts around every resource."""
    present = now()
    who = {"createdBy": "emulator", "createdByType": "Application"}
    return {
        "id": resource_id,
        "name": resource_id.rsplit("/", 1)[1],
        "type": kind,
        "properties": properties,
        "systemData": {**who, "createdAt": present, "lastModifiedAt": present},
    }


def now() -> str:
    """Return the present as the service writes it."""
    return stamp(dt.datetime.now(dt.UTC))


def stamp(at: dt.datetime) -> str:
    """Return a moment in UTC as the service writes it."""
    return at.isoformat().replace("+00:00", "Z")


def _check_tags(tags: Any) -> None:
    if not isinstance(tags, Mapping) or not all(isinstance(v, str) for v in tags.values()):
        raise _invalid("tags are texts by name")
    if len(tags) > _MOST_TAGS:
        text = f"A resource can have {_MOST_TAGS} tags at most, not {len(tags)}."
        raise Refusal(400, "InvalidTagCount", text)
    for name, value in tags.items():
        if len(name) > _TAG_NAME or _NOT_IN_NAMES & set(name):
            text = f"The tag name '{name}' is too long or has one of <, >, %, &, \\, ?, /."
            raise Refusal(400, "InvalidTagNameCharacters", text)
        if len(value) > _TAG_VALUE:
            text = (
                f"Tag value too large. Following tag value '{value}' exceeded the maximum length. "
                f"Maximum allowed length for tag value - '{_TAG_VALUE}' characters."
            )
            raise Refusal(400, "InvalidTagValueLength", text)


def _invalid(why: str) -> Refusal:
    text = f"The request content was invalid and could not be deserialized: {why}."
    return Refusal(400, "InvalidRequestContent", text)
