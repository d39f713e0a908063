"""How text becomes a schema: ``--name value`` pairs, refused before anything runs."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from pydantic import ValidationError
from rapidfuzz import fuzz, process

from mlflow_phi3.config.base import Config
from mlflow_phi3.errors import UsageError

SchemaT = TypeVar("SchemaT", bound=Config)


def parse_arguments(schema: type[SchemaT], arguments: Sequence[str]) -> SchemaT:
    """Turn ``["--epochs", "3", "--model=demo"]`` into a ``schema``.

    An empty value stands for the default, so that an ``MLproject`` file can pass every parameter.

    Raises:
        UsageError: A name that is not known (with the nearest known one), twice the same name, no
            value, or a value of the wrong kind.
    """
    values: dict[str, str] = {}
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        name, equals, value = word.removeprefix("--").partition("=")
        name = name.replace("-", "_")
        if not word.startswith("--") or not name:
            raise UsageError(
                "PHI3-U001",
                f"{word!r} is not a parameter",
                fix="write --name value, or -P name=value for mlflow run",
            )
        if not equals:
            if not rest or rest[0].startswith("--"):
                raise UsageError("PHI3-U002", "no value", where=name, fix=f"--{name} <value>")
            value = rest.pop(0)
        if name in values:
            raise UsageError("PHI3-U003", "given twice", where=name, fix="give it once")
        values[name] = value
    return parse_values(schema, values)


def parse_values(schema: type[SchemaT], values: Mapping[str, Any]) -> SchemaT:
    """Turn names and values into a ``schema``; empty text stands for the default.

    Raises:
        UsageError: As :func:`parse_arguments`.
    """
    for name in values:
        if name not in schema.model_fields:
            raise _unknown(name, schema)
    given = {name: value for name, value in values.items() if value != ""}
    try:
        return schema.model_validate(given)
    except ValidationError as error:
        raise _refused(error, given) from error


def narrow(config: Config, schema: type[SchemaT]) -> SchemaT:
    """The part of ``config`` that ``schema`` knows: how ``main`` hands its parameters down."""
    return schema.model_validate({name: getattr(config, name) for name in schema.model_fields})


def nearest(name: str, known: Sequence[str]) -> str | None:
    """The known name that ``name`` was probably meant to be, or None when none is near."""
    found = process.extractOne(name, known, scorer=fuzz.WRatio, score_cutoff=60)
    return str(found[0]) if found else None


def _unknown(name: str, schema: type[Config]) -> UsageError:
    guess = nearest(name, list(schema.model_fields))
    return UsageError(
        "PHI3-U004",
        "unknown parameter",
        where=name,
        fix=f"did you mean {guess!r}?" if guess else f"one of {', '.join(schema.model_fields)}",
    )


def _refused(error: ValidationError, given: Mapping[str, Any]) -> UsageError:
    """The first fault as ours, with the count of the others."""
    faults = error.errors(include_url=False, include_context=False)
    first = faults[0]
    where = str(first["loc"][0]) if first["loc"] else ""
    value = f"{given[where]!r}: " if where in given else ""
    more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    message = first["msg"].removeprefix("Value error, ")
    return UsageError(
        "PHI3-U005",
        f"{value}{message[:1].lower()}{message[1:]}{more}",
        where=where,
        fix="see the parameter's description in docs/parameters.md",
    )
