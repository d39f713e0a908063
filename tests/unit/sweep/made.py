"""Results of sweeps that nobody ran."""

from typing import Any

from mlflow_phi3.sweep.results import SweepResult


def make_result(trials, winner, **facts) -> SweepResult:
    """A sweep of one objective that went to its end, but for ``facts``."""
    plain: dict[str, Any] = {
        "study": "s",
        "stopped_because": "n_trials",
        "accuracy": "token_accuracy",
        "costs": (),
        "front": frozenset(),
    }
    return SweepResult(trials=tuple(trials), winner=winner, **{**plain, **facts})
