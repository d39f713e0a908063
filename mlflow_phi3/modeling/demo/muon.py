"""Muon: momentum whose update is made orthogonal, for the matrices inside the layers.

With the few million tokens of the demo it is meant to need fewer steps than AdamW. PyTorch's own
computes in bfloat16, which most CPUs only emulate.
"""

from collections.abc import Iterable

import torch

__all__ = ["Muon"]

# Source: K. Jordan, "Muon: An optimizer for hidden layers in neural networks", 2024: the
# coefficients of the quintic iteration.
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, then Newton-Schulz orthogonalisation, in float32 outside autocast."""

    def __init__(
        self,
        matrices: Iterable[torch.Tensor],
        *,
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
    ) -> None:
        """Keep the matrices and the rates.

        Args:
            matrices: Parameters with two dimensions.
            lr: Learning rate; an update has a spectral norm of about `lr`.
            momentum: Share of the old gradients, in [0, 1).
            weight_decay: Decoupled decay, times `lr`.
        """
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
        super().__init__(list(matrices), defaults)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # torch also takes a closure
        """Update every matrix that has a gradient.

        Args:
            closure: Not supported.
        """
        del closure
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                momentum = state.setdefault("momentum", torch.zeros_like(weight))
                momentum.lerp_(weight.grad, 1 - group["momentum"])
                update = _orthogonalise(weight.grad.lerp(momentum, group["momentum"]))
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.add_(
                    update, alpha=-group["lr"] * max(1.0, weight.shape[0] / weight.shape[1]) ** 0.5
                )


def _orthogonalise(matrix: torch.Tensor) -> torch.Tensor:
    a, b, c = _COEFFICIENTS
    tall = matrix.shape[0] > matrix.shape[1]
    x: torch.Tensor = matrix.T if tall else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(_ITERATIONS):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if tall else x
