"""Samplers by name."""

import importlib.util

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
    given = parse_options(options, "sampler_options")
    if "seed" in given:
        # One for all trials would propose the same again and again.
        raise UsageError(
            "PHI3-U084",
            "each trial has a sampler with a seed of its own, made of the study's",
            where="sampler_options",
            fix=f"seed={given['seed']} as a parameter of the sweep",
        )
    startup = min(_MOST_STARTUP, max(_LEAST_STARTUP, n_trials // 4))
    match name:
        case "tpe":
            defaults = {"seed": own, "n_startup_trials": startup}
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
