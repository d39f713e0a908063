"""Samplers by name."""

import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np
from optuna import samplers
from optuna.samplers import BaseSampler

from mlflow_phi3.errors import PreflightError, UsageError
from mlflow_phi3.sweep.options import build_by_name, parse_options

# A quarter of the study explores before TPE begins to model, but no fewer than a model needs.
_LEAST_STARTUP, _MOST_STARTUP = 4, 10


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
    where = "sampler_options"
    given = parse_options(options, where)
    if "seed" in given:
        # One for all trials would propose the same again and again.
        raise UsageError(
            "PHI3-U084",
            "each trial has a sampler with a seed of its own, made of the study's",
            where=where,
            fix=f"seed={given['seed']} as a parameter of the sweep",
        )
    if name == "cmaes" and importlib.util.find_spec("cmaes") is None:
        raise PreflightError(
            "PHI3-P080",
            "CMA-ES needs the package cmaes",
            where="sampler",
            fix="pip install cmaes, or choose sampler=tpe",
        )
    startup = min(_MOST_STARTUP, max(_LEAST_STARTUP, n_trials // 4))
    makes: dict[str, tuple[Callable[..., BaseSampler], dict[str, Any]]] = {
        "tpe": (samplers.TPESampler, {"seed": own, "n_startup_trials": startup}),
        "random": (samplers.RandomSampler, {"seed": own}),
        "grid": (samplers.RandomSampler, {"seed": own}),
        # One sequence for the whole study: each trial takes its next point.
        "qmc": (samplers.QMCSampler, {"seed": seed, "scramble": True}),
        "gp": (samplers.GPSampler, {"seed": own, "n_startup_trials": startup}),
        "cmaes": (samplers.CmaEsSampler, {"seed": own}),
    }
    make, defaults = makes[name]
    sampler: BaseSampler = build_by_name(make, defaults, given, where)
    return sampler
