"""The seam between the loop and what computes gradients."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
from torch import Tensor

from mlflow_phi3.data.messages import Example
from mlflow_phi3.training.engine.adapters import Layout
from mlflow_phi3.training.spec import TrialSpec


@dataclass(slots=True)
class Row:
    """One trial as an engine sees it: the adapter, and what to do with its loss.

    Args:
        spec: The trial.
        layout: Where the adapter's tensors lie in ``weights``.
        weights: float32 ``[layout.size]``.
        gradient: float32 ``[layout.size]``, added to; None when only scoring.
        scale: What the summed loss is multiplied by before the backward pass: one over the loss
            weight of the trial's whole optimizer batch, however many pieces it comes in.
        moment: (step, first example) of this piece; with the seed it fixes the dropout masks.
    """

    spec: TrialSpec
    layout: Layout
    weights: Tensor
    gradient: Tensor | None = None
    scale: float = 1.0
    moment: tuple[int, int] = (0, 0)


@dataclass(frozen=True, slots=True)
class Scores:
    """Losses of some examples under one adapter.

    Args:
        nll: float64 ``[examples]``, summed negative log-likelihood in nats.
        correct: int64 ``[examples]``, targets that were the most likely token (or class).
        tokens: int64 ``[examples]``, targets.
    """

    nll: npt.NDArray[np.float64]
    correct: npt.NDArray[np.int64]
    tokens: npt.NDArray[np.int64]


class Engine(Protocol):
    """Computes losses and gradients of several adapters over one frozen base.

    ``accumulate_gradients`` adds to ``row.gradient`` the gradient of ``row.scale`` times the summed
    loss of the examples, and returns the summed losses. All rows see the same examples. ``score``
    takes None for a row without an adapter. Neither changes the base.
    """

    def accumulate_gradients(self, examples: Sequence[Example], rows: Sequence[Row]) -> list[float]:
        """Summed training loss of ``examples`` for each row; gradients are added to the rows."""
        ...

    def score(self, examples: Sequence[Example], rows: Sequence[Row | None]) -> list[Scores]:
        """Negative log-likelihood and hits of each example for each row."""
        ...

    def close(self) -> None:
        """Leave the base as it was; the next call takes it up again."""
        ...
