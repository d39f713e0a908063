"""Parameters as a person reads them: what every help and the reference page are made of."""

import textwrap
from dataclasses import dataclass
from typing import get_args

from pydantic.fields import FieldInfo

from mlflow_phi3.config.base import Config

_INDENT = " " * 6


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter as a person reads it.

    Args:
        name: What is written before the ``=``.
        default: Its default, as text; empty when there is none.
        meaning: Its documentation, on one line.
    """

    name: str
    default: str
    meaning: str


def parameters(schema: type[Config]) -> list[Parameter]:
    """The parameters of a schema, in order."""
    return [
        Parameter(name, _text(field.get_default(call_default_factory=True)), _meaning(field))
        for name, field in schema.model_fields.items()
    ]


def words_of(field: FieldInfo) -> list[str]:
    """The words that a parameter may be; none when it is no choice."""
    return [word for word in get_args(field.annotation) if isinstance(word, str)]


def wrapped(meaning: str, width: int) -> str:
    """A parameter's meaning below its name, in lines of at most ``width`` letters."""
    return textwrap.fill(
        meaning,
        width,
        initial_indent=_INDENT,
        subsequent_indent=_INDENT,
        break_long_words=False,
        break_on_hyphens=False,
    )


def listed(schema: type[Config], width: int) -> str:
    """Every parameter of a schema, its default and, below, its meaning."""
    lines = []
    for parameter in parameters(schema):
        default = f" (default {parameter.default})" if parameter.default else ""
        lines += [f"  {parameter.name}{default}", wrapped(parameter.meaning, width)]
    return "\n".join(lines) + "\n"


def _meaning(field: FieldInfo) -> str:
    """Its documentation, with the words that it may be where that does not name them all."""
    meaning = " ".join((field.description or "").split())
    words = words_of(field)
    if all(f"`{word}`" in meaning for word in words):
        return meaning
    return f"{meaning} One of {', '.join(f'`{word}`' for word in words)}."


def _text(default: object) -> str:
    if default is None:
        return ""
    return str(default).lower() if isinstance(default, bool) else str(default)
