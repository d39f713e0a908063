"""Samplers by name."""

import functools
import importlib.util
import inspect
import operator
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import yaml
from optuna import samplers
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler
from pydantic import TypeAdapter, ValidationError

from mlflow_phi3.errors import PreflightError, UsageError

# A quarter of the study explores before TPE begins to model, but no fewer than a model needs.
_LEAST_STARTUP, _MOST_STARTUP = 4, 10
# What a text can give; an option that takes a function or an object is none of ours.
_TYPES = {"bool": bool, "int": int, "float": float, "str": str, "None": type(None)}


def build_sampler(name: str, options: str, *, seed: int, number: int, n_trials: int) -> BaseSampler:
    """The sampler that proposes trial ``number``.

    A sampler is made anew for each trial, with a seed of its own, so that what it proposes depends
    on the study alone and not on how often the sweep was interrupted.

    Args:
        name: As ``sampler`` of :class:`mlflow_phi3.config.sweep.SweepConfig`; ``grid`` gives the
            sampler for what the grid leaves open, which is nothing.
        options: ``name=value`` pairs of Optuna's own, joined by commas.
        seed: Of the study.
        number: Of the trial.
        n_trials: Trials of the study in total.

    Raises:
        UsageError: An option that the sampler does not know, or a value that it does not take.
        PreflightError: The sampler's library is not installed.
    """
    own = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
    given = parse_options(options)
    startup = min(_MOST_STARTUP, max(_LEAST_STARTUP, n_trials // 4))
    match name:
        case "tpe":
            defaults = {"seed": own, "n_startup_trials": startup, "constant_liar": True}
            return build_by_name(samplers.TPESampler, defaults, given, "sampler_options")
        case "qmc":
            # One sequence for the whole study: each trial takes its next point.
            defaults = {"seed": seed, "scramble": True}
            return build_by_name(samplers.QMCSampler, defaults, given, "sampler_options")
        case "gp":
            defaults = {"seed": own, "n_startup_trials": startup}
            return build_by_name(samplers.GPSampler, defaults, given, "sampler_options")
        case "cmaes":
            if importlib.util.find_spec("cmaes") is None:
                raise PreflightError(
                    "PHI3-P080",
                    "CMA-ES needs the package cmaes",
                    where="sampler",
                    fix="pip install cmaes, or choose sampler=tpe",
                )
            return build_by_name(samplers.CmaEsSampler, {"seed": own}, given, "sampler_options")
        case _:
            return build_by_name(samplers.RandomSampler, {"seed": own}, given, "sampler_options")


def parse_options(text: str) -> dict[str, Any]:
    """``a=1,b=true`` as a mapping of typed values.

    Raises:
        UsageError: A part without ``=``.
    """
    found: dict[str, Any] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, value = part.partition("=")
        if not equals:
            raise UsageError("PHI3-U083", f"{part!r} is not name=value", fix="write a=1,b=true")
        found[name.strip()] = yaml.safe_load(value)
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
                fix=f"one of {', '.join(known)}",
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
    with warnings.catch_warnings():
        # That Optuna calls it experimental is for its documentation, not for every run.
        warnings.simplefilter("ignore", ExperimentalWarning)
        try:
            return make(**options)
        except (TypeError, ValueError) as error:
            raise UsageError(
                "PHI3-U085", str(error), where=where, fix="see Optuna's pages"
            ) from None


def _find_options(make: Callable[..., Any]) -> dict[str, Any]:
    """The options that a text can give, with their types, which Optuna does not check itself."""
    found: dict[str, Any] = {}
    for name, parameter in inspect.signature(make).parameters.items():
        kind = parameter.annotation
        words = (kind if isinstance(kind, str) else inspect.formatannotation(kind)).split(" | ")
        if set(words) <= _TYPES.keys():
            found[name] = functools.reduce(operator.or_, (_TYPES[word] for word in words))
    return found
