"""Optimizers by name, over the views of one trial's flat weights."""

from collections.abc import Callable, Iterable
from importlib.util import find_spec

import torch
from torch import Tensor
from torch.optim import SGD, Adafactor, AdamW, Optimizer

from mlflow_phi3.config.plugins import find_named
from mlflow_phi3.errors import UsageError
from mlflow_phi3.training.spec import TrialSpec

Make = Callable[[Iterable[Tensor], float, float], Optimizer]
"""``(parameters, learning rate, weight decay) -> Optimizer``."""


def make_adamw(parameters: Iterable[Tensor], rate: float, decay: float) -> Optimizer:
    """AdamW (arXiv:1711.05101) with Hugging Face's defaults, in one kernel."""
    return AdamW(parameters, lr=rate, weight_decay=decay, betas=(0.9, 0.999), eps=1e-8, fused=True)


def make_adafactor(parameters: Iterable[Tensor], rate: float, decay: float) -> Optimizer:
    """Adafactor (arXiv:1804.04235), whose state is a row and a column of each matrix."""
    return Adafactor(parameters, lr=rate, weight_decay=decay)


def make_sgd(parameters: Iterable[Tensor], rate: float, decay: float) -> Optimizer:
    """Plain gradient descent with momentum 0.9."""
    return SGD(parameters, lr=rate, weight_decay=decay, momentum=0.9)


def make_adamw_8bit(parameters: Iterable[Tensor], rate: float, decay: float) -> Optimizer:
    """AdamW with its moments in 8 bits (arXiv:2110.02861), for matrices of 4,096 weights and more.

    Raises:
        UsageError: bitsandbytes is missing.
    """
    check_installed("adamw_8bit")
    from bitsandbytes.optim import AdamW8bit  # optional

    made: Optimizer = AdamW8bit(parameters, lr=rate, weight_decay=decay)
    return made


BUILT_IN: dict[str, Make] = {
    "adamw": make_adamw,
    "adafactor": make_adafactor,
    "sgd": make_sgd,
    "adamw_8bit": make_adamw_8bit,
}


def check_installed(name: str) -> None:
    """Refuse an optimizer of ours whose package is missing.

    Raises:
        UsageError: bitsandbytes is missing.
    """
    if name == "adamw_8bit" and find_spec("bitsandbytes") is None:
        raise UsageError(
            "PHI3-U068",
            "adamw_8bit needs bitsandbytes",
            where="optimizer",
            fix="pip install 'mlflow-phi3[quantization]', or take optimizer=adamw",
        )


def find_optimizer(name: str) -> Make:
    """Find what makes optimizer ``name``; other packages add some: ``mlflow_phi3.optimizers``.

    Raises:
        UsageError: No optimizer has that name.
    """
    group = "mlflow_phi3.optimizers"
    return find_named(name, BUILT_IN, group=group, where="optimizer", code="PHI3-U061")


def make_optimizer(spec: TrialSpec, parameters: Iterable[Tensor]) -> Optimizer:
    """The optimizer of ``spec`` over ``parameters``; see :func:`find_optimizer`."""
    return find_optimizer(spec.optimizer)(parameters, spec.learning_rate, spec.weight_decay)


def clip_gradient(gradient: Tensor, limit: float) -> float:
    """Scale ``gradient`` (flat, float32) in place to norm ``limit``; 0 leaves it. Its norm before.

    Source: ``torch.nn.utils.clip_grad_norm_``, whose 1e-6 is kept so that both agree.
    """
    norm = float(torch.linalg.vector_norm(gradient))
    if limit and norm > limit:
        gradient.mul_(limit / (norm + 1e-6))
    return norm
