"""Where traffic went, when, and what the registry said: kept on the endpoint itself.

A move of traffic and its entry are one PUT, so one cannot happen without the other. Entries are
tags, since tags are the only thing that an endpoint keeps for us; a long one goes on in a second.
A deployment's name alone does not say what is to come back: blue/green uses its slots again. So an
entry also holds a mark of the model that each deployment ran.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from mlflow_phi3.azure.online import TAG_LENGTH, Deployment
from mlflow_phi3.deployment.traffic import from_text, to_text

_PREFIX = "phi3.ledger."
_KEPT = 6
_MARK_LENGTH = 8
"""Characters of a mark: enough to tell the few models of an endpoint apart."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One move.

    Args:
        at: When, ISO 8601 in UTC.
        before: Traffic before.
        after: Traffic after.
        model: Registered model whose alias moved; empty when none did.
        old_version: The champion before; empty when there was none.
        new_version: The champion after.
        pending: The command is not through yet, or was killed before it was.
        undo: It took an earlier move back.
        held: Mark of the model of each deployment in ``before``; empty in the entries of versions
            of this package that kept none.
    """

    at: str
    before: Mapping[str, int]
    after: Mapping[str, int]
    model: str = ""
    old_version: str = ""
    new_version: str = ""
    pending: bool = False
    undo: bool = False
    held: Mapping[str, str] = field(default_factory=dict)


def marks_of(traffic: Mapping[str, int], deployments: Iterable[Deployment]) -> dict[str, str]:
    """Return a mark of the model of each deployment that gets traffic."""
    return {d.name: _mark(d.model) for d in deployments if traffic.get(d.name)}


def find_lost(entry: Entry, deployments: Iterable[Deployment]) -> list[str]:
    """Return which deployments had traffic before a move and are not there as they were then."""
    there = {d.name: _mark(d.model) for d in deployments}
    return [n for n in entry.before if n not in there or entry.held.get(n, there[n]) != there[n]]


def read_ledger(tags: Mapping[str, str]) -> list[Entry]:
    """Return the entries among an endpoint's tags, oldest first."""
    texts: dict[int, str] = {}
    for name in sorted(name for name in tags if name.startswith(_PREFIX)):
        number = int(name.removeprefix(_PREFIX).partition(".")[0])
        texts[number] = texts.get(number, "") + tags[name]
    return [_from_text(texts[number]) for number in sorted(texts)]


def with_entries(tags: Mapping[str, str], entries: list[Entry]) -> dict[str, str]:
    """Return the tags with these entries (the latest of them) and no others."""
    kept = {name: value for name, value in tags.items() if not name.startswith(_PREFIX)}
    for number, entry in enumerate(entries[-_KEPT:]):
        text = _to_text(entry)
        for begin in range(0, len(text), TAG_LENGTH):
            part = f".{begin // TAG_LENGTH}" if begin else ""
            kept[f"{_PREFIX}{number}{part}"] = text[begin : begin + TAG_LENGTH]
    return kept


def _to_text(entry: Entry) -> str:
    content = {
        "at": entry.at,
        "from": to_text(entry.before),
        "to": to_text(entry.after),
        "model": entry.model,
        "alias": f"{entry.old_version}>{entry.new_version}" if entry.model else "",
        "pending": "yes" if entry.pending else "",
        "undo": "yes" if entry.undo else "",
        "held": ",".join(f"{name}={mark}" for name, mark in sorted(entry.held.items())),
    }
    return json.dumps({k: v for k, v in content.items() if v}, separators=(",", ":"))


def _from_text(text: str) -> Entry:
    content = json.loads(text)
    old, _, new = content.get("alias", "").partition(">")
    return Entry(
        at=content["at"],
        before=from_text(content.get("from", "")),
        after=from_text(content.get("to", "")),
        model=content.get("model", ""),
        old_version=old,
        new_version=new,
        pending=bool(content.get("pending")),
        undo=bool(content.get("undo")),
        held=dict(part.split("=", 1) for part in content.get("held", "").split(",") if part),
    )


def _mark(model: str) -> str:
    return hashlib.sha256(model.encode()).hexdigest()[:_MARK_LENGTH]
