"""The end of the forward pass over a frozen vocabulary: logits in pieces, never whole."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from mlflow_phi3.training.engine.loss import TokenLoss

LOGITS_AT_ONCE = {"cpu": 2**22, "cuda": 2**28}  # numbers; 16 MiB in float32 stay in a CPU's cache


def frozen_head_loss(
    hidden: Tensor, head: Tensor, targets: Tensor, scales: Tensor, loss: TokenLoss | None
) -> tuple[Tensor, Tensor]:
    """Training loss over a frozen head; its gradient is made in the same pass over the logits.

    Args:
        hidden: ``[K, targets, width]``.
        head: ``[vocabulary, width]``.
        targets: int64 ``[targets]``, the same for all rows.
        scales: float32 ``[K]``, what each row's loss is multiplied by.
        loss: Differentiable function of logits and targets; None is the plain negative
            log-likelihood.

    Returns:
        The scaled sum to be differentiated, and each row's unscaled sum ``[K]``.
    """
    total, each = _FrozenHead.apply(hidden, head, targets, scales, loss)  # type: ignore[no-untyped-call]  # torch's apply has no types
    return total, each


@torch.no_grad()
def measure(hidden: Tensor, head: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Negative log-likelihood and whether the target was the most likely, both ``[targets]``."""
    nll, hit = hidden.new_empty(len(targets), dtype=torch.float32), targets.new_empty(len(targets))
    for part in _parts(len(targets), head):
        logits = torch.matmul(hidden[part], head.t()).float()
        wanted = logits.gather(1, targets[part, None])[:, 0]
        nll[part] = torch.logsumexp(logits, -1) - wanted
        hit[part] = logits.argmax(-1) == targets[part]
    return nll, hit


def _parts(count: int, head: Tensor) -> list[slice]:
    size = max(1, LOGITS_AT_ONCE.get(head.device.type, 2**22) // len(head))
    return [slice(start, min(count, start + size)) for start in range(0, count, size)]


def _nll_and_gradient(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Plain negative log-likelihood ``[n]`` and its gradient, which overwrites ``logits``."""
    wanted = targets[:, None]
    chosen = logits.gather(1, wanted)
    top = logits.amax(-1, keepdim=True)
    probs = logits.sub_(top).exp_()
    total = probs.sum(-1, keepdim=True)
    nll = total.log() + top - chosen
    probs.div_(total)
    probs.scatter_add_(1, wanted, probs.new_full((len(targets), 1), -1.0))
    return nll[:, 0], probs


class _FrozenHead(Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        head: Tensor,
        targets: Tensor,
        scales: Tensor,
        loss: TokenLoss | None,
    ) -> tuple[Tensor, Tensor]:
        rows, count, width = hidden.shape
        flat, wanted = hidden.reshape(-1, width), targets.repeat(rows)
        weights = scales.repeat_interleave(count)
        losses, gradient = torch.empty_like(weights), torch.empty_like(flat)
        for part in _parts(len(flat), head):
            logits = torch.matmul(flat[part], head.t()).float()
            if loss is None:
                losses[part], slope = _nll_and_gradient(logits, wanted[part])
            else:
                with torch.enable_grad():
                    value = loss(logits.requires_grad_(), wanted[part])
                    (slope,) = torch.autograd.grad(value.sum(), logits)
                losses[part] = value.detach()
            slope.mul_(weights[part, None])
            gradient[part] = torch.matmul(slope.to(head.dtype), head)
        ctx.save_for_backward(gradient.view_as(hidden))
        each = losses.view(rows, count).sum(1)
        ctx.mark_non_differentiable(each)
        return (losses * weights).sum(), each

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        (to_hidden,) = ctx.saved_tensors
        return to_hidden.mul_(gradient), None, None, None, None
