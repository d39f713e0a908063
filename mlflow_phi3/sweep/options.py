"""Optuna's samplers and pruners made from options as a person writes them."""

import functools
import inspect
import operator
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import yaml
from optuna.exceptions import ExperimentalWarning
from pydantic import TypeAdapter, ValidationError

from mlflow_phi3.errors import UsageError

# What a text can give; an option that takes a function or an object is none of ours.
_TYPES = {"bool": bool, "int": int, "float": float, "str": str, "None": type(None)}
# Optuna looks at these when it first needs them, which is after the trials of the start-up.
_LEAST = {"max_resource": 1, "n_ei_candidates": 1, "n_startup_trials": 0, "prior_weight": 0}


def parse_options(text: str, where: str) -> dict[str, Any]:
    """``a=1,b=true`` as a mapping of typed values.

    Args:
        text: As the person gave it.
        where: The parameter, for messages.

    Raises:
        UsageError: A part that is not ``name=value``, or twice the same name.
    """
    found: dict[str, Any] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, value = part.partition("=")
        name = name.strip()
        if not equals or not name:
            problem = f"{part!r} is not name=value"
            raise UsageError("PHI3-U083", problem, where=where, fix="write a=1,b=true")
        if name in found:
            raise UsageError("PHI3-U083", f"{name} is given twice", where=where, fix="give it once")
        try:
            found[name] = yaml.safe_load(value)
        except yaml.YAMLError:  # it only looks like YAML: whoever takes it will judge it
            found[name] = value.strip()
    return found


def build_by_name(
    make: Callable[..., Any], defaults: Mapping[str, Any], given: Mapping[str, Any], where: str
) -> Any:
    """Call one of Optuna's classes, refusing options and values that it does not take."""
    known = _find_options(make)
    options = dict(defaults)
    for name, value in given.items():
        if name not in known:
            raise UsageError(
                "PHI3-U084",
                f"{getattr(make, '__name__', make)} has no option {name!r}",
                where=where,
                fix=f"one of {', '.join(known)}" if known else "leave it out: it has none",
            )
        try:
            options[name] = TypeAdapter(known[name]).validate_python(value)
        except ValidationError as error:
            raise UsageError(
                "PHI3-U085",
                f"{name}={value}: {error.errors()[0]['msg']}",
                where=where,
                fix="see Optuna's pages",
            ) from None
        least = _LEAST.get(name)
        if least is not None and not isinstance(options[name], str) and options[name] < least:
            raise UsageError(
                "PHI3-U085",
                f"{name}={value} is less than {least}, the least allowed",
                where=where,
                fix="see Optuna's pages",
            )
    with warnings.catch_warnings():
        # That Optuna calls it experimental, or will drop it, is for its documentation and not for
        # every trial.
        warnings.simplefilter("ignore", ExperimentalWarning)
        warnings.simplefilter("ignore", FutureWarning)
        try:
            return make(**options)
        except (TypeError, ValueError) as error:
            raise UsageError(
                "PHI3-U085", str(error), where=where, fix="see Optuna's pages"
            ) from None


def _find_options(make: Callable[..., Any]) -> dict[str, Any]:
    """The options that a text can give, with their types, which Optuna does not check itself.

    A seed is not among them: it is made of the study's.
    """
    found: dict[str, Any] = {}
    for name, parameter in inspect.signature(make).parameters.items():
        kind = parameter.annotation
        words = (kind if isinstance(kind, str) else inspect.formatannotation(kind)).split(" | ")
        if name != "seed" and set(words) <= _TYPES.keys():
            found[name] = functools.reduce(operator.or_, (_TYPES[word] for word in words))
    return found
