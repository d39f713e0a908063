"""What a parameter names: one of ours, or one that an installed package brings."""

from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import TypeVar

from mlflow_phi3.errors import UsageError

T = TypeVar("T")


def find_named(name: str, built_in: Mapping[str, T], *, group: str, where: str, code: str) -> T:
    """Find what ``name`` stands for.

    Args:
        name: As the person gave it.
        built_in: Ours by their names.
        group: Entry point group through which other packages add names.
        where: The parameter that names it, which says what it is.
        code: Of the error.

    Raises:
        UsageError: Nothing has that name, or what has it cannot be loaded.
    """
    if name in built_in:
        return built_in[name]
    others = {entry.name: entry for entry in entry_points(group=group)}
    if name not in others:
        raise UsageError(
            code,
            f"no {where} named {name!r}",
            where=where,
            fix=f"choose one of {', '.join(sorted({*built_in, *others}))}",
        )
    try:
        found: T = others[name].load()
    except (ImportError, AttributeError) as error:
        raise UsageError(
            code,
            f"{name!r} cannot be loaded: {error}",
            where=where,
            fix="mend or uninstall the package that brings it",
        ) from error
    return found
