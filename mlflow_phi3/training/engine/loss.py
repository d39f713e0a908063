"""Losses by name: differentiable functions from logits and targets to one loss a row."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from mlflow_phi3.config.plugins import find_named
from mlflow_phi3.training.spec import TrialSpec

TokenLoss = Callable[..., Tensor]
"""``(logits [n, classes] float32, targets [n], *, label_smoothing, class_weights) -> [n]``."""


def cross_entropy(
    logits: Tensor, targets: Tensor, *, label_smoothing: float = 0.0, class_weights: Tensor | None
) -> Tensor:
    """Negative log-likelihood of the target, with PyTorch's label smoothing and class weights."""
    return functional.cross_entropy(
        logits, targets, weight=class_weights, reduction="none", label_smoothing=label_smoothing
    )


def focal(
    logits: Tensor, targets: Tensor, *, label_smoothing: float = 0.0, class_weights: Tensor | None
) -> Tensor:
    """Cross-entropy that looks away from what is already easy (arXiv:1708.02002, gamma 2)."""
    plain = cross_entropy(logits, targets, label_smoothing=0.0, class_weights=None)
    shaped = cross_entropy(
        logits, targets, label_smoothing=label_smoothing, class_weights=class_weights
    )
    return (1.0 - torch.exp(-plain)).square() * shaped


BUILT_IN: dict[str, TokenLoss] = {"cross_entropy": cross_entropy, "focal": focal}


def find_loss(name: str) -> TokenLoss:
    """Find loss ``name``; other packages add names through ``mlflow_phi3.losses``.

    Raises:
        UsageError: No loss has that name.
    """
    group = "mlflow_phi3.losses"
    return find_named(name, BUILT_IN, group=group, where="loss", code="PHI3-U060")


def get_loss(spec: TrialSpec, device: torch.device) -> TokenLoss:
    """The loss of ``spec`` as ``(logits, targets) -> [n]``; see :func:`find_loss`."""
    weights = torch.tensor(spec.class_weights, device=device) if spec.class_weights else None
    found = find_loss(spec.loss)
    return partial(found, label_smoothing=spec.label_smoothing, class_weights=weights)


def is_plain(spec: TrialSpec) -> bool:
    """Whether the loss is the bare negative log-likelihood, whose gradient has a short form."""
    return spec.loss == "cross_entropy" and not spec.label_smoothing and not spec.class_weights
