"""The seam between the loop and what computes gradients."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt
from torch import Tensor

from mlflow_phi3.data.messages import Example
from mlflow_phi3.errors import UsageError
from mlflow_phi3.modeling.base import Base
from mlflow_phi3.modeling.quantization import FourBit, frozen_weight
from mlflow_phi3.training.adapters import Layout, find_linear
from mlflow_phi3.training.spec import TrialSpec

logger = logging.getLogger(__name__)

EngineName = Literal["auto", "fused", "reference"]


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


EngineKind = Literal["fused", "reference"]


def choose_engine(base: Base, wanted: EngineName, spec: TrialSpec) -> EngineKind:
    """The fastest engine that knows ``base`` and ``spec``; a log line says why it is the slow one.

    Raises:
        UsageError: ``fused`` was demanded and cannot be had.
    """
    if wanted == "reference":
        return "reference"
    obstacle = find_obstacle(base, spec)
    if not obstacle:
        return "fused"
    if wanted == "fused":
        raise UsageError(
            "PHI3-U063", f"the fused engine: {obstacle}", where="engine", fix="use engine=auto"
        )
    logger.warning("training with the reference engine, which is slower: %s", obstacle)
    return "reference"


def find_obstacle(base: Base, spec: TrialSpec) -> str:
    """Why the fused engine cannot train ``spec`` on ``base``; empty when it can."""
    model, config = base.model, base.model.config
    kind = type(model).__name__
    dropout = ("resid_pdrop", "embd_pdrop", "attention_dropout")
    if kind not in {"Phi3ForCausalLM", "Phi3ForSequenceClassification"}:
        return f"the architecture {kind} is not Phi-3's"
    if spec.lora.dora:
        return "dora"
    if config.hidden_act != "silu" or any(getattr(config, name, 0) for name in dropout):
        return "the base has another activation than silu, or dropout of its own"
    weights = [frozen_weight(layer) for layer in find_linear(model).values()]
    if not all(isinstance(w, FourBit) or w.is_floating_point() for w in weights):
        return "the base is quantised by another than bitsandbytes in four bits"
    return ""


def make_engine(base: Base, kind: EngineKind) -> Engine:
    """Build an engine over ``base``."""
    from mlflow_phi3.training.fused import FusedEngine  # both need Row from here
    from mlflow_phi3.training.reference import ReferenceEngine

    return FusedEngine(base) if kind == "fused" else ReferenceEngine(base)
