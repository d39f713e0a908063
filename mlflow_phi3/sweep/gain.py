"""How much a study may still gain: when that is little, a further trial is not worth its cost."""

import warnings
from collections.abc import Sequence

from optuna.exceptions import ExperimentalWarning
from optuna.study import StudyDirection
from optuna.terminator import RegretBoundEvaluator
from optuna.trial import FrozenTrial

# Below this the model is little more than its prior.
LEAST_TRIALS = 10


def bound_gain(trials: Sequence[FrozenTrial]) -> float:
    """How far, at the very most, the lowest loss may still fall; in the loss's own unit.

    A Gaussian process over the better half of the complete trials: the lowest lower confidence
    bound in the space against the lowest upper one among the trials, so that the answer holds with
    high probability. What falls below the noise of the validation data is not worth a trial.

    Source: Makarova et al., Automatic Termination for Hyperparameter Optimization, AutoML 2022, as
    Optuna computes it. Of ``optuna.terminator`` only this evaluator is used: what wraps it is on
    its way out of Optuna.

    Args:
        trials: Complete ones, of one objective that is minimised.

    Returns:
        Infinity while there are too few trials to say.
    """
    if len(trials) < LEAST_TRIALS:
        return float("inf")
    with warnings.catch_warnings():
        # That Optuna calls it experimental is for its documentation, not for every round.
        warnings.simplefilter("ignore", ExperimentalWarning)
        # A seed of its own: asking again about the same trials gives the same answer.
        evaluator = RegretBoundEvaluator(seed=0)
    return float(evaluator.evaluate(list(trials), StudyDirection.MINIMIZE))
