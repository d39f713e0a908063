"""Values that a sweep may vary: ``3`` pins, ``1e-5..5e-4`` ranges, ``1,2,4`` chooses.

A field says what its elements are with :class:`Element`::

    epochs: Annotated[Swept, Element(int, least=1)] = Choices((2, 3))
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import GetCoreSchemaHandler
from pydantic_core import core_schema

Scalar = int | float | str | bool

AUTO = "auto"
_RATES = ("1e-4", "1e-5,1e-4,5e-4", "1e-5..5e-4")
_BOOLEANS = {"true": True, "false": False, "yes": True, "no": False, "1": True, "0": False}


@dataclass(frozen=True, slots=True)
class Pin:
    """One value for every trial."""

    value: Scalar

    def __str__(self) -> str:
        return _text(self.value)


@dataclass(frozen=True, slots=True)
class Interval:
    """Everything from ``low`` to ``high``, both included.

    Args:
        low: Least value.
        high: Greatest value, above ``low``.
        log: Whether equal ratios, rather than equal differences, are equally likely.
    """

    low: int | float
    high: int | float
    log: bool = False

    def __str__(self) -> str:
        return f"{_text(self.low)}..{_text(self.high)}"


@dataclass(frozen=True, slots=True)
class Choices:
    """One of at least two different values."""

    values: tuple[Scalar, ...]

    def __str__(self) -> str:
        return ",".join(_text(value) for value in self.values)


@dataclass(frozen=True, slots=True)
class Auto:
    """To be decided from the base model."""

    def __str__(self) -> str:
        return AUTO


Swept = Pin | Interval | Choices | Auto


@dataclass(frozen=True, slots=True)
class Element:
    """What one value of a swept field is: its kind and its bounds.

    Args:
        kind: ``int``, ``float``, ``str`` or ``bool``.
        least: Smallest value allowed.
        above: The value must be greater than this.
        below: The value must be smaller than this.
        words: The words allowed; empty allows any.
        log: Whether a range is searched by ratio.
        auto: Whether ``auto`` is allowed.
    """

    kind: type[int] | type[float] | type[str] | type[bool]
    least: float = -math.inf
    above: float = -math.inf
    below: float = math.inf
    words: tuple[str, ...] = ()
    log: bool = False
    auto: bool = False

    def parse(self, given: Any) -> Swept:
        """Turn text, a scalar, a list (from YAML) or an earlier result into a swept value.

        Raises:
            ValueError: It is not of the kind, out of bounds, reversed or repeated.
        """
        if isinstance(given, Pin | Interval | Choices | Auto):
            return self._check(given)
        if isinstance(given, list | tuple):
            return self._choices([self._one(item) for item in given])
        text = str(given).strip()
        if text == AUTO and self.auto:
            return Auto()
        if ".." in text and self.kind in (int, float):
            return self._interval(text)
        return self._choices([self._one(part.strip()) for part in text.split(",")])

    def syntax(self) -> str:
        """What may be written, with an example of each way: the mend of a value that is none."""
        if self.kind is bool:
            return "write true, false, or true,false to try both"
        if self.kind is str:
            few = ",".join(self.words[:2])
            one_of = f"one of {', '.join(self.words)}" if self.words else "a word"
            return f"write {one_of}, or several with a comma between{f', as in {few}' * bool(few)}"
        if self.kind is float and not self.log:
            return "write a number, some to choose from (a,b,c) or a range (a..b)"
        one, some, span = ("2", "1,2,4", "1..4") if self.kind is int else _RATES
        return f"write a value ({one}), some to choose from ({some}) or a range ({span})"

    def _check(self, value: Swept) -> Swept:
        """Bounds of a value that was made in code or parsed before."""
        match value:
            case Pin(value=one):
                self._one(one)
            case Choices(values=several):
                return self._choices([self._one(one) for one in several])
            case Interval(low=low, high=high):
                self._one(low)
                self._one(high)
            case Auto():
                if not self.auto:
                    raise ValueError(f"{AUTO!r} is not possible here; give a value")
        return value

    def _interval(self, text: str) -> Swept:
        first, _, second = text.partition("..")
        # `1e-5...5e-4` would else be read as 1e-5 to .5e-4.
        if not first.strip() or not second.strip() or second.startswith("."):
            raise ValueError(f"{text!r} is no range")
        low, high = self._number(first.strip()), self._number(second.strip())
        if low > high:
            raise ValueError(f"the range {text!r} is reversed; write {second}..{first}")
        return Pin(low) if low == high else Interval(low, high, log=self.log)

    def _choices(self, values: Sequence[Scalar]) -> Swept:
        if not values:
            raise ValueError("an empty list of choices")
        repeated = [value for value in values if values.count(value) > 1]
        if repeated:
            raise ValueError(f"{_text(repeated[0])} is listed twice")
        return Pin(values[0]) if len(values) == 1 else Choices(tuple(values))

    def _one(self, given: Any) -> Scalar:
        """One element, converted and inside the bounds."""
        if self.kind is bool:
            return _boolean(given)
        if self.kind is str:
            return self._word(str(given))
        return self._number(given)

    def _number(self, given: Any) -> int | float:
        number = self._read_number(given)
        if number < self.least:
            raise ValueError(f"{_text(number)} is less than {_text(self.least)}, the least allowed")
        if number <= self.above:
            raise ValueError(f"{_text(number)} is not greater than {_text(self.above)}")
        if number >= self.below:
            raise ValueError(f"{_text(number)} is not less than {_text(self.below)}")
        return number

    def _read_number(self, given: Any) -> int | float:
        name = "a whole number" if self.kind is int else "a number"
        try:
            number = float(given)
        except (TypeError, ValueError):
            raise ValueError(f"{given!r} is not {name}") from None
        if isinstance(given, bool) or not math.isfinite(number):
            raise ValueError(f"{given!r} is not {name}")
        if self.kind is float:
            return number
        if not number.is_integer():
            raise ValueError(f"{given!r} is not {name}")
        return int(number)

    def _word(self, word: str) -> str:
        if not word:
            raise ValueError("an empty word")
        if self.words and word not in self.words:
            raise ValueError(f"{word!r} is not one of {', '.join(self.words)}")
        return word

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(
            self.parse, serialization=core_schema.to_string_ser_schema()
        )


def values_of(swept: Swept) -> tuple[Scalar, ...] | None:
    """Every value that can occur, or None where they cannot be counted (a range of reals, auto)."""
    match swept:
        case Pin(value=one):
            return (one,)
        case Choices(values=several):
            return several
        case Interval(low=int() as low, high=int() as high):
            return tuple(range(low, high + 1))
    return None


def _boolean(given: Any) -> bool:
    found = _BOOLEANS.get(str(given).lower())
    if found is None:
        raise ValueError(f"{given!r} is neither true nor false")
    return found


def _text(value: Scalar) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    short = f"{value:g}" if isinstance(value, float) else ""
    return short if short and float(short) == value else str(value)
