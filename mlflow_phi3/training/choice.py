"""Which engine trains a trial."""

import logging
from typing import Literal

from mlflow_phi3.errors import UsageError
from mlflow_phi3.modeling.base import Base
from mlflow_phi3.modeling.quantization import FourBit, frozen_weight
from mlflow_phi3.training.engine.adapters import find_linear
from mlflow_phi3.training.engine.fused import FusedEngine
from mlflow_phi3.training.engine.interface import Engine
from mlflow_phi3.training.reference import ReferenceEngine
from mlflow_phi3.training.spec import TrialSpec

logger = logging.getLogger(__name__)

EngineName = Literal["auto", "fused", "reference"]
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
    return FusedEngine(base) if kind == "fused" else ReferenceEngine(base)
