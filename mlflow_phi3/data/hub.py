"""What a source is by its name, and which are looked for on the hub; imports nothing large."""

import re
from pathlib import Path

WEIGHT = re.compile(r":(\d+(?:\.\d+)?)$")
"""What may follow a source: ``rows.jsonl:0.5``."""

_HUB_ID = re.compile(r"[\w.-]+(?:/[\w.-]+)?")
_FILES = {".arrow", ".csv", ".json", ".jsonl", ".ndjson", ".parquet", ".tsv", ".txt", ".gz", ".zip"}


def is_hub_id(name: str) -> bool:
    """Whether ``name`` can only be meant as a dataset of the hub.

    A dot alone makes no file of it: there is ``teknium/OpenHermes-2.5``. A name of one part has no
    dot on the hub.

    Args:
        name: A source without its weight, as ``train_data`` names it.
    """
    path = Path(name)
    if not _HUB_ID.fullmatch(name) or path.suffix.lower() in _FILES or path.exists():
        return False
    return "/" in name or not path.suffix
