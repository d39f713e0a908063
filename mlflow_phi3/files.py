"""What several rooms do with files and folders."""

import os
import shutil
from pathlib import Path


def link_or_copy(source: str, target: str) -> None:
    """Give a file a second name; copy it where no link can be made (another disk, one without).

    Only for files that are replaced and never written again, as weights are.
    """
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def folder_bytes(folder: Path) -> int:
    """Size of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
