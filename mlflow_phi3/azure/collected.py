"""What the data collector of a managed deployment wrote: JSON lines in the project's storage.

Source: "Collect production data from models deployed for real-time inferencing" (2025-12):
``modelDataCollector/<endpoint>/<deployment>/<collection>/yyyy/MM/dd/HH/<instance>.jsonl``.
"""

import datetime as dt
import re
from collections.abc import Iterator
from contextlib import closing

from mlflow_phi3.azure.blobs import open_container
from mlflow_phi3.azure.client import Workspace
from mlflow_phi3.data.jsonl import numbered_lines

_ROOT = "modelDataCollector"
_HOUR = re.compile(r"/(\d{4})/(\d{2})/(\d{2})(?:/(\d{2}))?/")


def read_collected(
    workspace: Workspace, endpoint: str, deployment: str, start: dt.datetime
) -> Iterator[tuple[str, str]]:
    """Yield place and text of the lines that were written since an hour.

    Args:
        workspace: The open project.
        endpoint: A managed endpoint.
        deployment: Only this one of it; empty takes all.
        start: Files of earlier hours are left alone.

    Raises:
        AzureError: The storage refuses or does not answer.
    """
    prefix = f"{_ROOT}/{endpoint}/{deployment}/" if deployment else f"{_ROOT}/{endpoint}/"
    with (
        workspace.session(f"data collected of {endpoint}") as ml,
        closing(open_container(ml)) as container,
    ):
        for blob in container.list_blobs(name_starts_with=prefix):
            if _end(blob.name) > start:
                text = container.download_blob(blob.name).readall().decode("utf-8")
                yield from numbered_lines(text, blob.name)


def _end(name: str) -> dt.datetime:
    """The end of the hour or day that a file is of."""
    found = _HOUR.search(name)
    if found is None:
        return dt.datetime.max.replace(tzinfo=dt.UTC)
    year, month, day, hour = (int(part or 0) for part in found.groups())
    length = dt.timedelta(hours=1) if found[4] else dt.timedelta(days=1)
    return dt.datetime(year, month, day, hour, tzinfo=dt.UTC) + length
