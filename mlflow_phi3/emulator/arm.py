"""What the resource manager itself does with every request and resource, whosever they are."""

import datetime as dt
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlencode

from mlflow_phi3.emulator.router import Call, Handler, Refusal, Reply
from mlflow_phi3.emulator.store import Resource, Store

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
    body = call.body
    if not isinstance(body, Mapping) or not isinstance(body.get("properties") or {}, Mapping):
        raise _invalid("a JSON object is required")
    _check_tags(body.get("tags") or {})


def paged(call: Call, reply: Reply) -> Reply:
    """Return the page of a list that is asked for, with the address of the next one."""
    rows = reply.body.get("value") if isinstance(reply.body, dict) else None
    if not isinstance(rows, list):
        return reply
    skip = call.query.get(_SKIP, "0")
    begin = int(skip) if skip.isdigit() else 0
    end = begin + PAGE
    body = {**reply.body, "value": rows[begin:end]}
    if end < len(rows):
        query = urlencode({**call.query, _SKIP: end}, safe="$")
        body["nextLink"] = f"{call.origin}{quote(call.path)}?{query}"
    return Reply(body, reply.status, reply.headers)


def show(store: Store, *missing: str) -> Handler:
    """Return who shows one resource; ``missing`` as :meth:`.Store.need` takes it."""
    return lambda call: Reply(store.need(call.id, *missing))


def show_all(store: Store, kind: str, *, newest_first: bool = False) -> Handler:
    """Return who lists the resources of a kind beneath the one that the path leads through."""

    def listed(call: Call) -> Reply:
        parent = call.id.rsplit("/", 1)[0]
        store.need(parent)
        return Reply({"value": store.beneath(parent, kind)[:: -1 if newest_first else 1]})

    return listed


def envelope(
    resource_id: str, properties: dict[str, Any], known: Resource | None = None
) -> Resource:
    """Return what the resource manager puts around every resource.

    Args:
        resource_id: Tells its name and type too.
        properties: The provider's part.
        known: The resource as it was, where it is changed; how it was spelt stays.
    """
    resource_id = known["id"] if known else resource_id
    namespace, *words = resource_id.rpartition("/providers/")[2].split("/")
    present = now()
    made = {"createdBy": "emulator", "createdByType": "Application", "createdAt": present}
    return {
        "id": resource_id,
        "name": resource_id.rsplit("/", 1)[1],
        "type": "/".join([namespace, *words[::2]]),
        "properties": properties,
        "systemData": {**(known["systemData"] if known else made), "lastModifiedAt": present},
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
