"""What a parameter names: one of ours, or one that an installed package brings."""

from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any, TypeVar

from mlflow_phi3.errors import UsageError

T = TypeVar("T")
Fits = Callable[[object], bool]


def find_named(
    name: str,
    built_in: Mapping[str, T],
    *,
    group: str,
    where: str,
    code: str,
    fits: Fits = callable,
) -> T:
    """Find what ``name`` stands for.

    Args:
        name: As the person gave it.
        built_in: Ours by their names.
        group: Entry point group through which other packages add names.
        where: The parameter that names it, which says what it is.
        code: Of the error.
        fits: Whether what a package brings can be used.

    Raises:
        UsageError: Nothing has that name, or what has it cannot be loaded or used.
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
    found: T = load_entry(others[name], code, fits=fits)
    return found


def load_entry(entry: EntryPoint, code: str, *, fits: Fits = callable) -> Any:
    """What an entry point names.

    Args:
        entry: Of an installed package.
        code: Of the error.
        fits: Whether what it names can be used.

    Raises:
        UsageError: It cannot be loaded, or not be used.
    """
    try:
        found = entry.load()
    except Exception as error:  # a module that is imported may raise anything
        told = f"cannot be loaded: {type(error).__name__}: {error}"
        raise broken_entry(entry, code, told) from error
    if not fits(found):
        raise broken_entry(entry, code, f"is {type(found).__name__}, which cannot be used there")
    return found


def broken_entry(entry: EntryPoint, code: str, told: str) -> UsageError:
    """The error for an entry point of which nothing can be made."""
    return UsageError(
        code,
        told,
        where=f"entry point {entry.name} = {entry.value} of {entry.group}",
        fix="mend or uninstall the package that brings it",
    )
