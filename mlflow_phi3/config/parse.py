"""How text becomes a schema: ``--name value`` pairs, refused before anything runs."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails
from rapidfuzz import fuzz, process

from mlflow_phi3.config.base import Config
from mlflow_phi3.config.describe import words_of
from mlflow_phi3.config.swept import Element
from mlflow_phi3.errors import UsageError

SchemaT = TypeVar("SchemaT", bound=Config)

# What transformers, PEFT, TRL and Azure call a parameter of ours, where the spelling is no help.
_NAMES_ELSEWHERE = {
    "dataset": "train_data",
    "gradient_accumulation_steps": "batch_size_multiplier",
    "lr_scheduler_type": "scheduler",
    "max_seq_length": "max_length",
    "optim": "optimizer",
    "per_device_train_batch_size": "per_device_batch_size",
    "r": "lora_r",
    "rank": "lora_r",
}
# Below it are pairs that share a few letters: rapidfuzz gives `max_steps` and `epochs` 60.
_NEAR = 65


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
        raise _refused(error, given, schema) from error


def narrow(config: Config, schema: type[SchemaT]) -> SchemaT:
    """The part of ``config`` that ``schema`` knows."""
    return schema.model_validate({name: getattr(config, name) for name in schema.model_fields})


def nearest(name: str, known: Sequence[str], *, least: float = _NEAR) -> str | None:
    """The known name that ``name`` was probably meant to be, or None when none is near.

    Args:
        name: As it was written.
        known: The names that there are.
        least: Likeness, up to 100, from which on one is near.
    """
    found = process.extractOne(
        name, known, scorer=fuzz.WRatio, processor=str.casefold, score_cutoff=least
    )
    return str(found[0]) if found else None


def suggest(name: str, known: Sequence[str], otherwise: str = "") -> str:
    """The mend for a name that is not known.

    Args:
        name: As it was written.
        known: The names that there are.
        otherwise: What to do when none of them is near; by default they are all named.
    """
    guess = nearest(name, known)
    if guess:
        return f"did you mean {guess!r}?"
    return otherwise or f"one of {', '.join(known)}"


def first_fault(error: ValidationError) -> tuple[str, str]:
    """Where a schema's first fault is, with dots between (empty for the whole), and what it is."""
    fault = error.errors(include_url=False, include_context=False)[0]
    return ".".join(str(part) for part in fault["loc"]), _message(fault)


def _unknown(name: str, schema: type[Config]) -> UsageError:
    known = _NAMES_ELSEWHERE.get(name, name)
    meant = known if known in schema.model_fields else name
    fix = suggest(meant, list(schema.model_fields))
    return UsageError("PHI3-U004", "unknown parameter", where=name, fix=fix)


def _refused(error: ValidationError, given: Mapping[str, Any], schema: type[Config]) -> UsageError:
    """The first fault as ours, with the mend; the others behind it."""
    first, *others = error.errors(include_url=False, include_context=False)
    problem = _problem(first, given)
    if others:
        told = (f"{_place(fault)}: {_problem(fault, given)}".lstrip(": ") for fault in others)
        problem = f"{problem} (also {'; '.join(told)})"
    where = _place(first)
    return UsageError("PHI3-U005", problem, where=where, fix=_mend(where, given, schema))


def _place(fault: ErrorDetails) -> str:
    return str(fault["loc"][0]) if fault["loc"] else ""


def _problem(fault: ErrorDetails, given: Mapping[str, Any]) -> str:
    """What is wrong, with the value once."""
    message = _message(fault)
    name = _place(fault)
    value = repr(given[name]) if name in given else ""
    return message if not value or value in message else f"{value}: {message}"


def _message(fault: ErrorDetails) -> str:
    message = fault["msg"].removeprefix("Value error, ")
    return f"{message[:1].lower()}{message[1:]}"


def _mend(name: str, given: Mapping[str, Any], schema: type[Config]) -> str:
    """What can be written instead."""
    field = schema.model_fields.get(name)
    elsewhere = f"see {schema.described_in}"
    if field is None:
        return elsewhere
    words = words_of(field)
    element = next((found for found in field.metadata if isinstance(found, Element)), None)
    otherwise = element.syntax() if element else "" if words else elsewhere
    known = words or (element.words if element else ())
    return suggest(str(given.get(name, "")), known, otherwise)
