"""What ``train_data`` and its kin name: files, folders, hub datasets, the demo."""

import re
from dataclasses import dataclass
from pathlib import Path

from mlflow_phi3.data.sample import sample_path
from mlflow_phi3.errors import DataError

DEMO = "demo"
_WEIGHT = re.compile(r":(\d+(?:\.\d+)?)$")


@dataclass(frozen=True, slots=True)
class Source:
    """One named source.

    Args:
        path: Where it lies.
        name: As errors and reports cite it.
        split: The split it was given for: ``train``, ``validation`` or ``test``.
        weight: How often each row is shown; below 1, the share of rows that are.
    """

    path: Path
    name: str
    split: str
    weight: float = 1.0


def parse_sources(text: str, split: str) -> list[Source]:
    """Sources out of a parameter's text: names with a comma between, each with ``:weight`` or not.

    Args:
        text: The parameter's value.
        split: The split it is for.

    Raises:
        DataError: A file is not there.
    """
    sources = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        weight = _WEIGHT.search(part)
        named = part[: weight.start()] if weight else part
        path = sample_path() if named == DEMO else Path(named).expanduser()
        if not path.exists():
            raise DataError(
                "PHI3-D030",
                f"there is no file or folder {named!r}",
                where=f"{split}_data",
                fix="give a path relative to the working directory, or an absolute one",
            )
        sources.append(Source(path, path.name, split, float(weight[1]) if weight else 1.0))
    return sources
