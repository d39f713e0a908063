"""Real data and Microsoft's published types, which lie beside some checkouts and not in them."""

from pathlib import Path

import pytest

_BESIDE = Path(__file__).parents[2] / "shared"


def find_shared(name):
    """The folder ``name`` of them; without it, whatever asks is skipped and says so."""
    folder = _BESIDE / name
    if not folder.is_dir():
        pytest.skip(f"no folder shared/{name} beside the checkout")
    return folder
