"""Where traffic went, when, and what the registry said: kept on the endpoint itself.

A move of traffic and its entry are one PUT, so one cannot happen without the other. Entries are
tags, since tags are the only thing that an endpoint keeps for us; each stays below 256 characters.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace

from mlflow_phi3.deployment.traffic import read, written

_PREFIX = "phi3.ledger."
_KEPT = 6


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
    """

    at: str
    before: Mapping[str, int]
    after: Mapping[str, int]
    model: str = ""
    old_version: str = ""
    new_version: str = ""
    pending: bool = False
    undo: bool = False


def read_ledger(tags: Mapping[str, str]) -> list[Entry]:
    """Return the entries among an endpoint's tags, oldest first."""
    numbers = sorted(int(name.removeprefix(_PREFIX)) for name in tags if name.startswith(_PREFIX))
    return [_from_text(tags[f"{_PREFIX}{number}"]) for number in numbers]


def with_entries(tags: Mapping[str, str], entries: list[Entry]) -> dict[str, str]:
    """Return the tags with these entries (the latest of them) and no others."""
    kept = {name: value for name, value in tags.items() if not name.startswith(_PREFIX)}
    for number, entry in enumerate(entries[-_KEPT:]):
        kept[f"{_PREFIX}{number}"] = _to_text(entry)
    return kept


def settled(entry: Entry) -> Entry:
    """Return the entry of a command that is through."""
    return replace(entry, pending=False)


def _to_text(entry: Entry) -> str:
    content = {
        "at": entry.at,
        "from": written(entry.before),
        "to": written(entry.after),
        "model": entry.model,
        "alias": f"{entry.old_version}>{entry.new_version}" if entry.model else "",
        "pending": "yes" if entry.pending else "",
        "undo": "yes" if entry.undo else "",
    }
    return json.dumps({k: v for k, v in content.items() if v}, separators=(",", ":"))


def _from_text(text: str) -> Entry:
    content = json.loads(text)
    old, _, new = content.get("alias", "").partition(">")
    return Entry(
        at=content["at"],
        before=read(content.get("from", "")),
        after=read(content.get("to", "")),
        model=content.get("model", ""),
        old_version=old,
        new_version=new,
        pending=bool(content.get("pending")),
        undo=bool(content.get("undo")),
    )
